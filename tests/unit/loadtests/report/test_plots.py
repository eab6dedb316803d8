"""The charts: self-contained SVG without a colour, size or id that could clash with the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from loadtests.report.plots import Series, axis_limits, distribution_svg, percentile_svg


def _series(count: int = 500) -> list[Series]:
    draw = np.random.default_rng(1)
    return [
        Series("REST direct", "rest", False, sorted(draw.lognormal(0, 0.3, count).tolist())),
        Series("gRPC gateway", "grpc", True, sorted(draw.lognormal(1, 0.3, count).tolist())),
    ]


@pytest.mark.parametrize("draw", [distribution_svg, percentile_svg])
@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_charts_stand_alone(draw: type, count: int) -> None:
    """Whatever number of values: valid XML, nothing from outside, every colour a variable of the page."""
    series = _series(count)
    svg = draw(series, axis_limits(series), "k1")
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("aria-label")
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "http" not in svg
    assert not re.findall(r"#0101\d\d", svg)
    assert "var(--ink)" in svg
    assert "REST direct" in svg


def test_ids_of_two_charts_do_not_clash() -> None:
    """Clip paths are found by id; each chart has its own prefix, and refers to its own."""
    series = _series()
    first, second = (distribution_svg(series, axis_limits(series), key) for key in ("a", "b"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", first)) <= ids[0]
    assert set(re.findall(r'href="#([^"]+)"', first)) <= ids[0]


def test_the_same_figures_give_the_same_chart() -> None:
    """A report made again from the same samples is the same report."""
    series = _series()
    assert distribution_svg(series, (0.1, 10), "k") == distribution_svg(series, (0.1, 10), "k")


def test_limits_cover_the_values_but_not_a_lone_outlier() -> None:
    """One stray second must not squeeze everything else into a corner."""
    values = [1.0 + index / 5000 for index in range(4999)] + [1000.0]
    low, high = axis_limits([Series("a", "rest", False, values)])
    assert low < 1.0
    assert 2.0 < high < 10.0
    assert axis_limits([]) == (1.0, 10.0)
