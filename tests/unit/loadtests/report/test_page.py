"""The report page: complete, inert, offline, and honest about stand-ins."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtests.report import write_report
from loadtests.report.page import overheads
from loadtests.results import CellResult
from loadtests.summary import build_summary
from tests.unit.loadtests.builders import toy_results, write_toy

HOSTILE = "<script>alert(1)</script>"


def _page(tmp_path: Path, results: list[CellResult], model: str = "toy") -> str:
    folder = model.replace("/", "_")
    artifacts = write_toy(tmp_path, folder)
    summary = build_summary(
        [replace(result, cell=replace(result.cell, model=folder)) for result in results], artifacts=artifacts
    )
    summary["models"] = {model: summary["models"][folder]}
    for cell in summary["cells"]:
        cell["model"] = model
    path = tmp_path / "demo" / "report.html"
    write_report(summary, [replace(r, cell=replace(r.cell, model=model)) for r in results], path)
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def _parsed(page: str) -> _Tags:
    parser = _Tags()
    parser.feed(page)
    return parser


def test_the_page_holds_every_part(tmp_path: Path) -> None:
    """Title, parity, table, charts, overhead, words, method and place."""
    page = _page(tmp_path, toy_results())
    for part in ("Model toy", "parity", "What the gateway adds", "What the words mean", "closed loop", "Where"):
        assert part in page
    tags = _parsed(page).tags
    assert tags.count("svg") == 4
    assert tags.count("tr") == (1 + 10) + (1 + 4)


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    """No script, no address, no reference but to itself; a policy forbids the rest."""
    page = _page(tmp_path, toy_results())
    parsed = _parsed(page)
    assert not {"script", "link", "img", "iframe", "base", "form", "object"} & set(parsed.tags)
    assert not re.findall(r"(?:https?:)?//[\w.]+", page)
    assert "@import" not in page
    for name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    assert "default-src 'none'" in page


@pytest.mark.parametrize("field", ["model", "server", "example", "endpoint"])
def test_hostile_names_are_inert(field: str, tmp_path: Path) -> None:
    """A name with a tag in it is text wherever it is shown."""
    results = toy_results()
    if field == "server":
        results = [replace(r, servers={f"{HOSTILE} (stand-in)": 1}) for r in results]
    if field == "example":
        failed = {"outcomes": {"ok": 200, HOSTILE: 1}, "examples": {HOSTILE: (HOSTILE,)}}
        results = [replace(r, **failed) for r in results]
    if field == "endpoint":
        results = [replace(r, cell=replace(r.cell, stack=HOSTILE)) for r in results]
    page = _page(tmp_path, results, HOSTILE if field == "model" else "toy")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "script" not in _parsed(page).tags


def test_a_stand_in_is_in_the_title_and_nothing_is_decided(tmp_path: Path) -> None:
    """The title and the note name it; no word of a verdict is on the page."""
    page = _page(tmp_path, toy_results())
    name = "savedmodel-server 1.0 (stand-in)"
    for tag in ("title", "h1"):
        assert name in re.findall(f"<{tag}>(.*?)</{tag}>", page)[0]
    assert "is a stand-in" in page
    assert not re.findall(r"\b(faster|slower|winner|wins|better than)\b", page.lower())


def test_without_a_stand_in_the_page_says_so(tmp_path: Path) -> None:
    """The same page over real servers has no such title."""
    page = _page(tmp_path, [result for result in toy_results() if result.cell.stack == "torchserve"])
    assert "stand-in" not in re.findall("<title>(.*?)</title>", page)[0]
    assert "every server was the real one" in page


def test_failures_are_shown_with_their_reason(tmp_path: Path) -> None:
    """A row with failures says how many, of what kind, and why."""
    results = toy_results()
    results[0] = replace(
        results[0], outcomes={"ok": 200, "wrong_answer": 7}, examples={"wrong_answer": ("output 'y' is off",)}
    )
    page = _page(tmp_path, results)
    assert "7 \N{MULTIPLICATION SIGN} <code>wrong_answer</code>" in re.sub(r"\s+", " ", page)
    assert "output &#39;y&#39; is off" in page
    assert "7 failed" in page


def test_a_busy_generator_is_admitted(tmp_path: Path) -> None:
    """A cell in which the generator used most of a core is named."""
    results = toy_results()
    assert "may be what is measured" not in _page(tmp_path / "a", results)
    results[1] = replace(results[1], generator_cpu=0.95)
    assert f"{results[1].cell.label} (0.95)" in _page(tmp_path / "b", results)


def test_the_overhead_pairs_direct_with_matched_only() -> None:
    """Four pairs a model; the gateway's default rows are not compared with anything."""
    rows = [result.as_row() for result in toy_results()]
    pairs = overheads(rows)
    assert [(pair["server"].split()[0], pair["protocol"]) for pair in pairs] == [
        ("TorchServe", "rest"),
        ("TorchServe", "grpc"),
        ("savedmodel-server", "rest"),
        ("savedmodel-server", "grpc"),
    ]
    assert pairs[0]["difference"] == pytest.approx(rows[1]["p50_ms"] - rows[0]["p50_ms"])
    rows[0]["p50_ms"] = None
    assert overheads(rows)[0]["difference"] is None
