"""`make bench-faults`: how soon and how well the gateway meets trouble. `--rows drain,overload` runs some of it."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import psutil
import uvloop

from serving.settings import LaunchSettings
from tests.benchmarks.faults.rows import ROWS
from tests.benchmarks.faults.world import Rounds
from tests.benchmarks.gateway import table
from tests.benchmarks.gateway.__main__ import processor


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows and prints the table; 0 where every row could be measured, met or not."""
    options = _options(arguments)
    rounds = Rounds(
        rounds=options.rounds or (2 if options.quick else 5),
        seconds=2.0 if options.quick else 5.0,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if (busy := psutil.getloadavg()[0]) > 0.25 * (psutil.cpu_count() or 1):
        rounds.report(f"Other programs keep this machine busy (load average {busy:.1f}): times will be too long.")
    results: list[table.Result] = []
    failed = False
    for name in options.rows:
        rounds.report(name)
        try:
            found = uvloop.run(ROWS[name](rounds))
        except (TimeoutError, ValueError, asyncio.CancelledError) as exc:
            rounds.report(f"    {name} could not be measured: {exc!r}")
            failed = True
            continue
        results += found
        for result in found:
            rounds.report(f"  {result.summary}")
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        "load average at the end": f"{psutil.getloadavg()[0]:.1f}",
        "rounds": f"{rounds.rounds}, {rounds.seconds:g} s each",
        "servers": "scripted ones, in the process of the load generator",
    }
    folder = LaunchSettings().artifacts.resolve() / "bench-faults"
    folder.mkdir(parents=True, exist_ok=True)
    table.write(folder, results, about)
    table.tell(folder, results, about)
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.faults", description=__doc__)
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help="names of rows, such as drain,overload")
    parser.add_argument("--quick", action="store_true", help="few short rounds, to iterate; not for publishing")
    parser.add_argument("--rounds", type=int, help="rounds of each row (default: 5; quick: 2)")
    return parser.parse_args(arguments)


def _rows(text: str) -> list[str]:
    rows = text.split(",")
    if not set(rows) <= set(ROWS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(ROWS)}, separated by commas")
    return rows


if __name__ == "__main__":
    sys.exit(main())
