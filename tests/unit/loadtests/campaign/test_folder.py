"""The folder of a run: what survives a crash, and what a full disk does."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtests.campaign.folder import RunFolder, State, read_json, write_json
from loadtests.campaign.plan import plan_of
from loadtests.campaign.reading import campaign_of
from loadtests.disk import DiskFullError, telling_full
from loadtests.errors import LoadTestError
from serving.state import ProcessId
from tests.unit.loadtests.campaign.worlds import campaign_text, target

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
PLAN = plan_of(campaign_of(campaign_text("x:1"), "c"), {"toy": [target()]})


def test_a_run_is_named_by_its_time_and_campaign(tmp_path: Path) -> None:
    """Two of one second differ, and no name leaves the folder."""
    names = [RunFolder.create(tmp_path, "../a b", NOW).id for _ in range(2)]
    assert names == ["20260304-050607-a-b", "20260304-050607-a-b-2"]


def test_a_run_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    """With or without the folder of all runs in front; else the newest are told."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    folder.save(State())
    for name in (str(folder.path), folder.id, f"runs/{folder.id}"):
        assert RunFolder.existing(tmp_path, name).id == folder.id
    with pytest.raises(LoadTestError, match=f"the newest in .* are: {folder.id}"):
        RunFolder.existing(tmp_path, "other")


def test_the_state_survives_json(tmp_path: Path) -> None:
    """The plan, what is done, and what searches tried."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    state = State(PLAN.cells, ((0, "x"),), (0,), "interrupted", "why", {"0/x": ((50.0, True), (100.0, False))})
    folder.save(state)
    assert folder.state() == state
    write_json(folder.path / "state.json", {"planned": []})
    with pytest.raises(LoadTestError, match="not the state of a run"):
        folder.state()


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path: Path) -> None:
    """The record of its last cell does not count; a run that goes on is left alone."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    running = State(PLAN.cells, ((0, "x"),), process=ProcessId.of(os.getpid()))
    folder.save(running)
    folder.mark_dead()
    assert folder.state() == running
    folder.save(replace(running, process=ProcessId(os.getpid(), "another time")))
    folder.streams(0).mkdir(parents=True)
    for slug in ("x", "y"):
        (folder.streams(0) / f"{slug}.0.arrow").touch()
    folder.mark_dead()
    assert folder.state().status == "interrupted"
    assert [path.name for path in folder.streams(0).iterdir()] == ["x.0.arrow"]


def test_the_tries_of_a_search_are_cells_of_the_state() -> None:
    """A report is made of them; a low rate takes longer."""
    search = [{"name": "s", "kind": "server", "duration_s": 5}]
    plan = plan_of(campaign_of(campaign_text("x:1", slo_ms=5, scenarios=search), "c"), {"toy": [target()]})
    cell = plan.cells[0]
    state = State(plan.cells, searches={f"{cell.round}/{cell.slug}": ((200.0, True), (50.0, False))})
    assert [(try_.slug[-5:], try_.load.steps[0].seconds) for try_ in state.tries()] == [("try01", 5), ("try02", 17)]


def test_a_line_that_a_crash_cut_off_makes_room_for_the_next(tmp_path: Path) -> None:
    """And lines of cells that the state does not know are removed by a resumed run."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    folder.append_line({"round": 0, "cell": "x"})
    with folder.cells_file.open("a") as file:
        file.write('{"round": 0, "ce')
    assert len(folder.cells()) == 1
    folder.append_line({"round": 0, "cell": "y"})
    assert [line["cell"] for line in folder.cells()] == ["x", "y"]
    folder.keep_lines([(0, "y")])
    assert [line["cell"] for line in folder.cells()] == ["y"]


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    """NaN is not JSON; the file stays readable."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append_line({"round": 0, "L": float("nan")})
    assert folder.cells() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_a_word_of_its_own(tmp_path: Path, number: int) -> None:
    """It says where, that nothing is lost, and how to go on."""
    words = r"the disk is full: .*Nothing that was recorded is lost.*--resume"
    with pytest.raises(DiskFullError, match=words), telling_full(tmp_path):
        raise OSError(number, "No space left on device")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """With the option that names another."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadTestError, match="--runs names another"):
        RunFolder.create(tmp_path / "file", "a")


def test_the_folders_of_a_cell_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    """In words, whichever of them it is; an error of the system has none."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    (folder.path / "health").write_text("")
    with pytest.raises(LoadTestError, match="cannot be written"):
        folder.prepare(PLAN.cells[0])


def test_a_cell_is_not_begun_without_room_for_its_records(tmp_path: Path) -> None:
    """What it may record is known from its rate and time."""
    folder = RunFolder.create(tmp_path, "a", NOW)
    folder.check_room(PLAN.cells[0])
    huge = campaign_text("x:1", scenarios=[{"name": "s", "kind": "soak", "rate": 1e6, "duration_s": 604_800}])
    cell = plan_of(campaign_of(huge, "c"), {"toy": [target()]}).cells[0]
    with pytest.raises(DiskFullError, match="the next cell may need"):
        folder.check_room(cell)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written leaves the file that was there."""
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(LoadTestError, match="expected an object"):
        read_json(tmp_path / "list.json")
