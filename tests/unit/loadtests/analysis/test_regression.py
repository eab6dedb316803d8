"""One run against another, a model's history, and a user's own SQL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from loadtests.analysis.history import history
from loadtests.analysis.regression import NOTHING_SLOWER, REFUSED, SLOWER, UNDECIDED, compare_runs
from loadtests.analysis.sql import sql
from loadtests.errors import LoadTestError
from loadtests.store import StoredRun
from loadtests.store.stored import write_lines
from tests.unit.loadtests.synthetic import Law, plan, server_load, target, write_run

TARGETS = [target("ts")]
LOAD = server_load(30, 60)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A, the same again, one whose server is slower, and one on other CPUs."""
    root = tmp_path_factory.mktemp("runs")
    for seed, (name, law, ledger) in enumerate(
        [
            ("A", Law(), {}),
            ("same", Law(), {}),
            ("slower", Law(median_ms=2.0, base_ms=2.0), {}),
            ("unlike", Law(), {"ts": {"torchserve.cpus": "0-7"}}),
        ]
    ):
        write_run(root / name, plan([("s", LOAD)], TARGETS, rounds=8, seed=seed), {"ts": law}, ledger=ledger)
    return root


def test_a_slower_run_is_found_out_by_the_exit_code(runs: Path) -> None:
    """1 where something is slower, 0 the other way round."""
    found = compare_runs(runs / "A", runs / "slower")
    assert (found.title, found.exit_code) == ("slower against A", SLOWER)
    assert found.changes[0].verdict is not None
    assert found.changes[0].verdict.ratio.value == pytest.approx(1.9, rel=0.2)
    assert compare_runs(runs / "slower", runs / "A").exit_code == NOTHING_SLOWER
    assert json.loads(json.dumps(found.to_json()))["exit_code"] == SLOWER


def test_the_same_again_is_never_called_slower(runs: Path) -> None:
    """Another seed, the same law."""
    found = compare_runs(runs / "A", runs / "same")
    assert found.exit_code in (NOTHING_SLOWER, UNDECIDED)


def test_unlike_runs_are_refused_and_compared_on_request_under_a_title_that_says_so(runs: Path) -> None:
    """Exit code 2 and the difference; with the request the title names it."""
    found = compare_runs(runs / "A", runs / "unlike")
    assert (found.exit_code, found.refused) == (REFUSED, ("simplenn/ts: server.cpus: 0-1 against 0-7",))
    assert found.changes[0].verdict is None
    allowed = compare_runs(runs / "A", runs / "unlike", allow_unlike=True)
    assert allowed.title.startswith("unlike against A, UNLIKE SET-UPS COMPARED (simplenn/ts: server.cpus")
    assert allowed.exit_code != REFUSED


def test_another_load_under_the_same_name_is_refused(runs: Path, tmp_path: Path) -> None:
    """Rate, duration and objective; on request the title names them."""
    write_run(tmp_path / "B", plan([("s", server_load(20, 70))], TARGETS, rounds=1, slo_ms=20.0), {"ts": Law()})
    found = compare_runs(runs / "A", tmp_path / "B")
    assert (found.exit_code, found.changes[0].why) == (REFUSED, "the set-ups are unlike")
    assert found.refused == (
        "s: slo_ms: 50.0 against 20.0",
        "s: duration: 60 s against 70 s",
        "s: rates: 30/s for 60 s against 20/s for 70 s",
    )
    allowed = compare_runs(runs / "A", tmp_path / "B", allow_unlike=True)
    assert "UNLIKE SET-UPS COMPARED (s: slo_ms: 50.0 against 20.0" in allowed.title


def test_a_run_on_another_processor_is_refused(runs: Path, tmp_path: Path) -> None:
    """Its model and how many cores."""
    shutil.copytree(runs / "A", tmp_path / "B")
    manifest = json.loads((tmp_path / "B" / "manifest.json").read_text())
    manifest["environment"] |= {"cpu_model": "Another", "cores": 64}
    (tmp_path / "B" / "manifest.json").write_text(json.dumps(manifest))
    refused = compare_runs(runs / "A", tmp_path / "B").refused
    assert refused == ("processor: An imaginary CPU against Another", "cores: 8 against 64")


def test_what_is_left_of_many_rounds_is_a_selection(runs: Path, tmp_path: Path) -> None:
    """Eight valid rounds of twelve, a control that is missing, and a server that fails give no verdict."""
    for name, change in (("B", {}), ("C", {}), ("D", {"outcomes": {"ok": 90, "http_5xx": 10}})):
        shutil.copytree(runs / "slower", tmp_path / name)
        file = StoredRun(tmp_path / name).cells_file
        lines = [{**line, **change} for line in StoredRun(tmp_path / name).cells()]
        if name == "B":
            lines += [{**line, "round": 8 + line["round"], "valid": False} for line in lines if line["round"] < 4]
        if name == "C":
            lines = [line for line in lines if not line["control"]]
        write_lines(file, lines)
    found = [compare_runs(runs / "A", tmp_path / name).changes[0] for name in "BCD"]
    assert [change.verdict for change in found] == [None] * 3
    assert found[0].why == "run B: 4 of 12 rounds are invalid"
    assert found[1].why.startswith("no A/A control with 5 valid rounds")
    assert found[2].why.startswith("run B: ts gave no right answer to 10 % of a round's requests")


def test_runs_without_anything_in_common_are_said_so(runs: Path, tmp_path: Path) -> None:
    """Another model, and a folder that is no run."""
    own = [target("ts", model="other")]
    write_run(tmp_path / "B", plan([("s", server_load(20, 5))], own, rounds=1), {"ts": Law()})
    with pytest.raises(LoadTestError, match="in common"):
        compare_runs(runs / "A", tmp_path / "B")
    with pytest.raises(LoadTestError, match="not a run"):
        compare_runs(runs / "A", tmp_path / "nothing")


def test_a_quick_run_gives_no_verdict(tmp_path: Path) -> None:
    """And an exit code that says that nothing was decided."""
    for name in ("A", "B"):
        write_run(tmp_path / name, plan([("s", server_load(30, 5))], TARGETS, rounds=6), {"ts": Law()}, tier="quick")
    found = compare_runs(tmp_path / "A", tmp_path / "B")
    assert (found.exit_code, found.changes[0].why) == (UNDECIDED, "a quick look gives figures, no verdict")


def test_history_lists_a_model_s_figures_over_runs(runs: Path) -> None:
    """One row a run and target, controls left out; an unknown model is answered with those there are."""
    found = history(runs, "simplenn")
    assert [(row[1], row[3], row[5]) for row in found.rows] == [
        (name, "ts", 8) for name in ("A", "same", "slower", "unlike")
    ]
    with pytest.raises(LoadTestError, match="never measured; measured were: simplenn"):
        history(runs, "it's none")
    with pytest.raises(LoadTestError, match="no run in"):
        history(runs / "A", "simplenn")


def test_a_user_s_own_sql_spans_all_runs(runs: Path) -> None:
    """Every request of every run."""
    assert sql(runs, "SELECT count(DISTINCT run) FROM requests").rows == ((4,),)
