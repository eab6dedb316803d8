"""What a report takes for measured: finished cells with a whole record, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from loadtests.campaign_report.data import read_campaign
from loadtests.campaign_report.tables import parity_of, resources_of
from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from loadtests.store import StoredRun
from tests.unit.loadtests.synthetic import Law, plan, rows_of, server_load, target, write_run, write_stream

CELLS = plan([("s", server_load(100, 60, warm_up_seconds=30, warm_up_requests=1000))], [target("ts")], rounds=1)
DONE, OTHER = CELLS


def _changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _stream_of(run: Path, spec: CellSpec, until: float = 1e9, cut: int = 0) -> None:
    """Its record as far as `until` seconds, without the last `cut` bytes."""
    path = run / "raw" / "0" / f"{spec.slug}.0.arrow"
    rows = rows_of(spec, Law())
    write_stream(path, rows.filter(pc.less(rows["t_int"], until)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])


@pytest.mark.parametrize("cut", [0, 8])
def test_a_cell_that_was_cut_off_is_no_cell_of_the_report(cut: int, tmp_path: Path) -> None:
    """A run that failed in the middle of a cell keeps its stream: half of a minute must not pass for a whole one."""
    run = write_run(tmp_path / "R", [DONE], {"ts": Law()})
    _stream_of(run, OTHER, until=31.0, cut=cut)
    _changed(run / "state.json", status="failed", planned=[cell.to_json() for cell in CELLS])
    data = read_campaign(run)
    assert [line["cell"] for line in data.lines] == [DONE.slug]
    assert (data.planned, dict(data.torn)) == (2, {})
    assert [line["cell"] for line in StoredRun(run).cells()] == [DONE.slug]


def test_lines_of_cells_that_are_not_done_leave_the_file(tmp_path: Path) -> None:
    """cells.jsonl says what the report says, also where an earlier report had counted a torn cell."""
    run = write_run(tmp_path / "R", CELLS, {"ts": Law()})
    _changed(run / "state.json", status="failed", done=[[0, DONE.slug]])
    read_campaign(run)
    assert [line["cell"] for line in StoredRun(run).cells()] == [DONE.slug]


def test_a_run_none_of_whose_cells_is_done_has_nothing_to_report(tmp_path: Path) -> None:
    """Streams alone are no measurement."""
    run = write_run(tmp_path / "R", CELLS, {"ts": Law()})
    _changed(run / "state.json", status="failed", done=[])
    with pytest.raises(LoadTestError, match="no cell was finished"):
        read_campaign(run)


def test_a_cell_without_the_generator_s_account_is_invalid(tmp_path: Path) -> None:
    """What was dropped, late or short of CPU would be unknown."""
    run = write_run(tmp_path / "R", CELLS, {"ts": Law()})
    (run / "health" / "0" / f"{DONE.slug}.json").unlink()
    lines = {line["cell"]: line for line in read_campaign(run).lines}
    assert lines[OTHER.slug]["valid"], lines[OTHER.slug]["reasons"]
    assert (lines[DONE.slug]["valid"], lines[DONE.slug]["meets_slo"]) == (False, None)
    assert "record: generator workers that gave an account 0, limit at least 1" in lines[DONE.slug]["reasons"]


def test_a_done_cell_whose_stream_lost_its_end_is_invalid(tmp_path: Path) -> None:
    """How much came after the last whole batch is unknown."""
    run = write_run(tmp_path / "R", CELLS, {"ts": Law()})
    _stream_of(run, DONE, cut=8)
    data = read_campaign(run)
    line = next(line for line in data.lines if line["cell"] == DONE.slug)
    assert "record: streams without their end mark 1, limit at most 0" in line["reasons"]
    assert not line["valid"]
    assert list(data.torn) == [f"0.parquet: {DONE.slug}.0"]


def test_the_checksums_are_of_all_the_raw_evidence(tmp_path: Path) -> None:
    """The generator's accounts and the servers' resources decide on VALID as the requests do."""
    run = write_run(tmp_path / "R", CELLS, {"ts": Law()})
    files = set(read_campaign(run).sha256)
    assert {f"{kind}/0/{cell.slug}.json" for kind in ("health", "resources") for cell in CELLS} <= files
    assert {"raw/0.parquet", "ledger.json", "parity.json", "campaign.yaml", "manifest.json"} <= files


def test_energy_is_of_all_requests_that_it_was_measured_over(tmp_path: Path) -> None:
    """The warm-up's too, as CPU time is; a cell whose energy nobody measured takes no part."""
    run = write_run(tmp_path / "R", CELLS, {"ts": Law()}, lines=False)
    for cell, energy in ((DONE, 260.0), (OTHER, None)):
        gpu = {"status": "measured", "energy_j": energy}
        _changed(run / "resources" / "0" / f"{cell.slug}.json", gpu=gpu)
    rows = {row["target"]: row["joules"] for row in resources_of(read_campaign(run))}
    assert rows == {"ts": pytest.approx(260.0 / 13_000), "ts (A/A)": None}


def test_a_target_may_be_called_as_an_a_a_twin_is(tmp_path: Path) -> None:
    """Its ledger and parity are its own: only `control` says that a cell is the twin of another."""
    own = [target("ts"), target("x (A/A)")]
    cells = plan([("s", server_load(20, 5))], own, rounds=1)
    run = write_run(tmp_path / "R", cells, {"ts": Law(), "x (A/A)": Law(wrong_share=0.5)}, lines=False)
    data = read_campaign(run)
    wrong = {row["target"]: bool(row["wrong"]) for row in parity_of(data)}
    assert wrong == {"simplenn/ts": False, "simplenn/x (A/A)": True}
    parities = {line["target"]: line["parity"] for line in data.lines}
    assert all(parities[name] for name in ("ts", "ts (A/A)", "x (A/A)"))
