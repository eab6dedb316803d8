"""A run goes on only as the experiment that it began as."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.campaign import session
from loadtests.campaign.folder import RunFolder
from loadtests.campaign.options import Options
from loadtests.campaign.plan import plan_of
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.sameness import differences
from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from tests.unit.loadtests.builders import write_toy
from tests.unit.loadtests.campaign.worlds import FakeEngine, campaign_text, target, toy_server

CELLS = plan_of(campaign_of(campaign_text("x:1"), "c"), {"toy": [target(server="Toy 1")]}).cells
ENTRY = {"server": "Toy 1", "like": {"golden_answers": "abc", "server.cpus": "0-3"}}


def _with(cell: CellSpec, **target_facts: Any) -> CellSpec:
    return replace(cell, target=replace(cell.target, **target_facts))


def test_the_same_experiment_may_be_at_other_addresses() -> None:
    """Servers that the campaign starts itself take free ports."""
    moved = [_with(cell, address="127.0.0.1:9") for cell in CELLS]
    assert differences((CELLS, moved), ({"toy/toy": ENTRY}, {"toy/toy": ENTRY})) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (CELLS[:-1], "the cells of the plan are others"),
        (CELLS[::-1], "the cells of the plan are others"),
        ([_with(cell, server="Toy 2") for cell in CELLS], "target server was Toy 1, is Toy 2"),
        ([_with(cell, stack="torchserve") for cell in CELLS], "target stack was none, is torchserve"),
        ([replace(cell, slo_ms=9.0) for cell in CELLS], "slo_ms was none, is 9.0"),
        ([replace(cell, load=replace(cell.load, workers=2)) for cell in CELLS], "load workers was 1, is 2"),
    ],
)
def test_another_plan_is_told_with_what_differs(changed: list[CellSpec], words: str) -> None:
    """Slugs alone may be the same while the load, the objective or the server is another one."""
    assert words in " ".join(differences((CELLS, changed), ({}, {})))


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (ENTRY | {"server": "Toy 2"}, "toy/toy: the server was Toy 1, is Toy 2"),
        (ENTRY | {"like": {"golden_answers": "def", "server.cpus": "0-3"}}, "toy/toy: golden_answers: abc against def"),
        (ENTRY | {"like": {"golden_answers": "abc", "server.cpus": "0"}}, "toy/toy: server.cpus: 0-3 against 0"),
    ],
)
def test_other_servers_are_told_by_the_ledger(now: dict[str, Any], words: str) -> None:
    """Weights, processors, settings and versions."""
    assert differences((CELLS, CELLS), ({"toy/toy": ENTRY}, {"toy/toy": now})) == [words]


def test_a_run_whose_ledger_is_another_does_not_go_on(tmp_path: Path) -> None:
    """Nothing is measured, what was measured stays, and the error says what to do."""
    artifacts = write_toy(tmp_path / "artifacts")
    options = Options(artifacts, tmp_path / "runs", ("twinserve",), tmp_path / "lock")
    engine = FakeEngine()

    def fail(spec: CellSpec) -> None:
        if spec.round == 1:
            raise LoadTestError("the generator did not start")

    with toy_server() as address:
        engine.before = fail
        with pytest.raises(LoadTestError, match="did not start"):
            session.run(campaign_text(address), "c", "c", options, Console(quiet=True), engine.seams())
        folder = RunFolder(next(options.runs.iterdir()))
        ledger = json.loads((folder.path / "ledger.json").read_text())
        ledger["targets"]["toy/a"]["like"]["config"] = "tuned"
        (folder.path / "ledger.json").write_text(json.dumps(ledger))
        again = FakeEngine()
        with pytest.raises(
            LoadTestError, match=r"something else(.|\n)*config: tuned against default(.|\n)*begin a new"
        ):
            session.resume(folder.id, options, Console(quiet=True), again.seams())
    assert (again.measured, len(folder.cells())) == ([], 2)
