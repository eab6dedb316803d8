"""The question that users really have, TorchServe or TensorFlow Serving: facts by group, and weights to move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from loadtests.campaign_report.data import CampaignData
from loadtests.campaign_report.words import sentence
from loadtests.errors import LoadTestError
from loadtests.words import number

STACKS = ("torchserve", "tfserving")
GROUPS = (
    ("performance", "Performance", "measured here"),
    ("parity", "Parity", "measured here"),
    ("targets", "Deployment targets", "from public sources"),
    ("operations", "Operations", "from public sources"),
    ("team", "Team fit", "from public sources"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """`leans` names whom it speaks for, `neither` where for nobody; `source` says who says so."""

    group: str
    text: str
    leans: str
    source: str
    weight: int = 1


def decision_of(data: CampaignData) -> dict[str, Any]:
    """Groups with their facts and with two scores of 0 to 100, 50 each where nothing leans."""
    facts = [*_performance(data), *_parity(data), *public_facts()]
    groups: list[dict[str, Any]] = []
    each = []
    for key, title, kind in GROUPS:
        own = [fact for fact in facts if fact.group == key]
        each.append(scores(own))
        groups.append({"key": key, "title": title, "kind": kind, "facts": own, "scores": each[-1]})
    return {"groups": groups, "stacks": STACKS, "total": _total(each)}


def public_facts() -> list[Fact]:
    """The facts of facts.yaml; raises LoadTestError where one is not complete."""
    text = files("loadtests.campaign_report").joinpath("facts.yaml").read_text("utf-8")
    try:
        return [Fact(**item) for item in yaml.safe_load(text)]
    except TypeError as exc:
        raise LoadTestError(f"facts.yaml: {exc}") from exc


def scores(facts: Sequence[Fact]) -> tuple[float, float]:
    """50 and 50 where nothing leans; the whole 100 for one where everything leans to it."""
    whole = sum(fact.weight for fact in facts)
    if not whole:
        return 50.0, 50.0
    lean = sum(fact.weight * {"torchserve": 1, "tfserving": -1}.get(fact.leans, 0) for fact in facts)
    return 50 + 50 * lean / whole, 50 - 50 * lean / whole


def _total(groups: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first = sum(pair[0] for pair in groups) / len(groups)
    return first, 100 - first


def _performance(data: CampaignData) -> list[Fact]:
    found = []
    for item in data.findings.of("stacks"):
        stacks = {item.a.identity, item.b.identity}
        if stacks != set(STACKS):
            continue
        leans = "neither"
        if item.verdict and item.verdict.word in ("faster", "slower"):
            leans = item.b.identity if item.verdict.word == "faster" else item.a.identity
        found.append(Fact("performance", sentence(item), leans, f"this run, {item.model}, {item.scenario}"))
    if not found:
        text = "This run did not measure both stacks in the same scenario, so it says nothing here."
        found.append(Fact("performance", text, "neither", "this run"))
    return found


def _parity(data: CampaignData) -> list[Fact]:
    found = []
    for name, entry in data.parity.items():
        if not isinstance(entry, dict) or not entry.get("checked"):
            continue
        bad, checked = int(entry.get("bad") or 0), int(entry["checked"])
        text = (
            f"{name}: {checked - bad} of {checked} golden answers right, "
            f"largest difference {number(entry.get('max_abs'))}."
        )
        found.append(Fact("parity", text, "neither", "this run's parity gate"))
    return found or [Fact("parity", "No parity gate ran, so nothing is known.", "neither", "this run")]
