"""The report as Markdown, JSON, CSV and a picture for a README."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from loadtests.analysis.series import Series
from loadtests.campaign_report.chart import figure
from loadtests.campaign_report.content import FIGURES
from loadtests.campaign_report.data import CampaignData
from loadtests.campaign_report.other_charts import cut
from loadtests.campaign_report.svg import BOTTOM, TOP, WIDTH, Axis, Plot, log_axis

# The page's light colours; a picture stands alone and has no page to take them from.
_PICTURE_STYLE = (
    "svg{background:#fff;font-family:system-ui,sans-serif}.t,.a,.h{fill:#1d2430;font-size:11px}.a{fill:#5a6474}"
    ".h{font-size:13px;font-weight:600}.g{stroke:#d8dde5;stroke-width:.6;fill:none}.l{fill:none;stroke-width:2}"
    ".l.s0{stroke:#0072b2}.p.s0,.f.s0{fill:#0072b2}.l.s1{stroke:#d55e00}.p.s1,.f.s1{fill:#d55e00}"
)


def markdown_text(content: dict[str, Any]) -> str:
    """Title, verdicts and tables; names cannot break out of their cells."""
    lines = [f"# {markdown_cell(content['title'])}", ""]
    validity = content["validity"]
    lines += [f"{validity['valid']} of {validity['cells']} cells are VALID.", ""]
    for kind in content["verdicts"]:
        lines += [f"**{kind['title']}**", ""]
        if kind["why"]:
            # As on the page: what holds for all of many pairs is said once.
            words = f"No verdict on any of {len(kind['rows'])} pairs: {markdown_cell(kind['why'])}."
            lines += [f"{words} `twinserve bench report --format json` has their ratios.", ""]
            continue
        lines += [
            f"- *{item['word']}* ({markdown_cell(item['about'])}): {markdown_cell(item['text'])}"
            for item in kind["rows"]
        ]
        lines.append("")
    for group in content["groups"]:
        headers = ["target", "server", *(title for _, title in group["figures"]), "valid rounds", "failures"]
        lines += [
            "",
            f"## {markdown_cell(group['model'])}, {markdown_cell(group['scenario'])}",
            "",
            markdown_cell(group["how"]),
            "",
        ]
        lines += [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
        for row in group["rows"]:
            cells = [row["target"], row["server"], *(row["figures"][name] for name, _ in group["figures"])]
            cells += [row["rounds"], f"{row['failed']:,} of {row['requests']:,}"]
            lines.append(f"| {' | '.join(markdown_cell(str(cell)) for cell in cells)} |")
    lines += ["", f"Figures are geometric means over valid rounds with 95 % intervals. `{content['command']}`", ""]
    return "\n".join(lines)


def json_text(data: CampaignData, content: dict[str, Any]) -> str:
    """Everything that decides: title, findings, the table's values and every cell's line."""
    document = {
        "schema": 1,
        "title": content["title"],
        "run": data.run.id,
        "tier": data.tier,
        "status": data.status,
        "comparisons": [item.to_json() for item in data.findings.comparisons],
        "table": [
            {"model": series.model, "scenario": series.scenario, "target": series.target, **_figures(series)}
            for series in data.series
        ],
        "cells": list(data.lines),
        "sha256": dict(data.sha256),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def csv_text(data: CampaignData) -> str:
    """One row a target and scenario: figures with the ends of their intervals. No cell can be a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [f"{name}{end}" for name, _ in FIGURES for end in ("", "_low", "_high")]
    writer.writerow(["run", "model", "scenario", "target", "server", "stand_in", "rounds", "valid_rounds", *names])
    for series in data.series:
        facts = (data.run.id, series.model, series.scenario, series.target, series.first["server"], series.stand_in)
        figures = _figures(series)
        values = [(figures[name] or {}).get(end) for name, _ in FIGURES for end in ("value", "low", "high")]
        counts = (len(series.rounds), len(series.valid_rounds()))
        # The csv module writes None as nothing.
        writer.writerow([*(csv_cell(str(fact)) for fact in facts), *counts, *values])
    return buffer.getvalue()


def picture_svg(data: CampaignData, title: str) -> str:
    """p50 to p99 of every target of the first scenario, as a file of its own."""
    first = data.series[0]
    group = [
        s for s in data.series if (s.model, s.scenario) == (first.model, first.scenario) and not s.first["control"]
    ]
    found = [(own, figure(own, "p50"), figure(own, "p99")) for own in group]
    values = [item.value for _, *pair in found for item in pair if item]
    height = TOP + BOTTOM + 26.0 * len(found) + 22
    plot = Plot(
        log_axis(values, "ms, from the median to p99; orange: through the gateway"),
        Axis(-0.5, len(found), ""),
        title,
        height,
        150.0,
    )
    plot.text(plot.x.low, len(found) - 0.3, f"{first.model}, {first.scenario}"[:60], anchor="start", kind="h")
    for place, (own, p50, p99) in enumerate(found):
        y = float(len(found) - 1 - place)
        colour = 1 if own.first["path"] == "gateway" else 0
        if p50 and p99:
            plot.line([(p50.value, y), (p99.value, y)], colour)
        for item, shape in ((p50, 0), (p99, 1)):
            if item:
                plot.point(item.value, y, colour, shape=shape)
        plot.label_left(y, cut(own.target))
    body = str(plot.svg(y_labels=False))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH:g}" height="{2 * height:g}"'
    return body.replace("<svg", head, 1).replace(">", f"><style>{_PICTURE_STYLE}</style>", 1) + "\n"


def _figures(series: Series) -> dict[str, dict[str, float | None] | None]:
    """Each figure with the ends of its interval; an end that is not known is null."""
    found = {name: figure(series, name) for name, _ in FIGURES}
    return {
        name: {end: _finite(getattr(item, end)) for end in ("value", "low", "high")} if item else None
        for name, item in found.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown_cell(text: str) -> str:
    """Text that no mark of Markdown in it changes."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def csv_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text
