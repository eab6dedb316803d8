"""DuckDB over all runs: three views, read and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.errors import LoadTestError
from loadtests.store import Runs, StoredRun
from tests.unit.loadtests.synthetic import Law, plan, server_load, target, write_run

LAWS = {"ts": Law(), "tf": Law(median_ms=0.5)}
TARGETS = [target("ts"), target("tf", stack="tfserving")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("A", "it's B"):
        write_run(folder / name, plan([("server", server_load(100, 60))], TARGETS, rounds=2), LAWS)
    return folder


@pytest.fixture
def runs(root: Path) -> Iterator[Runs]:
    with Runs(root) as opened:
        yield opened


def test_every_request_of_every_run_is_in_one_view(runs: Runs) -> None:
    """Rows carry the run, and counts are those of the lines."""
    counted = runs.sql("SELECT run, count(*) FROM requests WHERE measured GROUP BY run ORDER BY run").rows
    lines = runs.sql("SELECT run, sum(scheduled) FROM cells GROUP BY run ORDER BY run").rows
    assert counted == lines
    assert [run for run, _ in counted] == ["A", "it's B"]


def test_a_line_s_percentile_is_the_record_s_by_plain_sql(runs: Runs) -> None:
    """DuckDB's nearest rank over the raw rows gives the figures of every line."""
    query = """
        SELECT run, round, cell, quantile_disc((t_end - t_int) * 1e3, 0.5), quantile_disc((t_end - t_int) * 1e3, 0.99)
        FROM requests WHERE measured AND outcome = 'ok' GROUP BY ALL ORDER BY ALL"""
    assert runs.sql(query).rows == runs.sql("SELECT run, round, cell, L_p50, L_p99 FROM cells ORDER BY ALL").rows


def test_runs_are_listed_with_what_they_are(runs: Runs) -> None:
    """Status, tier and size of each."""
    assert runs.sql("SELECT run, status, tier, cells, rounds FROM runs ORDER BY run").rows == (
        ("A", "complete", "run", 6, 2),
        ("it's B", "complete", "run", 6, 2),
    )


@pytest.mark.parametrize(
    "text",
    ["DROP VIEW requests", "COPY cells TO 'x.csv'", "SELECT 1; SELECT 2", "INSTALL httpfs", "SET threads = 1", ""],
)
def test_only_a_select_is_run(text: str, runs: Runs) -> None:
    """Anything else is refused with the names of the views."""
    with pytest.raises(LoadTestError, match="one SELECT.*requests, cells, runs"):
        runs.sql(text)


@pytest.mark.parametrize("text", ["SELECT * FROM read_csv('/etc/hosts')", "SELECT nothing FROM cells", "SELEC 1"])
def test_what_cannot_be_answered_says_why(text: str, runs: Runs) -> None:
    """DuckDB's own words come through; files outside the runs are out of reach."""
    with pytest.raises(LoadTestError, match=r"Permission|nothing|SELEC"):
        runs.sql(text)


def test_no_run_at_all_is_an_empty_answer(tmp_path: Path) -> None:
    """The views are there before the first run is."""
    with Runs(tmp_path) as empty:
        assert empty.sql("SELECT count(*) FROM requests").rows == ((0,),)
        assert empty.sql("SELECT * FROM cells").rows == ()
        assert empty.sql("DESCRIBE runs").columns[0] == "column_name"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("raw/0.parquet", ""),
        ("raw/0.parquet", "no Parquet at all, and longer than its foot"),
        ("state.json", "{"),
        ("manifest.json", "[]"),
        ("cells.jsonl", "{\n{}\n"),
        ("cells.jsonl", '{"cell": "x", "L": 5}\n'),
        ("cells.jsonl", '{"cell": "x", "scheduled": "many"}\n'),
    ],
)
@pytest.mark.parametrize("name", ["0 before", "Z after"])
def test_a_damaged_run_hides_no_other(file: str, content: str, name: str, tmp_path: Path) -> None:
    """It is left out of every view, and named with the reason."""
    for run in ("A", name):
        write_run(tmp_path / run, plan([("server", server_load(20, 5))], TARGETS, rounds=1), LAWS)
    (tmp_path / name / file).write_text(content)
    with Runs(tmp_path) as runs:
        for view in ("requests", "cells", "runs"):
            found = runs.sql(f"SELECT DISTINCT run FROM {view}")
            assert found.rows == (("A",),)
        (told,) = found.left_out
    assert told.startswith(f"run {name} is left out: ")


def test_a_torn_last_line_is_left_out_and_any_other_is_an_error(tmp_path: Path) -> None:
    """A crash tears only the end of cells.jsonl."""
    folder = StoredRun(tmp_path)
    folder.cells_file.write_text('{"a": 1}\n{"b": ')
    assert folder.cells() == [{"a": 1}]
    folder.cells_file.write_text('{"a": \n{"b": 2}\n')
    with pytest.raises(LoadTestError, match="line 1: not JSON"):
        folder.cells()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    """The error says what makes a run."""
    with pytest.raises(LoadTestError, match="not a run.*bench run"):
        StoredRun(tmp_path / "nothing").checked()
