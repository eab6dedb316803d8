"""The parts of the report: axes, pictures, words, and the facts of the decision page."""

from __future__ import annotations

import math
import re
import struct
import zlib

import numpy as np
import pytest

from loadtests.analysis.compare import Comparison, Ratio
from loadtests.analysis.series import METRICS, series_of
from loadtests.analysis.statistics import Interval
from loadtests.campaign_report.decision import GROUPS, Fact, public_facts, scores
from loadtests.campaign_report.exports import csv_cell, markdown_cell, markdown_text
from loadtests.campaign_report.other_charts import forest_chart
from loadtests.campaign_report.svg import Axis, Plot, log_axis, png, zero_axis
from loadtests.campaign_report.words import caveat, sentence, share, times, with_interval
from loadtests.words import NONE


@pytest.mark.parametrize(
    ("axis", "marks"),
    [
        (Axis(0, 10, ""), [0, 2, 4, 6, 8, 10]),
        (Axis(0, 0.3, ""), [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (Axis(0.5, 60, "", log=True), [0.5, 1, 2, 5, 10, 20, 50]),
        (Axis(0.94, 1.06, "", log=True), [0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06]),
    ],
)
def test_an_axis_is_marked_at_round_values(axis: Axis, marks: list[float]) -> None:
    """As many as fit, within the ends."""
    assert axis.marks() == pytest.approx(marks)


def test_an_axis_puts_values_where_they_belong_and_the_rest_at_the_edge() -> None:
    """Linear and logarithmic; nothing leaves the plot."""
    assert [Axis(0, 10, "").share(value) for value in (-1, 5, 11)] == [0, 0.5, 1]
    assert Axis(1, 100, "", log=True).share(10) == pytest.approx(0.5)


def test_an_axis_without_values_is_an_axis_all_the_same() -> None:
    """Nothing measured gives an empty chart, not an error."""
    assert log_axis([], "ms").low < 1 < log_axis([0.0, math.nan], "ms").high
    assert zero_axis([], "s").high > 0


def test_texts_of_a_chart_are_escaped() -> None:
    """Titles, labels and words of a user's own."""
    plot = Plot(Axis(0, 1, "<x>"), Axis(0, 1, "<y>"), "<label>")
    plot.text(0.5, 0.5, "<words>")
    plot.label_left(0.5, "<left>")
    plot.point(0.5, 0.5, 1, title="<point>")
    plot.bar(0, 0, 1, 1, 2, title="<bar>")
    picture = str(plot.svg())
    for name in ("x", "y", "label", "words", "left", "point", "bar"):
        assert f"<{name}>" not in picture
        assert f"&lt;{name}&gt;" in picture


def test_a_heat_map_is_a_picture_that_any_viewer_reads() -> None:
    """Size, palette with transparency, and rows that unpack to the levels."""
    levels = np.array([[0, 1, 2], [8, 0, 4]], dtype=np.uint8)
    data = png(levels, 8)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (3, 2)
    start = data.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", data[start - 8 : start - 4])
    assert zlib.decompress(data[start : start + length]) == b"\0\x00\x01\x02\0\x08\x00\x04"


@pytest.mark.parametrize(
    ("value", "text"), [(None, NONE), (1.0, "100 %"), (0.99996, "> 99.9 %"), (0.9876, "98.8 %"), (0.0, "0 %")]
)
def test_a_share_never_says_all_where_it_is_not(value: float | None, text: str) -> None:
    """100 % is kept for what is."""
    assert share(value) == text


def test_a_figure_stands_with_its_interval_and_a_single_round_without() -> None:
    """Three digits each."""
    assert with_interval(Interval(12.345, 12.0, 13.0)) == "12.3 (12 to 13)"
    assert with_interval(Interval(12.345, math.nan, math.nan)) == "12.3"
    assert times(Interval(1.25, 1.2, 1.3)) == "1.25 times (95 %: 1.2 to 1.3)"
    assert with_interval(None) == NONE


def test_every_public_fact_names_its_source_and_leans_to_someone_or_to_nobody() -> None:
    """And belongs to a group that is not measured here."""
    sourced = {key for key, _, kind in GROUPS if kind == "from public sources"}
    facts = public_facts()
    assert {fact.group for fact in facts} == sourced
    for fact in facts:
        assert fact.source
        assert fact.leans in ("torchserve", "tfserving", "neither")
        assert fact.weight in (1, 2)


def test_scores_are_half_and_half_where_nothing_leans() -> None:
    """And whole where everything does."""
    one, other, none = (Fact("g", "t", leans, "s") for leans in ("torchserve", "tfserving", "neither"))
    assert scores([]) == (50.0, 50.0)
    assert scores([none]) == (50.0, 50.0)
    assert scores([one]) == (100.0, 0.0)
    assert scores([one, other, other, none]) == (37.5, 62.5)
    assert scores([one, Fact("g", "t", "tfserving", "s", weight=3)]) == (25.0, 75.0)


def test_names_stay_in_their_cells() -> None:
    """No mark of Markdown is obeyed, no cell of a spreadsheet is a formula."""
    assert markdown_cell("a|b*c\nd") == "a\\|b\\*c d"
    assert [csv_cell(text) for text in ("=1+1", "@x", "-1", "name")] == ["'=1+1", "'@x", "'-1", "name"]


def test_a_sentence_names_failures_and_what_did_not_recover() -> None:
    """Of the rounds that were used, whichever side it was."""
    lines = [
        {
            **{"cell": name, "model": "m", "scenario": "s", "target": name, "round": number, "server": name},
            "outcomes": {"ok": 95, "timeout": 5} if name == "b" else {"ok": 100},
            "valid": True,
            "overload": {"recovery_s": None if name == "b" and number else 2.0},
        }
        for number in range(3)
        for name in ("a", "b")
    ]
    a, b = series_of(lines)
    assert [caveat(own, "recovery") for own in (a, b)] == ["", "not seen to recover in 2 of 3 rounds"]
    found = Comparison("stacks", "m", "s", a, b, METRICS["goodput"], (0, 1, 2), 0, (), why="because")
    assert sentence(found) == (
        "b: no figure in common with a. No verdict: because. b gave no right answer to 5 % of the requests. "
        "b was not seen to recover in 2 of 3 rounds."
    )


def test_each_row_of_a_forest_has_the_band_of_its_own_control() -> None:
    """5 % in one scenario, 20 % in another whose twins differed by that."""
    line = {"cell": "c", "model": "m", "scenario": "s", "target": "a", "round": 0, "server": "x", "protocol": "predict"}
    (own,) = series_of([line])
    ratios = (Ratio("p99", Interval(1.1, 1.05, 1.15), 1),)
    rows = [
        Comparison("stacks", "m", "s", own, own, METRICS["p99"], (0,), 0, ratios, why="because", resolution=control)
        for control in (math.nan, 0.01, 0.2)
    ]
    chart = forest_chart(rows, "All")
    assert chart is not None
    widths = [float(width) for width in re.findall(r'class="f margin"[^>]* width="([0-9.]+)"', str(chart.svg))]
    assert len(widths) == 3
    assert widths[0] == widths[1]
    assert widths[2] / widths[0] == pytest.approx(math.log(1.2) / math.log(1.05), rel=0.02)


def test_a_rate_that_the_generator_ended_is_shown_as_at_least_that() -> None:
    """A search without a faster rate that missed the objective."""
    line = {"cell": "c-try01", "model": "m", "scenario": "s", "target": "a", "round": 0, "rate_offered": 100.0}
    for valid, said in ((None, "at least: the generator ended the search"), (False, "")):
        tries = [{**line, "meets_slo": True, "valid": True}, {**line, "meets_slo": valid, "valid": False}]
        (own,) = series_of([tries[0], {**tries[1], "rate_offered": 105.0}])
        assert caveat(own, "lambda") == said


def test_markdown_says_once_what_holds_for_all_pairs() -> None:
    """A reason of each pair's own is beside it."""
    rows = [{"word": "no verdict", "about": f"toy, {name}", "text": f"text {name}"} for name in ("one", "other")]
    kinds = [{"title": "Stacks", "rows": rows, "why": "a quick look"}, {"title": "Variants", "rows": rows, "why": ""}]
    validity = {"valid": 2, "cells": 2}
    content = {"title": "t", "validity": validity, "verdicts": kinds, "groups": [], "command": "c"}
    stacks, variants = markdown_text(content).split("**Variants**")
    assert "No verdict on any of 2 pairs: a quick look." in stacks
    assert "text one" not in stacks
    assert (variants.count("*no verdict*"), variants.count("text o")) == (2, 2)
