"""What all workers say of themselves as one answer, in the shape that one worker's has (`gateway.view`).

Amounts are added up, and of a state the worst worker's stands for all; where workers may differ, each one's own word is
beside it under `workers`, by number.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.resilience.circuit_breaker import BreakerState
from gateway.routing.endpoint import Status
from gateway.routing.mirror import WORST
from gateway.view import Document

# The documents of those workers that answered, by number.
Told = Mapping[int, Document]

# Of a target or an endpoint, what each worker finds for itself.
_OWN = ("status", "reason", "versions", "breaker", "trouble", "slots")
# The best first.
_STATUS = (Status.READY, Status.NOT_READY, Status.UNVERIFIED, Status.MISMATCH)
_BREAKER = (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)


def routes(told: Told) -> Document:
    """The routes and endpoints of all workers; a route that only some have is that of the first that has it."""
    names = dict.fromkeys(name for document in told.values() for name in document["routes"])
    endpoints = dict.fromkeys(name for document in told.values() for name in document["endpoints"])
    return {
        "routes": {name: _route(_those(told, "routes", name)) for name in names},
        "unrouted": _any(told, "unrouted"),
        "left_out": _any(told, "left_out"),
        "awaited": list(dict.fromkeys(name for document in told.values() for name in document["awaited"])),
        "endpoints": {name: _together(_those(told, "endpoints", name)) for name in endpoints},
    }


def mirrors(told: Told) -> Document:
    """What all workers' mirrors saw, the worst differences of all first."""
    names = dict.fromkeys(name for document in told.values() for name in document)
    return {name: _mirror([document[name] for document in told.values() if name in document]) for name in names}


def _mirror(reports: list[Document]) -> Document:
    outcomes: dict[str, int] = {}
    for report in reports:
        for outcome, times in report["outcomes"].items():
            outcomes[outcome] = outcomes.get(outcome, 0) + times
    worst = [item for report in reports for item in report["worst"]]
    # A difference that is no number has no JSON but null, and is worse than any that is one.
    worst.sort(key=lambda item: (item["max_scaled"] is not None, -(item["max_scaled"] or 0.0)))
    return {"outcomes": outcomes, "worst": worst[:WORST]}


def _those(told: Told, section: str, name: str) -> dict[int, Document]:
    return {worker: document[section][name] for worker, document in told.items() if name in document[section]}


def _any(told: Told, section: str) -> Document:
    found: Document = {}
    for document in told.values():
        for name, reason in document[section].items():
            found.setdefault(name, reason)
    return found


def _route(told: Told) -> Document:
    first = next(iter(told.values()))
    targets = []
    for place, target in enumerate(first["targets"]):
        # While a reload goes from worker to worker, their routes may differ.
        same = {
            worker: route["targets"][place]
            for worker, route in told.items()
            if place < len(route["targets"]) and route["targets"][place]["endpoint"] == target["endpoint"]
        }
        targets.append(_together(same))
    mirrored = {worker: route["mirror"] for worker, route in told.items() if route["mirror"] is not None}
    return {**first, "targets": targets, "mirror": _together(mirrored) if mirrored else None}


def _together(told: Told) -> Document:
    """One target or endpoint."""
    first = next(iter(told.values()))
    found = {
        **first,
        "slots": {name: sum(item["slots"][name] for item in told.values()) for name in first["slots"]},
        "workers": {str(worker): {name: item[name] for name in _OWN if name in item} for worker, item in told.items()},
    }
    if "trouble" in first:
        found["trouble"] = next((item["trouble"] for item in told.values() if item["trouble"]), "")
    if "status" in first:
        worst = max(told.values(), key=lambda item: _STATUS.index(item["status"]))
        found |= {name: worst[name] for name in ("status", "reason", "versions")}
        found["breaker"] = max((item["breaker"] for item in told.values()), key=_BREAKER.index)
    return found
