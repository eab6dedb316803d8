"""What stands side by side in the report is of the same requests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from loadtests.analysis.cell import summarise
from loadtests.analysis.series import Series, series_of
from loadtests.campaign_report import write
from loadtests.campaign_report.chart import shown_lines
from loadtests.campaign_report.content import table_row
from loadtests.campaign_report.data import read_campaign
from loadtests.campaign_report.latency_charts import heat_chart
from loadtests.campaign_report.words import share
from loadtests.cell_spec import CellSpec, Load, Step, at_rate
from tests.unit.loadtests.synthetic import (
    Law,
    health_of,
    parity_of,
    plan,
    resources_of,
    rows_of,
    server_load,
    target,
    write_run,
)

LOAD = server_load(100, 60, warm_up_seconds=30, warm_up_requests=1000)


def _line(cell: CellSpec, law: Law, **health: Any) -> dict[str, Any]:
    rows = rows_of(cell, law)
    return summarise(cell, rows, health_of(cell, rows, **health), resources_of(cell), parity_of(cell.target))


def _series(lines: list[dict[str, Any]]) -> Series:
    (found,) = series_of(lines)
    return found


def test_an_invalid_round_is_in_no_figure_of_a_row() -> None:
    """Its failures and late answers are the generator's own: they must not stand beside figures without it."""
    first, second = (cell for cell in plan([("s", LOAD)], [target("ts")], rounds=2) if not cell.control)
    bad = _line(second, Law(refused_share=0.5), cpu_max=0.99)
    series = _series([_line(first, Law()), bad])
    row = table_row(series)
    assert (row["failed"], row["rounds"], row["attainment"]) == (0, "1 of 2", share(series.lines()[0]["attainment"]))
    assert row["requests"] == series.lines()[0]["scheduled"]
    assert table_row(_series([bad]))["failed"] > 0


def test_the_tries_of_a_search_that_failed_are_in_no_figure_of_a_row() -> None:
    """They were meant to: what counts is the try at the rate that was found."""
    search = Load("server", "poisson", (Step(0, 60),), warm_up_seconds=30, warm_up_requests=1000)
    base = plan([("find", search)], [target("ts")], rounds=1)[0]
    laws = {50.0: Law(), 100.0: Law(), 200.0: Law(refused_share=0.3)}
    series = _series([_line(at_rate(base, rate, number), law) for number, (rate, law) in enumerate(laws.items(), 1)])
    (line,) = shown_lines(series)
    assert line["rate_offered"] == 100.0
    assert (table_row(series)["failed"], table_row(series)["requests"]) == (0, line["scheduled"])


def test_of_a_rate_that_was_tried_again_the_try_that_met_the_objective_counts() -> None:
    """The one before it told nothing of the server."""
    search = Load("server", "poisson", (Step(0, 60),), warm_up_seconds=30, warm_up_requests=1000)
    base = plan([("find", search)], [target("ts")], rounds=1)[0]
    held_up = _line(at_rate(base, 100.0, 1), Law(median_ms=90, lag_ms=30), cpu_max=0.99)
    met = _line(at_rate(base, 100.0, 2), Law())
    missed = _line(at_rate(base, 104.0, 3), Law(refused_share=0.3))
    series = _series([held_up, met, missed])
    assert [line["meets_slo"] for line in series.lines()] == [None, True, False]
    assert (shown_lines(series), series.valid(0), series.value(0, "p50")) == ([met], True, met["L"]["p50"])


def test_a_heat_map_is_of_all_rounds_that_are_shown(tmp_path: Path) -> None:
    """One upon the other; an INVALID one is left out where there is a valid one."""
    cells = plan([("s", LOAD)], [target("ts")], rounds=3)
    folder = write_run(tmp_path / "R", cells, {"ts": Law()}, lines=False)
    data = read_campaign(folder)
    (own,) = (series for series in data.series if not series.first.get("control"))
    chart = heat_chart(data, [own])
    assert chart is not None
    assert [name for name, _ in chart.small] == ["ts, 3 rounds"]
    assert chart.rows[0][:2] == ("ts", "3")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = [target("ts"), target("gw", path="gateway")]
    laws = {"ts": Law(base_ms=45.0, median_ms=2.0, refused_share=0.004), "gw": Law(gateway_ms=0.8)}
    folder = write_run(tmp_path_factory.mktemp("runs") / "R", plan([("s", LOAD)], own, rounds=2), laws, lines=False)
    write(folder, ["html", "json"])
    return folder


def test_shares_parts_and_lag_are_what_plain_sql_makes_of_the_parquet_files(run: Path) -> None:
    """Figures that have no interval, recomputed of every line without any of our code."""
    found = duckdb.sql(f"""
        SELECT round, cell,
               count(*) FILTER (outcome = 'ok' AND (t_end - t_int) * 1e3 <= 50) / count(*) AS attainment,
               count(*) FILTER (outcome = 'ok' AND (t_end - t_int) * 1e3 <= 50) / 60.0 AS goodput,
               quantile_disc((t_snd - t_int) * 1e3, 0.99) FILTER (t_snd IS NOT NULL) AS lag,
               max((t_snd - t_int) * 1e3) AS latest,
               avg((t_snd - t_int) * 1e3) FILTER (outcome = 'ok') AS client,
               avg(gw_decode_ms::DOUBLE) FILTER (outcome = 'ok') AS decode,
               avg(gw_upstream_ms::DOUBLE) FILTER (outcome = 'ok') AS compute,
               avg((t_end - t_snd) * 1e3 - gw_upstream_ms) FILTER (outcome = 'ok') AS overhead,
               quantile_disc((t_end - t_snd) * 1e3 - gw_upstream_ms, 0.5) FILTER (outcome = 'ok') AS overhead_p50
        FROM '{run}/raw/*.parquet' WHERE measured GROUP BY round, cell
    """).fetchall()
    lines = {(line["round"], line["cell"]): line for line in json.loads((run / "report.json").read_text())["cells"]}
    assert len(found) == len(lines) == 6
    for number, cell, attainment, goodput, lag, latest, client, decode, compute, overhead, p50 in found:
        line = lines[number, cell]
        parts = line["parts"]
        ours = [line["attainment"], line["goodput"], line["D"]["p99"], line["D"]["max"], parts["client"]["mean"]]
        assert ours == pytest.approx([attainment, goodput, lag, latest, client], rel=1e-6)
        via = [parts[name] for name in ("decode", "compute", "overhead")]
        if line["path"] == "gateway":
            assert [part["mean"] for part in via] == pytest.approx([decode, compute, overhead], rel=1e-5)
            assert parts["overhead"]["p50"] == pytest.approx(p50, rel=1e-5)
        else:
            assert via == [None, None, None]


def test_the_table_s_shares_are_means_of_its_rounds(run: Path) -> None:
    """As the page prints them."""
    lines = json.loads((run / "report.json").read_text())["cells"]
    page = (run / "report.html").read_text()
    printed = re.findall(r'data-name="in objective">([^<]*)<', page)
    for name in ("ts", "gw"):
        own = [line["attainment"] for line in lines if line["target"] == name and line["valid"]]
        own = own or [line["attainment"] for line in lines if line["target"] == name]
        assert share(sum(own) / len(own)).replace(">", "&gt;") in printed
