"""The report of a whole run: complete, inert, offline, and every figure of it in the raw record."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest

from loadtests.campaign_report import FORMATS, write
from loadtests.campaign_report.content import MOST_CHARTED
from loadtests.cell_spec import Load, Step, at_rate
from loadtests.errors import LoadTestError
from loadtests.store import StoredRun
from loadtests.words import number
from tests.unit.loadtests.synthetic import Law, plan, server_load, target, write_run

HOSTILE = "<script>alert(1)</script>"
TARGETS = [
    target("ts"),
    target("tf", stack="tfserving"),
    target("ts grpc", wire="grpc"),
    target("gw", path="gateway"),
]
LAWS = {
    "ts": Law(),
    "tf": Law(median_ms=1.5, base_ms=2.0),
    "ts grpc": Law(base_ms=0.5),
    "gw": Law(gateway_ms=0.8),
}
SCENARIOS = [
    ("server", server_load(50, 60)),
    ("curve", Load("curve", "poisson", (Step(20, 20), Step(60, 20), Step(20, 20)))),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "R1"
    write_run(folder, plan(SCENARIOS, TARGETS, rounds=7), LAWS)
    write(folder, FORMATS)
    return folder


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


def _parsed(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


def test_the_page_holds_every_part(run: Path) -> None:
    """Verdicts, charts with their tables, health, parity, ledger, decision, method, environment and checksums."""
    page = (run / "report.html").read_text("utf-8")
    parts = ("Verdict", "Percentiles", "Latency over rate", "Latency over time", "Offered, achieved, goodput")
    parts += ("Where the time went", "Distribution", "Shift:", "All comparisons", "REST and gRPC", "A/A control")
    parts += ("Resources and cost", "generator's health", "Dispatch lag", "Parity", "Fairness ledger", "Decision")
    parts += ("SHA-256", "files served, SHA-256", "toy.mar 5e1f5e1f5e1f…")
    for part in parts:
        assert part in page
    assert f"twinserve bench report {run}</code>" in page
    parsed = _parsed(page)
    figures = parsed.tags.count("figure")
    assert figures >= 14
    assert parsed.tags.count("figcaption") == figures
    assert len(re.findall("The figures as a table", page)) == figures
    assert len(page) < 1_000_000


def test_the_page_asks_nothing_of_the_network_and_its_policy_admits_only_itself(run: Path) -> None:
    """No address but data: pictures and places in the page; style and script by their hashes; no inline handler."""
    page = (run / "report.html").read_text("utf-8")
    parsed = _parsed(page)
    assert not {"link", "img", "iframe", "base", "form", "object", "embed"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1
    assert not re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"base64,[\w+/=]+", "", page))
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on")
        assert name != "style"
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#") or (tag == "image" and value.startswith("data:image/png;base64,"))
    policy = next(value for _, name, value in parsed.attributes if name == "content" and "default-src" in value)
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        text = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.S)[0]
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_the_table_is_what_plain_sql_makes_of_the_parquet_files(run: Path) -> None:
    """Geometric means over rounds of nearest-rank percentiles, recomputed without any of our code."""
    found = duckdb.sql(f"""
        WITH rounds AS (
            SELECT round, cell, quantile_disc((t_end - t_int) * 1e3, 0.5) AS p50,
                   quantile_disc((t_end - t_int) * 1e3, 0.99) AS p99, count(*) / 60.0 AS achieved
            FROM '{run}/raw/*.parquet' WHERE measured AND outcome = 'ok' AND cell LIKE 'server-%' GROUP BY ALL)
        SELECT cell, exp(avg(ln(p50))), exp(avg(ln(p99))), exp(avg(ln(achieved))) FROM rounds GROUP BY cell
    """).fetchall()
    rows = {
        row["target"]: row
        for row in csv.DictReader((run / "report.csv").read_text().splitlines())
        if row["scenario"] == "server"
    }
    names = {line["cell"]: line["target"] for line in StoredRun(run).cells()}
    page = (run / "report.html").read_text("utf-8")
    assert len(found) == len(rows) == 5
    for cell, *values in found:
        name = names[cell]
        for figure, value in zip(("p50", "p99", "achieved"), values, strict=True):
            assert float(rows[name][figure]) == pytest.approx(value, rel=1e-9)
            assert f">{number(value)} <small>(" in page


def test_a_report_is_made_of_the_raw_record_alone(run: Path, tmp_path: Path) -> None:
    """Without cells.jsonl it is the same page, and the lines are written again."""
    lines = StoredRun(run).cells()
    StoredRun(run).cells_file.unlink()
    before = (run / "report.csv").read_text()
    write(run, ["csv"])
    assert (run / "report.csv").read_text() == before
    ordered = sorted(StoredRun(run).cells(), key=lambda line: (line["round"], line["cell"]))
    assert ordered == sorted(lines, key=lambda line: (line["round"], line["cell"]))


def test_the_other_forms_say_the_same(run: Path) -> None:
    """JSON holds every line and comparison, Markdown the tables, the picture the first scenario."""
    document = json.loads((run / "report.json").read_text())
    assert len(document["cells"]) == 7 * 2 * 5
    words = {(item["family"], item["scenario"]): item["verdict"] for item in document["comparisons"]}
    assert words["stacks", "server"]["word"] == "slower"
    markdown = (run / "report.md").read_text()
    assert markdown.count("| ts |") == 2
    picture = (run / "report.svg").read_text()
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_an_unknown_format_is_refused_with_those_there_are(run: Path) -> None:
    """The error lists them."""
    with pytest.raises(LoadTestError, match="html, markdown, json, csv, svg"):
        write(run, ["pdf"])


@pytest.mark.parametrize("where", ["model", "target", "server"])
def test_a_hostile_name_is_inert(where: str, tmp_path: Path) -> None:
    """A tag in a name is text in the page, in Markdown and in the picture."""
    more = {where: HOSTILE} if where != "target" else {}
    own = [target(HOSTILE if where == "target" else "ts", **more), target("tf", stack="tfserving", **more)]
    laws = dict.fromkeys((each.name for each in own), Law())
    folder = tmp_path / "R"
    write_run(folder, plan([("server", server_load(20, 5))], own, rounds=2), laws, lines=False)
    html, markdown, picture = (path.read_text() for path in write(folder, ["html", "markdown", "svg"]))
    assert HOSTILE not in html + markdown + picture
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert _parsed(html).tags.count("script") == 1
    assert "\\<script\\>" in markdown


def _made(folder: Path, tier: str = "run", rounds: int = 6, **more: object) -> str:
    own = [target("ts"), target("tf", stack="tfserving", **more.pop("of", {}))]  # type: ignore[arg-type]
    load = server_load(30, 60 if tier == "run" else 5, warm_up_seconds=30 if tier == "run" else 3)
    laws = {"ts": Law(), "tf": Law(median_ms=2.0)}
    write_run(folder, plan([("server", load)], own, rounds=rounds), laws, tier=tier, lines=False, **more)  # type: ignore[arg-type]
    return write(folder, allow_unlike=bool(more.get("ledger")) and folder.name == "allowed")[0].read_text()


def test_a_quick_look_has_figures_and_no_verdict(tmp_path: Path) -> None:
    """It says so at the top."""
    page = _made(tmp_path / "R", tier="quick")
    assert "A quick look, no verdict" in page
    assert "No verdict: a quick look gives figures, no verdict" in page
    assert 'class="verdict slower"' not in page


def test_a_stand_in_is_named_and_never_compared_with_a_stack(tmp_path: Path) -> None:
    """The title names it, the page says which claims remain."""
    page = _made(tmp_path / "R", of={"server": "savedmodel-server 1.0 (stand-in)"})
    assert "<h1>synthetic: load test, with savedmodel-server 1.0 (stand-in)</h1>" in page
    assert "What holds within one server still holds" in page
    assert 'class="verdict slower"' not in page
    assert "No verdict: a stand-in answered" in page


def test_unlike_ledgers_give_no_verdict_unless_asked_for_and_then_the_title_says_so(tmp_path: Path) -> None:
    """Other CPUs on one side."""
    ledger = {"tf": {"tfserving.cpus": "0-7"}}
    page = _made(tmp_path / "R", ledger=ledger)
    assert "the ledgers differ (server.cpus: 0-1 against 0-7)" in page
    assert "UNLIKE" not in page
    assert "UNLIKE SET-UPS COMPARED: server.cpus: 0-1 against 0-7</h1>" in _made(
        tmp_path / "allowed", rounds=8, ledger=ledger
    )


def test_an_interrupted_run_is_reported_as_far_as_it_went(tmp_path: Path) -> None:
    """The page says how far, and rounds that were not sealed are sealed."""
    folder = tmp_path / "R"
    cells = plan([("server", server_load(20, 5))], TARGETS[:2], rounds=3)
    write_run(folder, [cell for cell in cells if cell.round < 2], LAWS, lines=False)
    state = json.loads((folder / "state.json").read_text())
    planned = [cell.to_json() for cell in cells]
    (folder / "state.json").write_text(json.dumps({**state, "status": "interrupted", "planned": planned}))
    page = write(folder)[0].read_text()
    assert "This run is interrupted" in page
    assert "6 of 9 planned cells" in page


def test_a_run_without_a_finished_round_says_so(tmp_path: Path) -> None:
    """Nothing to report yet, and a folder that is no run at all."""
    (tmp_path / "state.json").write_text('{"status": "running", "planned": []}')
    with pytest.raises(LoadTestError, match="no round was finished"):
        write(tmp_path)
    with pytest.raises(LoadTestError, match="not a run"):
        write(tmp_path / "x")


def test_a_search_is_reported_by_the_rate_it_found(tmp_path: Path) -> None:
    """Its tries are known from the state alone; lambda* is in the table, in the costs and in the chart."""
    base = plan([("find", Load("server", "poisson", (Step(0, 20),)))], [target("ts")], rounds=2)
    rates = (50.0, 100.0, 200.0, 400.0)
    tries = [at_rate(cell, rate, number) for cell in base for number, rate in enumerate(rates, 1)]
    folder = tmp_path / "R"
    write_run(folder, tries, {"ts": Law(median_ms=4.0, base_ms=1.0)}, lines=False)
    state = json.loads((folder / "state.json").read_text())
    searches = {f"{cell.round}/{cell.slug}": [[rate, rate < 300] for rate in rates] for cell in base}
    planned = [cell.to_json() for cell in base]
    (folder / "state.json").write_text(json.dumps({**state, "planned": planned, "searches": searches}))
    page, table = (path.read_text() for path in write(folder, ["html", "csv"]))
    row = next(csv.DictReader(table.splitlines()))
    assert float(row["lambda"]) == pytest.approx(100.0)
    for part in ("λ*, /s", "Latency over rate", "a rate is searched for", "<td>λ*</td>"):
        assert part in page


def test_sizes_of_a_request_are_shown_as_a_sweep(tmp_path: Path) -> None:
    """One line a target over the rows of a request."""
    scenarios = [(f"s rows={rows}", server_load(20, 5, rows=rows)) for rows in (1, 16)]
    folder = tmp_path / "R"
    write_run(folder, plan(scenarios, TARGETS[:2], rounds=2), LAWS, tier="quick", lines=False)
    page = write(folder)[0].read_text()
    assert "Rows a request: simplenn, s" in page
    assert page.count("Rows a request") == 1


def test_a_cold_start_has_its_three_times(tmp_path: Path) -> None:
    """Ready, first answer and steady, from the health file."""
    load = Load("cold", "closed", (Step(0, 5),), warm_up_seconds=0, warm_up_requests=0)
    folder = tmp_path / "R"
    cells = plan([("cold", load)], TARGETS[:1], rounds=2)
    write_run(folder, cells, LAWS, lines=False)
    cold = {"ready_s": 3.2, "first_answer_s": 3.4, "steady_s": 4.1, "first_request_ms": 90.0, "steady_request_ms": 2.0}
    for path in folder.glob("health/*/*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "cold": cold}))
    page, table = (path.read_text() for path in write(folder, ["html", "csv"]))
    row = next(csv.DictReader(table.splitlines()))
    assert [float(row[name]) for name in ("ready", "first_answer", "steady")] == pytest.approx([3.2, 3.4, 4.1])
    assert "first answer, s" in page


def test_a_page_of_many_scenarios_stays_small(tmp_path: Path) -> None:
    """Beyond twenty there are tables and no charts, and the page says so."""
    scenarios = [(f"s{number}", server_load(20, 1)) for number in range(MOST_CHARTED + 1)]
    folder = tmp_path / "R"
    write_run(folder, plan(scenarios, TARGETS[:1], rounds=1), LAWS, tier="quick", lines=False)
    page = write(folder)[0].read_text()
    assert page.count("Charts are drawn for the first scenarios only") == 1
    assert page.count('<table class="cells">') == MOST_CHARTED + 1
    assert len(page) < 3_000_000
