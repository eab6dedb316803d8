"""Cells that the engine's tests send."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadtests.cell_spec import CellSpec, Load, Step, Target


def cell(**load: Any) -> CellSpec:
    """A cell of one second at 100 requests/s against nobody; `load` replaces parts of its load."""
    base = Load("server", "poisson", (Step(100, 1),), warm_up_seconds=0.5, warm_up_requests=0)
    target = Target("toy", "predict", "127.0.0.1:1", "toy", parity=False)
    return CellSpec("toy-cell", target, "s", replace(base, **load), campaign_seed=7, scenario_index=2, round=3)
