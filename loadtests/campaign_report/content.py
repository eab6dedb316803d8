"""What the page says, ready to print; names that users chose are still plain text here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from loadtests.analysis.compare import Comparison
from loadtests.analysis.series import Series
from loadtests.analysis.validity import limits_of
from loadtests.campaign_report.chart import Chart, Style, figure, shown_lines, styles_of
from loadtests.campaign_report.data import CampaignData
from loadtests.campaign_report.decision import decision_of
from loadtests.campaign_report.latency_charts import (
    distribution_chart,
    heat_chart,
    lag_chart,
    percentile_chart,
    rate_chart,
    shift_chart,
)
from loadtests.campaign_report.other_charts import (
    breakdown_chart,
    forest_chart,
    outcome_chart,
    protocol_chart,
    sweep_chart,
    time_chart,
)
from loadtests.campaign_report.tables import (
    costs_of,
    environment_of,
    health_of,
    ledger_of,
    mean_of,
    parity_of,
    resources_of,
)
from loadtests.campaign_report.words import FAMILIES, PROTOCOLS, caveat, interval, sentence, share, with_interval, word
from loadtests.words import number

Row = dict[str, Any]
# The figures of the table, each with its heading.
FIGURES = (
    ("p50", "p50, ms"),
    ("p95", "p95, ms"),
    ("p99", "p99, ms"),
    ("achieved", "achieved /s"),
    ("goodput", "goodput /s"),
    ("lambda", "λ*, /s"),
    ("retention", "kept under overload"),
    ("recovery", "recovery, s"),
    ("ready", "ready, s"),
    ("first_answer", "first answer, s"),
    ("steady", "steady, s"),
)
_UTILISATION = 0.6
_MOST_SHIFTS = 3
# Beyond so many scenarios the page would grow past three megabytes.
MOST_CHARTED = 20
_MOST_REASONS = 40


def content_of(data: CampaignData) -> Row:
    """Everything that the template shows."""
    styles = styles_of(data.series)
    stand_ins = sorted({str(line["server"]) for line in data.lines if line["stand_in"]})
    return {
        "title": title_of(data, stand_ins),
        "stand_ins": stand_ins,
        "data": data,
        "limits": limits_of(data.tier),
        "verdicts": verdicts_of(data),
        "validity": validity_of(data),
        "groups": [
            _group(data, group, styles, plain=place >= MOST_CHARTED) for place, group in enumerate(_groups(data))
        ],
        "forest": forest_chart(
            data.findings.of("stacks", "gateway", "variants", "protocols", "configs"), "All comparisons"
        ),
        "protocols": protocol_chart(data.findings.of("protocols")[:12], styles),
        "sweeps": _sweeps(data, styles),
        "controls": forest_chart(data.findings.of("control"), "A/A controls"),
        "resolutions": [item for item in data.findings.of("control") if not math.isnan(item.resolution)],
        "resources": resources_of(data),
        "costs": costs_of(data),
        "price": data.manifest.get("price_per_hour") or data.campaign.get("price_per_hour"),
        "utilisation": data.manifest.get("utilisation") or data.campaign.get("utilisation") or _UTILISATION,
        "health": health_of(data),
        "null": data.null,
        "lag": lag_chart(data, data.series, styles, limits_of(data.tier).lag_p99_ms),
        "parity": parity_of(data),
        "ledger": ledger_of(data),
        "environment": environment_of(data),
        "command": _command(data),
        "decision": decision_of(data),
    }


def title_of(data: CampaignData, stand_ins: Sequence[str]) -> str:
    """The title; it names stand-ins and set-ups that were compared though they are unlike."""
    name = str(data.manifest.get("campaign") or data.campaign.get("name") or data.run.id)
    title = f"{name}: load test" if data.tier == "run" else f"{name}: a quick look"
    if stand_ins:
        title += f", with {' and '.join(stand_ins)}"
    if data.findings.allowed:
        title += f". UNLIKE SET-UPS COMPARED: {'; '.join(data.findings.allowed)}"
    return title


def verdicts_of(data: CampaignData) -> list[Row]:
    """Each kind of comparison with one sentence a pair, those with a verdict first; controls have their own panel."""
    order = {"slower": 0, "faster": 0, "equivalent": 1, "inconclusive": 2, "no verdict": 3}
    kinds = []
    for family, title in FAMILIES.items():
        found = [item for item in data.findings.of(family) if item.family != "control"]
        rows = [
            {"word": word(item), "text": sentence(item), "about": f"{item.model}, {item.scenario}"}
            for item in sorted(found, key=lambda item: order[word(item)])
        ]
        # One reason that holds for all of many pairs is said once.
        reasons = {item.why for item in found}
        same = reasons.pop() if len(rows) > 1 and len(reasons) == 1 and not any(item.verdict for item in found) else ""
        if rows:
            kinds.append({"title": title, "rows": rows, "why": same})
    return kinds


def validity_of(data: CampaignData) -> Row:
    """How many cells are valid, and the first of those that are not."""
    bad = [line for line in data.lines if not line["valid"]]
    return {
        "valid": len(data.lines) - len(bad),
        "cells": len(data.lines),
        "bad": bad[:_MOST_REASONS],
        "more": max(len(bad) - _MOST_REASONS, 0),
    }


def table_row(series: Series) -> Row:
    """A row of the table: geometric means over valid rounds, each with its interval over rounds.

    What was within the objective and what failed is counted in the same rounds.
    """
    lines = shown_lines(series)
    valid = series.valid_rounds()
    figures = {name: figure(series, name) for name, _ in FIGURES if name != "lambda" or series.is_search}
    return {
        "target": series.target,
        "server": series.first["server"],
        "stand_in": series.stand_in,
        "path": series.first["path"],
        "protocol": _protocols(series),
        "figures": {name: f"{with_interval(figures.get(name))} {caveat(series, name)}".rstrip() for name, _ in FIGURES},
        "values": {name: found.value if (found := figures.get(name)) else None for name, _ in FIGURES},
        "intervals": {name: f"{interval(figures.get(name))} {caveat(series, name)}".strip() for name, _ in FIGURES},
        "attainment": share(mean_of([line["attainment"] for line in lines])),
        "failed": sum(int(count) for line in lines for name, count in line["outcomes"].items() if name != "ok"),
        "requests": sum(int(line["scheduled"]) for line in lines),
        "rounds": f"{len(valid)} of {len(series.rounds)}",
        "all_valid": len(valid) == len(series.rounds),
        "none_valid": not valid,
        "control": bool(series.first.get("control")),
    }


def _protocols(series: Series) -> str:
    """What the client spoke, and what the gateway spoke to the server where that is known."""
    spoken = [
        series.first["protocol"],
        series.first.get("upstream_protocol") if series.first["path"] == "gateway" else None,
    ]
    return " → ".join(PROTOCOLS.get(str(name), str(name)) for name in spoken if name)


def _groups(data: CampaignData) -> list[list[Series]]:
    found: dict[tuple[str, str], list[Series]] = {}
    for series in data.series:
        found.setdefault((series.model, series.scenario), []).append(series)
    return list(found.values())


def _group(data: CampaignData, group: list[Series], styles: dict[str, Style], *, plain: bool) -> Row:
    """One model in one scenario. The A/A twin is in the table and in a panel of its own, not in the charts.

    A `plain` one has its table alone.
    """
    real = [own for own in group if not own.first.get("control")]
    pairs = [
        item
        for family in ("stacks", "gateway", "variants")
        for item in data.findings.of(family)
        if (item.model, item.scenario) == (group[0].model, group[0].scenario)
    ]
    charts = (
        []
        if plain
        else [
            rate_chart(real, styles),
            percentile_chart(data, real, styles),
            outcome_chart(group),
            time_chart(data, real, styles),
            distribution_chart(data, real, styles),
            *_shifts(data, pairs),
            heat_chart(data, real),
            breakdown_chart(real),
        ]
    )
    shown = [(name, title) for name, title in FIGURES if any(figure(own, name) for own in group) or name == "p99"]
    return {
        "model": group[0].model,
        "scenario": group[0].scenario,
        "how": _how(group[0]),
        "figures": [item for item in shown if item[0] != "lambda" or any(own.is_search for own in group)],
        "rows": [table_row(own) for own in group],
        "plain": plain,
        "charts": [chart for chart in charts if chart],
        "failures": _failures(group),
    }


def _sweeps(data: CampaignData, styles: dict[str, Style]) -> list[Chart]:
    """A chart for each scenario that was planned with several sizes of a request."""
    found: dict[tuple[str, str], list[Series]] = {}
    for own in data.series:
        name, mark, _ = own.scenario.rpartition(" rows=")
        if mark and not own.first.get("control"):
            found.setdefault((own.model, name), []).append(own)
    return [
        sweep_chart(group, styles, f"{model}, {name}")
        for (model, name), group in found.items()
        if len({own.first["rows"] for own in group}) > 1
    ]


def _shifts(data: CampaignData, pairs: Sequence[Comparison]) -> list[Chart]:
    return [chart for pair in pairs[:_MOST_SHIFTS] if (chart := shift_chart(data, pair))]


def _how(group: Series) -> str:
    first = group.first
    kind = str(first["kind"]).replace("_", " ")
    slo = f", objective {number(first['slo_ms'])} ms" if first.get("slo_ms") else ""
    if group.is_search:
        return f"{kind}; open loop, {first['arrivals']} arrivals, a rate is searched for{slo}"
    if first["arrivals"] == "closed":
        load = f"closed loop, {first['concurrency']} at once"
    elif first["steps"]:
        rates = ", ".join(number(step["rate"]) for step in first["steps"])
        load = f"open loop, {first['arrivals']} arrivals, steps of {rates} /s"
    else:
        load = f"open loop, {first['arrivals']} arrivals, {number(first['rate_offered'])} /s"
    return f"{kind}; {load}; {number(first['T'])} s a round; {first['rows']} row(s) a request{slo}"


def _failures(group: Sequence[Series]) -> list[tuple[str, str, int]]:
    found: Counter[tuple[str, str]] = Counter()
    for own in group:
        for line in shown_lines(own):
            for text, count in (line.get("failures") or {}).items():
                found[own.target, text] += int(count)
    return [(target, text, count) for (target, text), count in found.most_common(8)]


def _command(data: CampaignData) -> str:
    """What makes the run again, else what made it."""
    return str(data.manifest.get("reproduce") or data.manifest.get("command") or "twinserve bench run campaign.yaml")
