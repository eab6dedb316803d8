"""The lines of a demo that was never run: its real campaign, and requests that all took as long."""

from __future__ import annotations

from typing import Any

from loadtests.addresses import Addresses, Endpoints
from loadtests.analysis.cell import summarise
from loadtests.campaign.demo import demo_campaign
from loadtests.campaign.plan import Plan, plan_of
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.targets import targets_of
from loadtests.cell_spec import STACKS, CellSpec
from loadtests.replies import ServedBy
from tests.unit.loadtests.builders import SERVERS
from tests.unit.loadtests.campaign.worlds import rows_of

VARIANTS = {"torchscript": "torchserve", "savedmodel": "tfserving"}


def demo_plan(*models: str) -> Plan:
    """The demo's plan."""
    campaign = campaign_of(demo_campaign(models, seconds=3, users=4, stacks=STACKS), "demo")
    found = targets_of(campaign, dict.fromkeys(models, VARIANTS), Addresses(), SERVERS, endpoints=Endpoints())
    return plan_of(campaign, {model: [target for target, _ in pairs] for model, pairs in found.items()})


def demo_lines(model: str = "toy") -> list[dict[str, Any]]:
    """A line for each cell of a demo with one model, the control's last."""
    cells = sorted(demo_plan(model).cells, key=lambda cell: (bool(cell.control), cell.target.stack != "torchserve"))
    return [_line(cell) for cell in cells]


def _line(cell: CellSpec) -> dict[str, Any]:
    target = cell.target
    # Through the gateway an answer names its endpoint; where the gateway chose, it is the stack's usual one.
    usual = {"torchserve": "ts", "tfserving": "tf"}[target.stack]
    origin = ServedBy(target.pins.get("x-endpoint", usual) if target.path == "gateway" else "", target.stack)
    health = {"workers": [{"cpu_max": 0.4}]}
    return summarise(cell, rows_of(cell, origin=origin), health, None, None, tier="demo")
