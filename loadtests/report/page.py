"""Builds the report page from a summary and the raw samples behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtests.replies import Outcome
from loadtests.report.plots import Series, axis_limits, distribution_svg, percentile_svg
from loadtests.report.words import number, title, transport_word
from loadtests.results import CellResult
from loadtests.summary import stand_ins_of

# Above this share of a core the generator, not the server, may set the pace of a cell.
GENERATOR_LIMIT = 0.8
Row = Mapping[str, Any]


def write_report(summary: Mapping[str, Any], samples: Sequence[CellResult], path: Path) -> None:
    """Writes the report: one HTML file without script or outside references, whole or not at all.

    `summary` is `build_summary`'s document; `samples` are the results it was built from, for the distributions.
    """
    environment = Environment(
        loader=PackageLoader("loadtests.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(number=number, transport=transport_word)
    text = environment.get_template("page.html").render(page_content(summary, samples))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(path)


def page_content(summary: Mapping[str, Any], samples: Sequence[CellResult]) -> dict[str, Any]:
    """Everything that the template shows, ready to print; user-chosen names are still plain text here."""
    stand_ins = stand_ins_of(summary)
    return {
        "title": title(stand_ins),
        "stand_ins": stand_ins,
        "models": [_model(name, facts, summary["cells"], samples) for name, facts in summary["models"].items()],
        "environment": summary["environment"],
        "generator_limit": GENERATOR_LIMIT,
        "busy": [
            {"label": result.cell.label, "cpu": result.generator_cpu}
            for result in samples
            if result.generator_cpu is not None and result.generator_cpu > GENERATOR_LIMIT
        ],
        "requests": sum(cell["requests"] for cell in summary["cells"]),
        "failures": sum(cell["failures"] for cell in summary["cells"]),
    }


def overheads(cells: Iterable[Row]) -> list[dict[str, Any]]:
    """For each matched pair the medians direct and via the gateway, and their difference in ms.

    Each pair stays within one server, so it may be told from a run with a stand-in as well.
    """
    direct: dict[tuple[str, str, str], Row] = {}
    found = []
    for cell in cells:
        key = (cell["model"], cell["stack"], cell["protocol"])
        if cell["path"] == "direct":
            direct[key] = cell
        elif cell["upstream"] == "matched" and key in direct:
            before, after = direct[key]["p50_ms"], cell["p50_ms"]
            found.append(
                {
                    "server": cell["server"],
                    "protocol": cell["protocol"],
                    "direct": before,
                    "gateway": after,
                    "difference": after - before if before is not None and after is not None else None,
                }
            )
    return found


def _model(name: str, facts: Row, cells: Sequence[Row], samples: Sequence[CellResult]) -> dict[str, Any]:
    own = [cell for cell in cells if cell["model"] == name]
    results = [result for result in samples if result.cell.model == name]
    return {
        "name": name,
        "facts": facts,
        "cells": own,
        "overheads": overheads(own),
        "charts": _charts(results, key=f"c{list(dict.fromkeys(cell['model'] for cell in cells)).index(name)}"),
        "failed": [_failed(result) for result in results if result.failures],
    }


def _failed(result: CellResult) -> dict[str, Any]:
    kinds = {kind: count for kind, count in result.outcomes.items() if count and kind != Outcome.OK}
    return {"label": result.cell.label, "kinds": kinds, "examples": result.examples}


def _charts(results: Sequence[CellResult], *, key: str) -> list[dict[str, Any]]:
    drawn = {
        result.cell.stack: [_series(r) for r in results if r.cell.stack == result.cell.stack] for result in results
    }
    limits = axis_limits([item for series in drawn.values() for item in series])
    servers = {result.cell.stack: result.server for result in results}
    return [
        {
            "stack": stack,
            "server": servers[stack],
            "distribution": _inline(distribution_svg(series, limits, f"{key}d{index}")),
            "tail": _inline(percentile_svg(series, limits, f"{key}t{index}")),
        }
        for index, (stack, series) in enumerate(drawn.items())
    ]


def _inline(svg: str) -> Markup:
    # Ours from the first to the last character: plots.py draws fixed words and numbers only.
    return Markup(svg)  # noqa: S704


def _series(result: CellResult) -> Series:
    cell = result.cell
    transport = transport_word(cell.protocol)
    if cell.upstream == "default":
        label, kind = f"{transport} default", "default"
    else:
        label, kind = f"{transport} {cell.path}", str(cell.protocol)
    return Series(label, kind, cell.path == "gateway", sorted(result.latencies_ms))
