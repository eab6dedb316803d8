"""The null cell: a server that answers at once, asked before all others. It shows what generator and machine add."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from loadtests.campaign.seams import RunCell
from loadtests.cell_spec import CellSpec, Load, Step, Target
from loadtests.store.stored import NULL_SLUG, StoredRun

RATE, SECONDS, WARM_UP_S = 300.0, 2.0, 0.3
# With its server's start, once in a campaign.
NULL_S = SECONDS + WARM_UP_S + 0.5


def null_cell(address: str, seed: int) -> CellSpec:
    """The cell; its target has no golden answers, so a reply counts by its status."""
    target = Target("a server that answers at once", "predict", address, NULL_SLUG, parity=False)
    load = Load("server", "poisson", (Step(RATE, SECONDS),), warm_up_seconds=WARM_UP_S, warm_up_requests=1)
    return CellSpec(NULL_SLUG, target, NULL_SLUG, load, campaign_seed=seed)


def measure_null(run: Path, run_cell: RunCell, artifacts: Path, seed: int, stop: threading.Event) -> None:
    """Leaves the cell's record in the run's folder `null`; raises LoadTestError. A resumed run keeps the one it has."""
    from loadtests.engine.null_server import null_server  # noqa: PLC0415 - only for a run

    folder = StoredRun(run).null
    if (folder / "health.json").exists():
        return
    with null_server() as address:
        run_cell(
            null_cell(address, seed),
            artifacts=artifacts,
            raw=folder,
            health=folder / "health.json",
            log=folder / "log",
            stop=stop,
        )
    if stop.is_set():
        shutil.rmtree(folder)
