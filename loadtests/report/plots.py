"""Latency distributions as inline SVG, drawn by matplotlib and coloured by the page's own CSS variables.

Only fixed words and numbers are drawn, never a name that a user chose.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtests.analysis.samples import percentile

Values = npt.NDArray[np.float64]

# Stand-ins for the page's colours: matplotlib writes these, the page's style sheet decides (light, dark, print).
_INK, _FAINT, _GRID = "#010101", "#010102", "#010103"
_COLOURS = {"rest": "#010104", "grpc": "#010105", "default": "#010106"}
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _GRID: "var(--rule)",
    _COLOURS["rest"]: "var(--rest)",
    _COLOURS["grpc"]: "var(--grpc)",
    _COLOURS["default"]: "var(--default)",
}
# A little over 300 points wide, so that the text keeps its size on a phone.
_WIDTH_IN = 4.5
_MARKS = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
_BINS = 56
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _GRID,
    "axes.linewidth": 0.8,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One cell's latencies in ms, ascending. `kind` is rest, grpc or default; `through` says via the gateway."""

    label: str
    kind: str
    through: bool
    ordered: Sequence[float]


def axis_limits(series: Sequence[Series]) -> tuple[float, float]:
    """Limits in ms that all charts of a model share; values beyond p99.9 of a cell may lie outside."""
    lows = [item.ordered[0] for item in series if item.ordered]
    highs = [item.ordered[max(math.ceil(0.999 * len(item.ordered)) - 1, 0)] for item in series if item.ordered]
    if not lows:
        return 1.0, 10.0
    low, high = max(min(lows), 1e-3) / 1.15, max(highs) * 1.15
    return low, max(high, low * 3)


def distribution_svg(series: Sequence[Series], limits: tuple[float, float], key: str) -> str:
    """One histogram for each cell over a shared logarithmic axis of ms, with p50, p95 and p99 marked."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, 0.5 + 0.62 * len(series)), layout="constrained")
        axes = figure.add_subplot()
        edges = np.geomspace(*limits, _BINS + 1)
        for index, item in enumerate(series):
            _ridge(axes, item, edges, base=float(len(series) - 1 - index))
        axes.set_ylim(-0.1, len(series) + 0.05)
        axes.set_yticks([len(series) - 1 - index + 0.12 for index in range(len(series))])
        axes.set_yticklabels([item.label for item in series])
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        _millisecond_axis(axes, limits, "x")
        axes.set_xlabel("latency in ms, logarithmic")
        return _svg(figure, key, "Histograms of the latencies of each cell, over milliseconds")


def percentile_svg(series: Sequence[Series], limits: tuple[float, float], key: str) -> str:
    """Latency over percentile, both axes stretched so that the slow tail is as wide as the rest."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for item in series:
            values = np.asarray(item.ordered, dtype=np.float64)
            if len(values):
                axes.plot(*_tail_curve(values), color=_COLOURS[item.kind], linewidth=1.5, linestyle=_dash(item))
        axes.set_xscale("log")
        longest = max((len(item.ordered) for item in series), default=10)
        shares = [share for share in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999) if 1 / (1 - share) <= max(longest, 10)]
        axes.set_xlim(1, max(longest, 10))
        axes.set_xticks([1 / (1 - share) for share in shares])
        axes.set_xticklabels([f"{100 * share:g} %" for share in shares])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
        axes.grid(axis="both", color=_GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        _millisecond_axis(axes, limits, "y")
        axes.set_xlabel("share of requests that were at least this fast")
        axes.set_ylabel("latency in ms")
        axes.legend(
            handles=[
                Line2D([], [], color=_COLOURS[item.kind], linestyle=_dash(item), linewidth=1.5, label=item.label)
                for item in series
            ],
            # Above the curves: in a corner of the plot, one of them would run through it.
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            fontsize=8,
            frameon=False,
            labelcolor=_INK,
        )
        return _svg(figure, key, "Latency of each cell over percentile, with the slow tail stretched")


def _ridge(axes: Axes, item: Series, edges: Values, *, base: float) -> None:
    colour = _COLOURS[item.kind]
    axes.axhline(base, color=_GRID, linewidth=0.8)
    values = np.asarray(item.ordered, dtype=np.float64)
    if not len(values):
        axes.text(float(edges[1]), base + 0.15, "no right answer", color=_FAINT, fontsize=8)
        return
    counts, _ = np.histogram(values, edges)
    heights = base + 0.62 * counts / max(counts.max(), 1)
    # A step outline: each bin keeps its own width and nothing is smoothed.
    xs, ys = np.repeat(edges, 2)[1:-1], np.repeat(heights, 2)
    axes.fill_between(xs, base, ys, color=colour, alpha=0.45 if item.through else 0.2, linewidth=0)
    axes.plot(xs, np.where(ys > base, ys, np.nan), color=colour, linewidth=1.1, linestyle=_dash(item))
    for share, name in _MARKS:
        at = percentile(values, share)
        if at is None or not edges[0] <= at <= edges[-1]:
            continue
        height = 0.7 if name == "p50" else 0.3
        axes.plot([at, at], [base, base + height], color=_INK, linewidth=1.2 if name == "p50" else 0.9)
        axes.text(at, base + height + 0.03, f"{at:.3g}" if name == "p50" else name, **_mark_text(name))


def _mark_text(name: str) -> dict[str, Any]:
    return {
        "fontsize": 8 if name == "p50" else 6.5,
        "color": _INK if name == "p50" else _FAINT,
        "ha": "center",
        "va": "bottom",
    }


def _tail_curve(values: Values) -> tuple[Values, Values]:
    count = len(values)
    # The nearest-rank definition drawn as it is, at up to 160 ranks that are dense in the tail.
    beyond = np.geomspace(1.0, count, 160)
    ranks = np.clip(np.ceil(count * (1 - 1 / beyond)).astype(int), 1, count)
    return beyond, values[ranks - 1]


def _dash(item: Series) -> Literal["solid", "dashed"]:
    return "solid" if item.through else "dashed"


def _millisecond_axis(axes: Axes, limits: tuple[float, float], which: Literal["x", "y"]) -> None:
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(*limits)
    else:
        axes.set_yscale("log")
        axes.set_ylim(*limits)
    axis = axes.xaxis if which == "x" else axes.yaxis
    decades = math.log10(limits[1] / limits[0])
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis=which, which="minor", length=0)


def _svg(figure: Figure, key: str, label: str) -> str:
    """The figure as an `<svg>` element that can stand in a page beside others and refers to nothing outside it."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": key}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Ids are per page, not per figure.
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = text.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'href="#{key}-')
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return text.strip()
