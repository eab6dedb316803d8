"""`make bench-gateway`: the gateway's speed on this machine, all rows in one run. `--rows 5,7` runs some of them."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from serving.processes import LaunchError
from serving.settings import LaunchSettings
from tests.benchmarks.gateway import grpc_row, load, own_rows, proxying, servers, table, torchserve_rows
from tests.benchmarks.gateway.bench import Bench

Row = Callable[[Bench], list[table.Result]]
ROWS: dict[int, Row] = {
    1: torchserve_rows.against_default,
    2: torchserve_rows.against_best,
    3: torchserve_rows.one_connection,
    4: torchserve_rows.large_tensor,
    5: proxying.plain,
    6: proxying.batched,
    7: grpc_row.per_core,
    8: own_rows.workers,
    9: own_rows.many_models,
    10: own_rows.memory,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows and prints the table; 0 where every row could be measured, met or not."""
    options = _options(arguments)
    if missing := load.missing_tools():
        print(
            f"bench-gateway needs {' and '.join(missing)}, from Debian or Ubuntu: "
            "`sudo apt-get install wrk nginx-light`",
            file=sys.stderr,
        )
        return 1
    settings = LaunchSettings()
    folder = settings.artifacts.resolve() / "bench-gateway"
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        folder=folder,
        models_dir=settings.models_dir,
        rounds=options.rounds or (3 if options.quick else 5),
        seconds=options.seconds or (2 if options.quick else 6),
        warm_up=1 if options.quick else 3,
        soak_requests=options.soak or (50_000 if options.quick else 1_000_000),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if (busy := psutil.getloadavg()[0]) > 0.25 * (psutil.cpu_count() or 1):
        bench.report(f"Other programs keep this machine busy (load average {busy:.1f}): times will spread widely.")
    results: list[table.Result] = []
    failed = False
    for number in options.rows:
        begin = time.monotonic()
        bench.report(f"row {number}")
        try:
            found = ROWS[number](bench)
        except (LaunchError, load.LoadError) as exc:
            bench.report(f"    row {number} could not be measured: {exc}")
            failed = True
            continue
        results += found
        for result in found:
            bench.report(f"  {result.summary}")
        bench.report(f"    took {time.monotonic() - begin:.0f} s")
        table.write(folder, results, _about(bench))
    table.tell(folder, results, _about(bench))
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway", description=__doc__)
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help="numbers of rows, such as 5,7 (default: all)")
    parser.add_argument("--quick", action="store_true", help="few short rounds, to iterate; not for publishing")
    parser.add_argument("--rounds", type=int, help="interleaved rounds a row (default: 5; quick: 3)")
    parser.add_argument("--seconds", type=float, help="seconds a side and round (default: 6; quick: 2)")
    parser.add_argument("--soak", type=int, help="requests of row 10 (default: 1000000; quick: 50000)")
    return parser.parse_args(arguments)


def _rows(text: str) -> list[int]:
    try:
        rows = [int(part) for part in text.split(",")]
    except ValueError:
        rows = [0]
    if not all(row in ROWS for row in rows):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(map(str, ROWS))}, separated by commas")
    return rows


def _about(bench: Bench) -> dict[str, str]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        "load average at the end": f"{psutil.getloadavg()[0]:.1f}",
        "rounds": f"{bench.rounds} interleaved, {bench.seconds:g} s each side",
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "httptools", "grpcio", "torchserve")),
                servers.envoy_version(),
                servers.nginx_version(),
                load.wrk_version(),
            ]
        ),
    }


def processor() -> str:
    """What this machine's processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
