"""Results: the figures of a row, and what the answers say of their origin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.analysis.samples import percentiles
from loadtests.cells import demo_cells
from loadtests.errors import LoadTestError
from loadtests.results import SCHEMA, CellResult
from tests.unit.loadtests.builders import SERVERS, toy_cell, toy_result

STAND_IN = "savedmodel-server 1.0 (stand-in)"


def test_a_rows_figures_are_of_right_answers() -> None:
    """Requests count all, the rate and the percentiles right answers only."""
    row = toy_result(toy_cell(), count=600, wrong=30).as_row()
    assert (row["requests"], row["failures"], row["rps"]) == (630, 30, 300.0)
    assert row["p50_ms"] < row["p95_ms"] < row["p99_ms"]


def test_a_row_has_a_percentile_where_a_campaign_would_have_it() -> None:
    """One rule for both: with fewer samples nobody can be 99 % sure that so many are faster."""
    for count in (89, 90, 458, 459):
        result = toy_result(toy_cell(), count=count)
        row, known = result.as_row(), percentiles(result.latencies_ms)
        for name in ("p50", "p95", "p99"):
            value = known[name]
            assert row[f"{name}_ms"] == (None if value is None else round(value, 3))
        assert (row["p95_ms"] is not None, row["p99_ms"] is not None) == (count >= 90, count >= 459)


def test_a_row_without_a_right_answer_has_no_latencies() -> None:
    """None, not zero: a dead server is not a fast one."""
    row = toy_result(toy_cell(), count=0, wrong=5).as_row()
    assert (row["rps"], row["failures"]) == (0.0, 5)
    assert row["p50_ms"] is row["p95_ms"] is row["p99_ms"] is None


def test_the_server_that_answered_wins_over_the_expected_one() -> None:
    """A stand-in cannot hide behind the name that was expected."""
    cell = replace(toy_cell(stack="tfserving"), server="TF Serving 2.21.0")
    assert not toy_result(cell).stand_in
    result = replace(toy_result(cell), servers={STAND_IN: 200})
    assert result.server == STAND_IN
    assert result.stand_in


def test_a_default_rows_upstream_protocol_is_that_of_the_endpoint_that_answered() -> None:
    """The gateway chose; its own header says what."""
    default = next(c for c in demo_cells(["toy"], servers=SERVERS) if c.upstream == "default")
    assert toy_result(default).upstream_protocol == "rest"
    assert replace(toy_result(default), endpoints={"ts-grpc": 9}).upstream_protocol == "grpc"
    assert replace(toy_result(default), endpoints={"unknown": 9}).upstream_protocol == "rest"


def test_samples_are_read_back(tmp_path: Path) -> None:
    """A report can be made again from the files alone."""
    result = toy_result(toy_cell(), wrong=2)
    document = {"schema": SCHEMA, "cell": result.cell.to_json()} | {
        name: getattr(result, name)
        for name in (
            *("users", "rows", "warm_up_s", "window_s", "outcomes", "latencies_ms"),
            *("examples", "servers", "endpoints", "generator_cpu"),
        )
    }
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(document))
    assert CellResult.load(path) == result


@pytest.mark.parametrize("text", [None, "", "[]", '{"schema": 99}', f'{{"schema": {SCHEMA}, "cell": {{}}}}'])
def test_a_file_that_holds_no_samples_is_refused(text: str | None, tmp_path: Path) -> None:
    """The message names the file."""
    path = tmp_path / "samples.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LoadTestError, match=r"samples\.json"):
        CellResult.load(path)
