"""The tables beneath the charts: resources, cost, the generator's health, parity, the ledger, where it ran."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.analysis.series import cpu_per_1k
from loadtests.analysis.validity import LITTLE
from loadtests.campaign.ledger import masked
from loadtests.campaign_report.chart import figure, shown_lines
from loadtests.campaign_report.data import CampaignData
from loadtests.store.stored import target_key
from loadtests.words import NONE

Row = dict[str, Any]


def resources_of(data: CampaignData) -> list[Row]:
    """What each server of each target used, over the rounds that the figures are of; None is what nobody measured."""
    rows = []
    for series in data.series:
        lines = [line for line in shown_lines(series) if line.get("resources")]
        used: dict[str, list[Row]] = {}
        for line in lines:
            for server in line["resources"].get("servers") or []:
                used.setdefault(str(server.get("name")), []).append({**line["resources"], "servers": [server]})
        joules = _joules_per_request(lines)
        for name, each in used.items():
            found = [item["servers"][0] for item in each]
            rows.append(
                {
                    "scenario": f"{series.model}, {series.scenario}",
                    "target": series.target,
                    "server": name,
                    "rounds": len(each),
                    "cpu": mean_of([cpu_per_1k({"resources": item}) for item in each]),
                    "rss": _most(found, "rss_peak"),
                    "threads": _most(found, "threads"),
                    "switches": mean_of([_sum(item, "ctx_voluntary", "ctx_involuntary") for item in found]),
                    "throttled": _most(found, "throttled"),
                    "joules": joules,
                    "why": next((str(item["why"]) for item in found if item.get("why")), ""),
                }
            )
    return rows


def _joules_per_request(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """The GPUs' counters run over the warm-up as well: divided by all requests that were sent, as CPU time is."""
    used = [
        (float(energy), int(found["requests"]))
        for line in lines
        if (found := line.get("resources") or {}).get("requests")
        and (energy := (found.get("gpu") or {}).get("energy_j")) is not None
    ]
    return sum(energy for energy, _ in used) / sum(requests for _, requests in used) if used else None


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
        name = target_key(str(line["model"]), str(line["target"]), line.get("control"))
        wrong[name] += int(line["outcomes"].get("wrong_answer", 0))
    rows = []
    for name in dict.fromkeys([*data.parity, *wrong]):
        found = data.parity.get(name) or {}
        cache = found.get("cache") or {}
        rows.append(
            {
                "target": name,
                "checked": found.get("checked"),
                "questions": found.get("questions") or found.get("checked"),
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
    served = [_files(entry) for entry in entries]
    rows.append({"fact": "files served, SHA-256", "values": served, "differs": False})
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
    known = set(found) | {"environment", "reproduce", "schema", "price_per_hour", "utilisation"}
    more = {key: _plain(value) for key, value in data.manifest.items() if key not in known and value not in (None, "")}
    return [(str(key), str(value)) for key, value in {**found, **more}.items() if value not in (None, "")]


def _files(entry: Mapping[str, Any]) -> str:
    """Each file with the beginning of its hash; ledger.json has the whole."""
    files = (entry.get("facts") or {}).get("files")
    files = files if isinstance(files, Mapping) else {}
    return "; ".join(f"{name} {str(digest)[:12]}…" for name, digest in files.items()) or NONE


def _commands(entry: Mapping[str, Any]) -> str:
    programs = ((entry.get("facts") or {}).get("programs")) or {}
    texts = []
    for name, program in programs.items():
        if isinstance(program, Mapping):
            command = (
                program.get("digest")
                or program.get("image")
                or " ".join(masked([str(word) for word in program.get("command") or []]))
            )
            texts.append(f"{name}: {command}")
    return "; ".join(texts) or NONE


def _plain(value: Any) -> str:  # noqa: ANN401  # whatever the file holds
    if value in (None, ""):
        return NONE
    text = str(value)
    return text if len(text) <= 90 else f"{text[:87]}…"


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [float(value) for value in values if value is not None and not math.isnan(float(value))]
    return sum(known) / len(known) if known else None


def _most(items: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((float(item[name]) for item in items if item.get(name) is not None), default=None)


def _sum(item: Mapping[str, Any], *names: str) -> float | None:
    values = [item.get(name) for name in names]
    return float(sum(value for value in values if value is not None)) if any(v is not None for v in values) else None
