"""Runs one cell: Locust in a process of its own, bounded in time, its log kept."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from loadtests.cells import Cell
from loadtests.errors import LoadTestError
from loadtests.golden import load_golden
from loadtests.options import USER_CLASS
from loadtests.processes import run_bounded, tail
from loadtests.results import CellResult

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# Beyond the measured time: Locust's start on a busy machine, and its end.
_START_ALLOWANCE_S = 30.0


def run_cell(
    cell: Cell,
    *,
    artifacts: Path,
    users: int,
    seconds: float,
    out_dir: Path,
    warm_up: float = 1.0,
    rows: int = 1,
    request_timeout: float = 10.0,
) -> CellResult:
    """Measures a cell: `users` users in a closed loop, `warm_up` seconds that do not count, then `seconds` that do.

    Writes `<slug>.json` (samples), `<slug>.cell.json` and `<slug>.log` into `out_dir`. Blocks for about
    `warm_up + seconds` and two seconds more; never longer than those, `request_timeout` and half a minute. Raises
    LoadTestError where Locust itself fails; a failed request only counts.
    """
    load_golden(artifacts, cell.model).questions(rows)
    out_dir.mkdir(parents=True, exist_ok=True)
    cell_file, samples, log = (out_dir / f"{cell.slug}{suffix}" for suffix in (".cell.json", ".json", ".log"))
    cell_file.write_text(json.dumps(cell.to_json(), indent=2), "utf-8")
    samples.unlink(missing_ok=True)
    bound = warm_up + seconds + request_timeout
    command = [
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE.resolve()), USER_CLASS[cell.wire]),
        *("--headless", "--only-summary", "--users", str(users), "--spawn-rate", str(users)),
        # The locustfile ends the run to the tick; these two only bound it. A straggler is awaited, not cut off.
        *("--run-time", f"{math.ceil(bound)}s", "--stop-timeout", str(math.ceil(request_timeout + 1))),
        *("--cell", str(cell_file.resolve()), "--samples", str(samples.resolve())),
        *("--artifacts", str(artifacts.resolve()), "--rows", str(rows)),
        *("--warm-up", str(warm_up), "--measure", str(seconds), "--request-timeout", str(request_timeout)),
    ]
    code = run_bounded(command, log, cwd=out_dir, timeout=bound + request_timeout + _START_ALLOWANCE_S)
    if code is None:
        raise LoadTestError(
            f"{cell.label}: Locust did not end in time and was stopped; its log is {log}\n{tail(log)}\n"
            "Is the machine out of CPU or memory? Try fewer users."
        )
    if code != 0 or not samples.exists():
        raise LoadTestError(
            f"{cell.label}: Locust failed with exit code {code}; its log is {log}\n{tail(log)}\n"
            "The last lines name the reason. If a module is missing, run `make setup`."
        )
    result = CellResult.load(samples)
    if result.requests == 0:
        raise LoadTestError(
            f"{cell.label}: no request was sent in {seconds:g} s; Locust's log is {log}\n{tail(log)}\n"
            "Is the machine out of CPU? Try more seconds or fewer users."
        )
    return result
