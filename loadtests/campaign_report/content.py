"""What the page says, ready to print; names that users chose are still plain text here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.analysis.compare import Comparison
from loadtests.analysis.series import Series, cpu_per_1k
from loadtests.analysis.validity import LITTLE, limits_of
from loadtests.campaign_report.chart import Chart, Style, figure, styles_of
from loadtests.campaign_report.data import CampaignData
from loadtests.campaign_report.decision import decision_of
from loadtests.campaign_report.latency_charts import (
    distribution_chart,
    heat_chart,
    percentile_chart,
    rate_chart,
    shift_chart,
)
from loadtests.campaign_report.other_charts import (
    breakdown_chart,
    forest_chart,
    outcome_chart,
    protocol_chart,
    time_chart,
)
from loadtests.campaign_report.words import FAMILIES, PROTOCOLS, interval, sentence, share, with_interval, word
from loadtests.report.words import NONE, number

Row = dict[str, Any]
# The figures of the table, each with its heading.
FIGURES = (
    ("p50", "p50, ms"),
    ("p95", "p95, ms"),
    ("p99", "p99, ms"),
    ("achieved", "achieved /s"),
    ("goodput", "goodput /s"),
    ("lambda", "λ*, /s"),
    ("ready", "ready, s"),
    ("first_answer", "first answer, s"),
    ("steady", "steady, s"),
)
_UTILISATION = 0.6
_MOST_SHIFTS = 3
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
        "groups": [_group(data, group, styles) for group in _groups(data)],
        "forest": forest_chart(
            data.findings.of("stacks", "gateway", "variants", "protocols", "configs"), "All comparisons"
        ),
        "protocols": protocol_chart(data.findings.of("protocols")[:12], styles),
        "controls": forest_chart(data.findings.of("control"), "A/A controls"),
        "resolutions": [item for item in data.findings.of("control") if not math.isnan(item.resolution)],
        "resources": resources_of(data),
        "costs": costs_of(data),
        "price": data.manifest.get("price_per_hour") or data.campaign.get("price_per_hour"),
        "utilisation": data.manifest.get("utilisation") or data.campaign.get("utilisation") or _UTILISATION,
        "health": health_of(data),
        "parity": parity_of(data),
        "ledger": ledger_of(data),
        "environment": environment_of(data),
        "command": " ".join(str(part) for part in _command(data)),
        "decision": decision_of(data),
    }


def title_of(data: CampaignData, stand_ins: Sequence[str]) -> str:
    """The title; it names stand-ins and set-ups that were compared though they are unlike."""
    name = str(data.campaign.get("name") or data.run.id)
    title = f"{name}: a quick look" if data.tier == "quick" else f"{name}: load test"
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
            {"word": word(item), "text": sentence(item), "about": f"{item.model}, {item.scenario}"} for item in found
        ]
        if rows:
            kinds.append({"title": title, "rows": sorted(rows, key=lambda row: order[row["word"]])})
    return kinds


def validity_of(data: CampaignData) -> Row:
    """How many cells are valid, and why the others are not."""
    bad = [line for line in data.lines if not line["valid"]]
    reasons = Counter(
        reason.partition(", limit")[0].rstrip("0123456789.e+- ") for line in bad for reason in line["reasons"]
    )
    return {
        "valid": len(data.lines) - len(bad),
        "cells": len(data.lines),
        "bad": bad[:_MOST_REASONS],
        "more": max(len(bad) - _MOST_REASONS, 0),
        "reasons": reasons.most_common(8),
    }


def table_row(series: Series) -> Row:
    """A row of the table: geometric means over valid rounds, each with its interval over rounds."""
    lines = series.lines()
    valid = series.valid_rounds()
    figures = {name: figure(series, name) for name, _ in FIGURES if name != "lambda" or series.is_search}
    return {
        "target": series.target,
        "server": series.first["server"],
        "stand_in": series.stand_in,
        "path": series.first["path"],
        "protocol": _protocols(series),
        "figures": {name: with_interval(figures.get(name)) for name, _ in FIGURES},
        "values": {name: found.value if (found := figures.get(name)) else None for name, _ in FIGURES},
        "intervals": {name: interval(figures.get(name)) for name, _ in FIGURES},
        "attainment": share(_mean([line["attainment"] for line in lines])),
        "failed": sum(int(count) for line in lines for name, count in line["outcomes"].items() if name != "ok"),
        "requests": sum(int(line["scheduled"]) for line in lines),
        "rounds": f"{len(valid)} of {len(series.rounds)}",
        "all_valid": len(valid) == len(series.rounds),
        "control": bool(series.first.get("control")),
    }


def _protocols(series: Series) -> str:
    """What the client spoke, and what the gateway spoke to the server where that is known."""
    spoken = [
        series.first["protocol"],
        series.first.get("upstream_protocol") if series.first["path"] == "gateway" else None,
    ]
    return " → ".join(PROTOCOLS.get(str(name), str(name)) for name in spoken if name)


def resources_of(data: CampaignData) -> list[Row]:
    """What each server of each target used, means over cells; None is what nobody measured."""
    rows = []
    for series in data.series:
        used: dict[str, list[Mapping[str, Any]]] = {}
        for line in series.lines():
            for server in (line.get("resources") or {}).get("servers") or []:
                used.setdefault(str(server.get("name")), []).append(server)
        gpu = [item for line in series.lines() if (item := (line.get("resources") or {}).get("gpu"))]
        watts = [item["energy_j"] for item in gpu if item.get("energy_j") is not None]
        right = sum(int(line["outcomes"].get("ok", 0)) for line in series.lines())
        for name, found in used.items():
            rows.append(
                {
                    "scenario": f"{series.model}, {series.scenario}",
                    "target": series.target,
                    "server": name,
                    "cpu": _mean(
                        [
                            cpu_per_1k({"resources": {**line["resources"], "servers": [server]}})
                            for line in series.lines()
                            if line.get("resources")
                            for server in line["resources"]["servers"]
                            if server.get("name") == name
                        ]
                    ),
                    "rss": _most(found, "rss_peak"),
                    "threads": _most(found, "threads"),
                    "switches": _mean([_sum(item, "ctx_voluntary", "ctx_involuntary") for item in found]),
                    "throttled": _most(found, "throttled"),
                    "joules": sum(watts) / right if watts and right else None,
                    "why": next((str(item["why"]) for item in found if item.get("why")), ""),
                }
            )
    return rows


def costs_of(data: CampaignData) -> list[Row]:
    """The rate that a price buys: lambda* where it was searched, else the highest that was achieved validly."""
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for series in data.series:
        if series.first.get("control") or series.first["kind"] in ("single_stream", "cold"):
            continue
        name = "lambda" if series.is_search else "peak" if series.first["steps"] else "achieved"
        value = figure(series, name)
        what = "λ*" if series.is_search else f"achieved in {series.scenario}"
        key = (series.model, series.target)
        if value and (key not in found or (what == "λ*", value.value) > (found[key][1] == "λ*", found[key][0])):
            found[key] = (value.value, what)
    return [
        {"model": model, "target": target, "rate": rate, "what": what}
        for (model, target), (rate, what) in found.items()
    ]


def health_of(data: CampaignData) -> list[Row]:
    """The generator's figures by target and scenario: the worst of all rounds."""
    rows = []
    for series in data.series:
        lines = series.lines()
        rows.append(
            {
                "scenario": f"{series.model}, {series.scenario}",
                "target": series.target,
                "lag": _most([line["D"] for line in lines], "p99"),
                "lag_max": _most([line["D"] for line in lines], "max"),
                "cpu": _most(lines, "client_cpu_max"),
                "dropped": sum(int(line["dropped"] or 0) for line in lines),
                "opened": _most(lines, "connections_opened"),
                **_little(lines),
                "valid": sum(bool(line["valid"]) for line in lines),
                "cells": len(lines),
            }
        )
    return rows


def _little(lines: Sequence[Mapping[str, Any]]) -> Row:
    """The round that came closest to its limit, or went furthest beyond."""
    checks = [
        check for line in lines for check in line["checks"] if check["name"] == LITTLE and check["value"] is not None
    ]
    worst = max(checks, key=lambda check: check["value"] / check["limit"], default=None)
    if worst is None:
        return {"little": None, "little_limit": None}
    return {"little": worst["value"] / 100, "little_limit": worst["limit"] / 100}


def parity_of(data: CampaignData) -> list[Row]:
    """What the gate found, and the wrong answers of the run itself."""
    wrong: Counter[str] = Counter()
    for line in data.lines:
        wrong[f"{line['model']}/{str(line['target']).removesuffix(' (A/A)')}"] += int(
            line["outcomes"].get("wrong_answer", 0)
        )
    rows = []
    for name in dict.fromkeys([*data.parity, *wrong]):
        found = data.parity.get(name) or {}
        cache = found.get("cache") or {}
        rows.append(
            {
                "target": name,
                "checked": found.get("checked"),
                "bad": found.get("bad"),
                "max_abs": found.get("max_abs"),
                "max_rel": found.get("max_rel"),
                "fault": found.get("fault") or "",
                "wrong": wrong[name],
                "cache": cache.get("ratio"),
                "suspected": bool(cache.get("suspected")),
            }
        )
    return rows


def ledger_of(data: CampaignData) -> Row:
    """The ledger side by side: a row a fact, a column a target; rows that differ are marked."""
    names = list(data.ledger)
    entries = [entry if isinstance(entry, Mapping) else {} for entry in data.ledger.values()]
    facts = dict.fromkeys(str(name) for entry in entries for name in (entry.get("like") or {}))
    rows = [{"fact": "server", "values": [str(entry.get("server") or NONE) for entry in entries], "differs": False}]
    for fact in facts:
        values = [_plain((entry.get("like") or {}).get(fact)) for entry in entries]
        known = {value for value in values if value != NONE}
        rows.append({"fact": fact, "values": values, "differs": len(known) > 1})
    commands = [_commands(entry) for entry in entries]
    rows.append({"fact": "command or image", "values": commands, "differs": False})
    return {"names": names, "rows": rows}


def environment_of(data: CampaignData) -> list[tuple[str, str]]:
    """Where and how, as pairs to print."""
    environment = data.manifest.get("environment") or data.manifest
    packages = environment.get("packages") or {}
    changes = " with uncommitted changes" if environment.get("git_dirty") else ""
    found = {
        "processor": f"{environment.get('cpu_model') or 'unknown'}, {environment.get('cores', '?')} logical cores",
        "memory": f"{environment.get('memory_gib', '?')} GiB",
        "system": " ".join(str(environment.get(key, "")) for key in ("os", "kernel", "machine")),
        "Python": environment.get("python"),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "commit": f"{environment['git_commit']}{changes}" if environment.get("git_commit") else None,
        "date": environment.get("date"),
    }
    known = set(found) | {"environment", "command", "schema", "price_per_hour", "utilisation"}
    more = {key: _plain(value) for key, value in data.manifest.items() if key not in known and value not in (None, "")}
    return [(str(key), str(value)) for key, value in {**found, **more}.items() if value not in (None, "")]


def _groups(data: CampaignData) -> list[list[Series]]:
    found: dict[tuple[str, str], list[Series]] = {}
    for series in data.series:
        found.setdefault((series.model, series.scenario), []).append(series)
    return list(found.values())


def _group(data: CampaignData, group: list[Series], styles: dict[str, Style]) -> Row:
    """One model in one scenario. The A/A twin is in the table and in a panel of its own, not in the charts."""
    first = group[0].first
    real = [own for own in group if not own.first.get("control")]
    pairs = [
        item
        for family in ("stacks", "gateway", "variants")
        for item in data.findings.of(family)
        if (item.model, item.scenario) == (group[0].model, group[0].scenario)
    ]
    charts = [
        rate_chart(real, styles),
        percentile_chart(data, real, styles),
        outcome_chart(group),
        time_chart(data, real, styles),
        distribution_chart(data, real, styles),
        *_shifts(data, pairs),
        heat_chart(data, real),
        breakdown_chart(real),
    ]
    shown = [(name, title) for name, title in FIGURES if any(figure(own, name) for own in group) or name == "p99"]
    return {
        "model": group[0].model,
        "scenario": group[0].scenario,
        "how": _how(first),
        "figures": [item for item in shown if item[0] != "lambda" or any(own.is_search for own in group)],
        "rows": [table_row(own) for own in group],
        "charts": [chart for chart in charts if chart],
        "failures": _failures(group),
    }


def _shifts(data: CampaignData, pairs: Sequence[Comparison]) -> list[Chart]:
    return [chart for pair in pairs[:_MOST_SHIFTS] if (chart := shift_chart(data, pair))]


def _how(first: Mapping[str, Any]) -> str:
    kind = str(first["kind"]).replace("_", " ")
    if first["arrivals"] == "closed":
        load = f"closed loop, {first['concurrency']} at once"
    elif first["steps"]:
        rates = ", ".join(number(step["rate"]) for step in first["steps"])
        load = f"open loop, {first['arrivals']} arrivals, steps of {rates} /s"
    else:
        load = f"open loop, {first['arrivals']} arrivals, {number(first['rate_offered'])} /s"
    slo = f", objective {number(first['slo_ms'])} ms" if first.get("slo_ms") else ""
    return f"{kind}; {load}; {number(first['T'])} s a round; {first['rows']} row(s) a request{slo}"


def _failures(group: Sequence[Series]) -> list[tuple[str, str, int]]:
    found: Counter[tuple[str, str]] = Counter()
    for own in group:
        for line in own.lines():
            for text, count in (line.get("failures") or {}).items():
                found[own.target, text] += int(count)
    return [(target, text, count) for (target, text), count in found.most_common(8)]


def _command(data: CampaignData) -> Sequence[Any]:
    command = data.manifest.get("command") or ["twinserve", "bench", "run", "campaign.yaml"]
    return command if isinstance(command, list) else [command]


def _commands(entry: Mapping[str, Any]) -> str:
    programs = ((entry.get("facts") or {}).get("programs")) or {}
    texts = []
    for name, program in programs.items():
        if isinstance(program, Mapping):
            command = program.get("digest") or program.get("image") or " ".join(map(str, program.get("command") or []))
            texts.append(f"{name}: {command}")
    return "; ".join(texts) or NONE


def _plain(value: Any) -> str:  # noqa: ANN401  # whatever the file holds
    if value in (None, ""):
        return NONE
    text = str(value)
    return text if len(text) <= 90 else f"{text[:87]}…"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and not math.isnan(float(value))]
    return sum(known) / len(known) if known else None


def _most(items: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((float(item[name]) for item in items if item.get(name) is not None), default=None)


def _sum(item: Mapping[str, Any], *names: str) -> float | None:
    values = [item.get(name) for name in names]
    return float(sum(value for value in values if value is not None)) if any(v is not None for v in values) else None
