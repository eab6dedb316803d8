"""Charts of latency: percentiles with and without correction, distribution and shift, heat maps, latency over rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.analysis.compare import Comparison
from loadtests.analysis.samples import Values, shows
from loadtests.analysis.series import Series
from loadtests.analysis.statistics import Interval, a12, bootstrap_mean, shift_function
from loadtests.campaign_report.chart import Chart, Style, at, legend_of, pooled, shown_lines
from loadtests.campaign_report.data import CENTRES_MS, CampaignData, heat_low_ms
from loadtests.campaign_report.svg import Axis, Plot, log_axis, patch, swatch, zero_axis
from loadtests.campaign_report.words import rounds_of, with_interval
from loadtests.words import number

Styles = dict[str, Style]
_SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)
_LEVELS = 8
MAX_HEAT_MAPS = 8


def percentile_chart(data: CampaignData, group: Sequence[Series], styles: Styles) -> Chart | None:
    """Latency over percentile, the tail stretched; from the scheduled instant, and dotted from the send."""
    curves = [(own, pooled(data, own), pooled(data, own, "service")) for own in group]
    curves = [item for item in curves if item[1].sum() > 1]
    if not curves:
        return None
    longest = max(item[1].sum() for item in curves)
    ticks = [share for share in (0.5, 0.9, 0.99, 0.999, 0.9999) if 1 / (1 - share) <= longest]
    # The last order of magnitude of a sample is a single request.
    high = max(longest / 5, 12.0)
    x = Axis(
        1.0,
        high,
        "share of answers at least this fast",
        log=True,
        ticks=tuple(1 / (1 - share) for share in ticks if 1 / (1 - share) <= high),
        format=lambda value: f"{100 * (1 - 1 / value):.4g} %",
    )
    points = {own.target: (_tail(total, high), _tail(service, high)) for own, total, service in curves}
    values = [y for pair in points.values() for curve in pair for _, y in curve]
    plot = Plot(x, log_axis(values, "ms"), "Latency over percentile, corrected and uncorrected")
    for own, *_ in curves:
        style = styles[own.target]
        plot.line(points[own.target][1], style.colour, "dot", faint=True)
        plot.line(points[own.target][0], style.colour, style.dash)
    if slo := curves[0][0].first.get("slo_ms"):
        plot.rule(y=float(slo))
    rows = []
    worst = (1.0, "")
    for own, total, service in curves:
        cells = [own.target]
        for share in _SHARES:
            corrected, raw = at(total, share), at(service, share)
            cells.append(f"{number(corrected)} / {number(raw)}")
            if corrected and raw and corrected / raw > worst[0]:
                worst = (corrected / raw, f"p{100 * share:g} of {own.target}")
        rows.append(tuple(cells))
    told = (
        f"The omission matters: the {worst[1]} is {worst[0]:.3g} times what a clock started at the send would show."
        if worst[0] > 1.1
        else "Here a clock started at the send would show nearly the same: the generator was on time."
    )
    closed = " A closed loop has no schedule of its own." if group[0].first["arrivals"] == "closed" else ""
    return Chart(
        "Percentiles",
        f"Solid or dashed: from the scheduled instant. Dotted: from the actual send. {told}{closed}",
        plot.svg(),
        ("target", *(f"p{100 * share:g}, ms (scheduled / send)" for share in _SHARES)),
        tuple(rows),
        (*legend_of([item[0] for item in curves], styles), (swatch(7, "dot"), "uncorrected, in the target's colour")),
    )


def _tail(counts: Values, most: float) -> list[tuple[float, float]]:
    total = counts.sum()
    beyond = np.geomspace(1.0, min(total, most), 90)
    ranks = np.clip(np.ceil(total * (1 - 1 / beyond)), 1, total)
    places = np.searchsorted(np.cumsum(counts), ranks)
    return [(float(x), float(CENTRES_MS[place])) for x, place in zip(beyond, places, strict=True)]


def distribution_chart(data: CampaignData, group: Sequence[Series], styles: Styles) -> Chart | None:
    """The share of answers within a time, from zero to one."""
    curves = [(own, counts) for own in group if (counts := pooled(data, own)).sum() > 1]
    if not curves:
        return None
    points = {}
    for own, counts in curves:
        part = np.cumsum(counts) / counts.sum()
        places = np.unique(np.searchsorted(part, np.linspace(0.001, 0.999, 120)))
        points[own.target] = [(float(CENTRES_MS[place]), float(part[place])) for place in places]
    x = log_axis([x for curve in points.values() for x, _ in curve], "response time, ms")
    plot = Plot(x, Axis(0, 1, "share of answers", format=lambda v: f"{100 * v:g} %"), "Share of answers within a time")
    for own, _ in curves:
        plot.line(points[own.target], styles[own.target].colour, styles[own.target].dash)
    middles = {own.target: at(counts, 0.5) for own, counts in curves}
    known = {name: value for name, value in middles.items() if value}
    fastest = min(known, key=lambda name: known[name], default="")
    summary = f"The lowest median is that of {fastest}, {number(known[fastest])} ms." if known else "Too few answers."
    return Chart(
        "Distribution",
        summary,
        plot.svg(),
        ("target", "answers", *(f"p{100 * share:g}, ms" for share in (0.1, 0.5, 0.9, 0.99))),
        tuple(
            (own.target, f"{int(counts.sum()):,}", *(number(at(counts, share)) for share in (0.1, 0.5, 0.9, 0.99)))
            for own, counts in curves
        ),
        legend_of([own for own, _ in curves], styles),
    )


def lag_chart(data: CampaignData, series: Sequence[Series], styles: Styles, limit_ms: float) -> Chart | None:
    """How late the generator itself was: the share of all sends within a lag. Open loops alone have a schedule."""
    counts: dict[str, Values] = {}
    for own in series:
        if own.first["arrivals"] != "closed":
            counts[own.target] = counts.get(own.target, 0) + pooled(data, own, "lag")
    counts = {name: found for name, found in counts.items() if found.sum() > 1}
    if not counts:
        return None
    points = {}
    for name, found in counts.items():
        part = np.cumsum(found) / found.sum()
        places = np.unique(np.searchsorted(part, np.linspace(0.001, 0.9999, 120)))
        points[name] = [(float(CENTRES_MS[place]), float(part[place])) for place in places]
    x = log_axis([*(x for curve in points.values() for x, _ in curve), limit_ms], "dispatch lag, ms")
    plot = Plot(x, Axis(0, 1, "share of sends", format=lambda v: f"{100 * v:g} %"), "Share of sends within a lag")
    plot.rule(x=limit_ms)
    for name, curve in points.items():
        plot.line(curve, styles[name].colour, styles[name].dash)
    shares = (0.5, 0.9, 0.99, 0.999)
    return Chart(
        "Dispatch lag",
        f"How much later than its scheduled instant a request was sent; the line at {number(limit_ms)} ms is the limit "
        "of the 99th percentile of a cell. The lag is part of every response time.",
        plot.svg(),
        ("target", "sends", *(f"p{100 * share:g}, ms" for share in shares)),
        tuple(
            (name, f"{int(found.sum()):,}", *(number(at(found, share)) for share in shares))
            for name, found in counts.items()
        ),
        tuple((styles[name].sample, name) for name in counts),
    )


def shift_chart(data: CampaignData, found: Comparison) -> Chart | None:
    """B's percentile minus A's along the distribution: whether a difference is everywhere or in the tail."""
    a, b = pooled(data, found.a), pooled(data, found.b)
    least = int(min(a.sum(), b.sum()))
    shares = [share for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999) if shows(least, max(share, 1 - share))]
    if len(shares) < 3:
        return None
    shifts = shift_function(CENTRES_MS, a, b, shares)
    ends = [shift for _, _, shift in shifts]
    width = max(abs(min(ends)), abs(max(ends)), 1e-3) * 1.15
    x = Axis(
        0, len(shares) - 1, "percentile", ticks=tuple(range(len(shares))), format=lambda v: f"p{100 * shares[int(v)]:g}"
    )
    y = Axis(min(-width * 0.15, min(ends) * 1.15), max(width * 0.15, max(ends) * 1.15), "difference, ms")
    plot = Plot(x, y, "Difference of the percentiles along the distribution", height=210)
    plot.rule(y=0.0, kind="zero")
    plot.line([(float(place), shift) for place, shift in enumerate(ends)], 0)
    for place, shift in enumerate(ends):
        plot.point(float(place), shift, 0)
    size = a12(a, b)
    return Chart(
        f"Shift: {found.b.target} minus {found.a.target}",
        f"Above zero {found.b.target} is slower. A random answer of it is slower than one of {found.a.target} in "
        f"{100 * size:.3g} % of pairs (Vargha and Delaney's A; 50 % means no difference).",
        plot.svg(),
        ("percentile", f"{found.a.target}, ms", "difference, ms"),
        tuple((f"p{100 * share:g}", number(base), number(shift, signed=True)) for share, base, shift in shifts),
    )


def heat_chart(data: CampaignData, group: Sequence[Series]) -> Chart | None:
    """Latency over time, darker where more answers are: all rounds that are shown, one upon the other."""
    small, rows = [], []
    for own in group[:MAX_HEAT_MAPS]:
        lines = shown_lines(own)
        heats = [found.heat for line in lines if (found := data.histograms.get((line["round"], line["cell"])))]
        heat = _overlaid(heats)
        if heat is None:
            continue
        used = np.flatnonzero(heat.any(axis=1))
        low, high = max(int(used[0]) - 1, 0), min(int(used[-1]) + 2, heat.shape[0])
        part = heat[low:high]
        levels = np.ceil(_LEVELS * np.log1p(part) / np.log1p(part.max())).astype(np.uint8)
        y = Axis(heat_low_ms(low), heat_low_ms(high), "ms", log=True)
        plot = Plot(
            Axis(0, heat.shape[1], "seconds"), y, f"Latency over time of {own.target}", height=150, width=250, left=40
        )
        plot.image(levels, _LEVELS)
        if (slo := own.first.get("slo_ms")) and y.low < slo < y.high:
            plot.rule(y=float(slo))
        small.append((f"{own.target}, {rounds_of(len(heats))}", plot.svg()))
        worst = max(lines, key=lambda line: line["L"]["max"] or 0.0)
        alone = data.histograms[worst["round"], worst["cell"]].heat
        second = int(np.argmax([_top(column) for column in alone.T]))
        slowest = number(worst["L"]["max"])
        rows.append((own.target, str(len(heats)), slowest, str(worst["round"] + 1), str(second)))
    if not small:
        return None
    left = f" The first {MAX_HEAT_MAPS} targets are shown." if len(group) > MAX_HEAT_MAPS else ""
    return Chart(
        "Latency over time",
        "The rounds of each target one upon the other; the stronger the colour, the more answers in that second. "
        f"Stalls, garbage collections and reloads show here, which percentiles hide.{left}",
        small[0][1],
        ("target", "rounds", "slowest answer, ms", "in round", "in its second"),
        tuple(rows),
        small=tuple(small),
    )


def _overlaid(heats: Sequence[np.ndarray]) -> np.ndarray | None:
    """The sum of heat maps, each from its own first second on; None where there is no answer in any."""
    if not heats:
        return None
    total = np.zeros((heats[0].shape[0], max(heat.shape[1] for heat in heats)), dtype=np.int64)
    for heat in heats:
        total[:, : heat.shape[1]] += heat
    return total if total.any() else None


def _top(column: np.ndarray) -> int:
    found = np.flatnonzero(column)
    return int(found[-1]) if len(found) else -1


def rate_chart(group: Sequence[Series], styles: Styles) -> Chart | None:
    """A high percentile (and thin, p50) over the rate achieved; steps of a curve or tries of a search.

    p99, or p95 where the steps are too short for it.
    """
    for name in ("p99", "p95"):
        curves = [(own, points) for own in group if len(points := _points(own, name)) > 1]
        if curves:
            return _rate_chart(curves, styles, name)
    return None


def _rate_chart(curves: Sequence[tuple[Series, list[_Point]]], styles: Styles, name: str) -> Chart:
    xs = [point.achieved for _, points in curves for point in points]
    ys = [value for _, points in curves for point in points for value in (point.high.value, point.middle.value)]
    x = zero_axis(xs, "right answers a second")
    plot = Plot(x, log_axis(ys, "ms"), "Latency over the rate achieved", height=280)
    slo = next((own.first.get("slo_ms") for own, _ in curves if own.first.get("slo_ms")), None)
    if slo:
        plot.rule(y=float(slo))
    rows = []
    for own, points in curves:
        style = styles[own.target]
        up = [point for point in points if point.up and not math.isnan(point.high.low)]
        plot.band([(p.achieved, p.high.high) for p in up], [(p.achieved, p.high.low) for p in up], style.colour)
        for rising in (True, False):
            way = [point for point in points if point.up is rising]
            plot.line([(p.achieved, p.middle.value) for p in way], style.colour, "dot", faint=True)
            plot.line([(p.achieved, p.high.value) for p in way], style.colour, style.dash, faint=not rising)
        for point in points:
            rates = f"offered {point.offered:.4g}/s, achieved {point.achieved:.4g}/s"
            told = f"{own.target}: {rates}, {name} {point.high.value:.3g} ms"
            at_point = (point.achieved, point.high.value, style.colour)
            plot.point(*at_point, shape=style.colour, faint=point.saturated, title=told)
            rows.append(
                (
                    own.target,
                    "up" if point.up else "down",
                    number(point.offered),
                    number(point.achieved),
                    number(point.middle.value),
                    with_interval(point.high),
                    "saturated" if point.saturated else "",
                )
            )
    best = {own.target: max((p.achieved for p in points if not p.saturated), default=None) for own, points in curves}
    told = "; ".join(f"{target} {number(value)}/s" for target, value in best.items())
    return Chart(
        "Latency over rate",
        f"{name} with its interval over rounds, p50 dotted; pale marks are past saturation (achieved below 99 % of "
        f"offered), pale lines are the way back down. Highest rate before saturation: {told}.",
        plot.svg(),
        ("target", "way", "offered /s", "achieved /s", "p50, ms", f"{name}, ms (95 % interval)", ""),
        tuple(rows),
        (*legend_of([own for own, _ in curves], styles), *(((patch("slo"), f"objective {slo:g} ms"),) if slo else ())),
    )


@dataclass(frozen=True, slots=True)
class _Point:
    """One step over all rounds; `up` until the highest rate."""

    offered: float
    achieved: float
    middle: Interval
    high: Interval
    up: bool

    @property
    def saturated(self) -> bool:
        return self.achieved < 0.99 * self.offered


def _points(series: Series, name: str) -> list[_Point]:
    """A point a step, or a rate that was tried, over the rounds that are shown, where it has both percentiles."""
    found: dict[tuple[int, float], list[tuple[float, float, float, float]]] = {}
    for line in (line for place in series.shown_rounds() for line in series.rounds[place]):
        steps = [(int(step["step"]), float(step["rate"]), step) for step in line["steps"] if step["rate"] > 0]
        if series.is_search:
            steps = [(0, float(line["rate_offered"]), line)]
        for index, rate, step in steps:
            if step["L"]["p50"] and step["L"][name]:
                entry = (step["offered"], step["achieved"], step["L"]["p50"], step["L"][name])
                found.setdefault((index, rate), []).append(entry)
    top = max(found, key=lambda key: key[1], default=(0, 0.0))
    return [
        _Point(
            offered=float(np.mean([item[0] for item in found[key]])),
            achieved=float(np.mean([item[1] for item in found[key]])),
            middle=_over_rounds([item[2] for item in found[key]]),
            high=_over_rounds([item[3] for item in found[key]]),
            up=key[0] <= top[0],
        )
        for key in sorted(found)
    ]


def _over_rounds(values: list[float]) -> Interval:
    found = bootstrap_mean(np.log(values), resamples=2000)
    return Interval(*(math.exp(end) for end in (found.value, found.low, found.high)))
