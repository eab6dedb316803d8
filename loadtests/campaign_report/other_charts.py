"""Charts of comparisons, outcomes, where the time went, and the rate over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loadtests.analysis.compare import Comparison
from loadtests.analysis.series import METRICS, Line, Series
from loadtests.analysis.statistics import EQUIVALENCE
from loadtests.campaign_report.chart import Chart, Style, figure, legend_of, shown_lines
from loadtests.campaign_report.data import CampaignData
from loadtests.campaign_report.svg import BOTTOM, TOP, Axis, Plot, log_axis, patch, zero_axis
from loadtests.campaign_report.words import FAMILIES, share, times, where, word
from loadtests.words import number

# Where the time goes, from the client inwards; the class of its colour.
PARTS = (
    ("client", "dispatch lag", 7),
    ("net", "network and client", 4),
    ("decode", "gateway: decode", 1),
    ("queue", "gateway: queue", 6),
    ("encode", "gateway: encode", 2),
    ("compute", "upstream", 0),
)
_OUTCOMES = (
    ("ok", "right answers", 2),
    ("wrong_answer", "wrong answers", 3),
    ("shed", "shed", 6),
    ("http_4xx", "HTTP 4xx", 4),
    ("http_5xx", "HTTP 5xx", 1),
    ("timeout", "timeouts", 5),
    ("conn_error", "connection errors", 7),
    ("dropped_by_client", "dropped by the generator", 0),
)
_ROW = 24.0
_NAMES = 150.0


def forest_chart(found: Sequence[Comparison], title: str) -> Chart | None:
    """One row a comparison: B/A with its interval; each row's grey band is its margin, within which nothing is said."""
    rows = [item for item in found if item.ratios]
    if not rows:
        return None
    ends = [
        value
        for item in rows
        for value in (item.ratios[0].interval.value, item.ratios[0].interval.low, item.ratios[0].interval.high)
        if not math.isnan(value)
    ]
    wide = max([1.25, *(max(value, 1 / value) for value in ends if value > 0)]) * 1.06
    x = Axis(1 / wide, wide, "ratio B / A", log=True, format=lambda value: f"{value:.3g}")
    plot = Plot(x, Axis(-0.5, len(rows) - 0.5, ""), title, height=TOP + BOTTOM + _ROW * len(rows), left=_NAMES)
    for place, item in enumerate(rows):
        y, margin = float(len(rows) - 1 - place), margin_of(item)
        plot.bar(1 / (1 + margin), y - 0.5, 1 + margin, y + 0.5, "margin")
    plot.rule(x=1.0, kind="zero")
    for place, item in enumerate(rows):
        y = float(len(rows) - 1 - place)
        interval = item.ratios[0].interval
        told = f"{item.b.target} / {item.a.target}: {times(interval)}; {word(item)}"
        colour = _colour(item)
        if not math.isnan(interval.low):
            plot.line([(interval.low, y), (interval.high, y)], colour)
        plot.point(interval.value, y, colour, shape=1, title=told)
        plot.label_left(y, cut(f"{place + 1}. {item.scenario}"))
    return Chart(
        title,
        "Each row is B divided by A over rounds, with its 95 % interval; its band is what counts as no difference: "
        f"±{share(EQUIVALENCE)}, or what the A/A control of its scenario cannot tell apart. "
        "Rows are numbered as in the table below.",
        plot.svg(y_labels=False),
        ("", "what", "A", "B", "figure", "B / A (95 % interval)", "p, adjusted", "verdict"),
        tuple(
            (
                str(place + 1),
                f"{FAMILIES[item.family]}: {where(item)}",
                item.a.target,
                item.b.target,
                METRICS[item.ratios[0].metric].title,
                times(item.ratios[0].interval),
                f"{item.verdict.p_adjusted:.2g}" if item.verdict else "",
                word(item) if item.verdict else f"none: {item.why}",
            )
            for place, item in enumerate(rows)
        ),
        ((patch(2), "faster"), (patch(3), "slower"), (patch(0), "equivalent"), (patch(7), "inconclusive, no verdict")),
    )


def margin_of(item: Comparison) -> float:
    """The gap, as a share, within which nothing is said of a comparison: its own scenario's."""
    return EQUIVALENCE if math.isnan(item.resolution) else max(EQUIVALENCE, item.resolution)


def _colour(item: Comparison) -> int:
    return {"faster": 2, "slower": 3, "equivalent": 0}.get(item.verdict.word if item.verdict else "", 7)


def outcome_chart(group: Sequence[Series]) -> Chart | None:
    """What became of every scheduled request of the rounds that are shown."""
    totals = [(own, _summed(shown_lines(own))) for own in group]
    totals = [(own, counts) for own, counts in totals if sum(counts.values())]
    if not totals:
        return None
    x = Axis(0, 1, "share of scheduled requests", format=lambda value: f"{100 * value:g} %")
    height = TOP + BOTTOM + _ROW * len(totals)
    plot = Plot(x, Axis(-0.5, len(totals) - 0.5, ""), "What became of the requests", height=height, left=_NAMES)
    seen, rows = set(), []
    for place, (own, counts) in enumerate(totals):
        y, start, total = float(len(totals) - 1 - place), 0.0, sum(counts.values())
        for name, title, colour in _OUTCOMES:
            part = counts.get(name, 0) / total
            if part:
                plot.bar(start, y - 0.34, start + part, y + 0.34, colour, f"{own.target}: {title} {share(part)}")
                seen.add(name)
            start += part
        plot.label_left(y, cut(own.target))
        failed = ", ".join(f"{title} {counts[name]:,}" for name, title, _ in _OUTCOMES[1:] if counts.get(name))
        lines = shown_lines(own)
        rates = [_mean(lines, name) for name in ("offered", "achieved", "goodput", "attainment")]
        rows.append(
            (own.target, f"{total:,}", *(number(rate) for rate in rates[:3]), share(rates[3]), failed or "none")
        )
    wrong = sum(sum(counts.values()) - counts.get("ok", 0) for _, counts in totals)
    return Chart(
        "Offered, achieved, goodput",
        f"{wrong:,} of {sum(sum(counts.values()) for _, counts in totals):,} requests had no right answer. "
        "Goodput counts right answers within the objective; whatever failed or was dropped misses it.",
        plot.svg(y_labels=False),
        ("target", "scheduled", "offered /s", "achieved /s", "goodput /s", "within the objective", "failures"),
        tuple(rows),
        tuple((patch(colour), title) for name, title, colour in _OUTCOMES if name in seen),
    )


def breakdown_chart(group: Sequence[Series]) -> Chart | None:
    """Means of where the time of right answers went: means add up, percentiles do not."""
    bars = []
    for own in group:
        parts = {name: _part(own, name) for name, _, _ in PARTS}
        if parts["compute"] is None:
            # Nobody behind the client gave an account: what is known is the lag and the rest.
            whole = [float(line["S"]["mean"]) for line in shown_lines(own) if line["S"]["mean"]]
            parts = {
                **dict.fromkeys(parts),
                "client": parts["client"],
                "rest": float(np.mean(whole)) if whole else None,
            }
        bars.append((own, parts))
    bars = [(own, parts) for own, parts in bars if any(parts.values())]
    if not bars:
        return None
    known = (*PARTS, ("rest", "server and network, not told apart", 5))
    sums = [sum(value or 0.0 for value in parts.values()) for _, parts in bars]
    height = TOP + BOTTOM + _ROW * len(bars)
    plot = Plot(
        zero_axis(sums, "mean, ms"), Axis(-0.5, len(bars) - 0.5, ""), "Where the time went", height=height, left=_NAMES
    )
    rows, seen = [], set()
    for place, (own, parts) in enumerate(bars):
        y, start = float(len(bars) - 1 - place), 0.0
        for name, title, colour in known:
            value = parts.get(name)
            if value:
                plot.bar(start, y - 0.34, start + value, y + 0.34, colour, f"{own.target}: {title} {value:.3g} ms")
                start += value
                seen.add(name)
        plot.label_left(y, cut(own.target))
        overhead = [_part(own, "overhead", name) for name in ("p50", "p99")]
        rows.append((own.target, *(number(parts.get(name)) for name, _, _ in known), *(number(v) for v in overhead)))
    through = [(own.target, _part(own, "overhead", "p50")) for own, _ in bars if _part(own, "overhead", "p50")]
    told = "; ".join(f"{name} {number(value)} ms" for name, value in through)
    return Chart(
        "Where the time went",
        f"What the gateway and the way to it add to one request, median: {told}. "
        if told
        else "No gateway was between. ",
        plot.svg(y_labels=False),
        ("target", *(f"{title}, ms" for _, title, _ in known), "overhead p50, ms", "overhead p99, ms"),
        tuple(rows),
        tuple((patch(colour), title) for name, title, colour in known if name in seen),
    )


def _part(series: Series, name: str, figure: str = "mean") -> float | None:
    values = [
        part[figure] for line in shown_lines(series) if (part := line["parts"].get(name)) and part[figure] is not None
    ]
    return float(np.mean(values)) if values else None


def time_chart(data: CampaignData, group: Sequence[Series], styles: dict[str, Style]) -> Chart | None:
    """Right answers a second over time, the mean of the shown rounds, beside what was offered: overload, recovery."""
    steps = group[0].first["steps"]
    if not steps:
        return None
    offered, start = [], 0.0
    for step in steps:
        offered += [(start, float(step["rate"])), (start + float(step["seconds"]), float(step["rate"]))]
        start += float(step["seconds"])
    curves = {}
    for own in group:
        found = [data.histograms.get((int(line["round"]), str(line["cell"]))) for line in shown_lines(own)]
        seconds = [item.heat.sum(axis=0) for item in found if item is not None]
        if seconds:
            length = min(len(item) for item in seconds)
            curves[own.target] = np.mean([item[:length] for item in seconds], axis=0)
    if not curves:
        return None
    top = [rate for _, rate in offered] + [float(values.max()) for values in curves.values()]
    plot = Plot(Axis(0, start, "seconds"), zero_axis(top, "a second"), "Right answers a second over time")
    plot.line(offered, 7, "dash")
    window = max(int(start / 60), 1)
    for name, values in curves.items():
        smooth = [
            (place + window / 2, float(values[place : place + window].mean()))
            for place in range(0, len(values), window)
        ]
        plot.line(smooth, styles[name].colour, styles[name].dash)
    rows = []
    for own in group:
        for index, step in enumerate(own.first["steps"]):
            all_steps = [line["steps"][index] for line in shown_lines(own) if len(line["steps"]) > index]
            good = [item["goodput"] for item in all_steps if item["goodput"] is not None]
            rows.append(
                (
                    own.target,
                    str(index + 1),
                    number(step["rate"]),
                    number(float(np.mean([s["achieved"] for s in all_steps]))),
                    number(float(np.mean(good)) if good else None),
                )
            )
    return Chart(
        "Rate over time",
        "Dashed grey: what was offered. Where answers fall behind it the server is saturated; where they are above it, "
        "it works off what waited.",
        plot.svg(),
        ("target", "step", "offered /s", "achieved /s", "goodput /s"),
        tuple(rows),
        (*legend_of(group, styles), (patch(7), "offered")),
    )


def protocol_chart(pairs: Sequence[Comparison], styles: dict[str, Style]) -> Chart | None:
    """REST and gRPC of the same server side by side: p50 and p99 of each."""
    sides = [own for pair in pairs for own in (pair.a, pair.b)]
    points = {own.key: (figure(own, "p50"), figure(own, "p99")) for own in sides}
    values = [f.value for pair in points.values() for f in pair if f]
    if not values:
        return None
    height = TOP + BOTTOM + _ROW * len(pairs)
    plot = Plot(log_axis(values, "ms"), Axis(-0.5, len(pairs) - 0.5, ""), "REST and gRPC", height=height, left=_NAMES)
    rows = []
    for place, pair in enumerate(pairs):
        y = float(len(pairs) - 1 - place)
        for own, lift in ((pair.a, 0.16), (pair.b, -0.16)):
            p50, p99 = points[own.key]
            colour = 0 if own is pair.a else 1
            if p50 and p99:
                plot.line([(p50.value, y + lift), (p99.value, y + lift)], colour)
            for value, shape in ((p50, 0), (p99, 1)):
                if value:
                    plot.point(value.value, y + lift, colour, shape=shape, title=f"{own.target} {value.value:.3g} ms")
            rows.append(
                (f"{pair.model}, {pair.scenario}", own.target, *(number(v.value if v else None) for v in (p50, p99)))
            )
        plot.label_left(y, cut(f"{pair.scenario}: {pair.a.identity}"))
    return Chart(
        "REST and gRPC",
        "From the median (circle) to p99 (square) of each, the same server behind both. Encoding the request is "
        "outside the clock on both sides.",
        plot.svg(y_labels=False),
        ("scenario", "target", "p50, ms", "p99, ms"),
        tuple(rows),
        ((patch(0), "REST"), (patch(1), "gRPC")),
    )


def sweep_chart(group: Sequence[Series], styles: dict[str, Style], name: str) -> Chart:
    """One scenario with several sizes of a request: the median over rows, and what a row costs."""
    targets = list(dict.fromkeys(own.target for own in group))
    curves = {target: [own for own in group if own.target == target] for target in targets}
    points = {
        target: [
            (float(own.first["rows"]), found.value)
            for own in sorted(found_in, key=lambda own: int(own.first["rows"]))
            if (found := figure(own, "p50"))
        ]
        for target, found_in in curves.items()
    }
    x = log_axis([x for curve in points.values() for x, _ in curve], "rows a request")
    plot = Plot(x, log_axis([y for curve in points.values() for _, y in curve], "median, ms"), "Median over rows")
    rows = []
    for target, curve in points.items():
        plot.line(curve, styles[target].colour, styles[target].dash)
        for size, value in curve:
            plot.point(size, value, styles[target].colour, title=f"{target}: {size:g} rows, {value:.3g} ms")
        for own in curves[target]:
            values = [found.value if (found := figure(own, key)) else None for key in ("p50", "p99", "achieved")]
            each = None if values[0] is None else values[0] / int(own.first["rows"])
            rows.append((target, str(own.first["rows"]), *(number(value) for value in values), number(each)))
    return Chart(
        f"Rows a request: {name}",
        "Where a line rises less than its rows do, larger requests are cheaper by the row.",
        plot.svg(),
        ("target", "rows", "p50, ms", "p99, ms", "achieved requests /s", "median ms a row"),
        tuple(rows),
        legend_of([own[0] for own in curves.values()], styles),
    )


def _summed(lines: Sequence[Line]) -> dict[str, int]:
    total: dict[str, int] = {}
    for line in lines:
        for name, count in line["outcomes"].items():
            total[name] = total.get(name, 0) + int(count)
    return total


def _mean(lines: Sequence[Line], name: str) -> float | None:
    values = [float(line[name]) for line in lines if line[name] is not None]
    return float(np.mean(values)) if values else None


def cut(name: str, most: int = 22) -> str:
    """A name short enough to stand beside a chart."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
