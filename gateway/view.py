"""What one worker tells its operator: its routes and why they go where they do, and what its mirrors saw.

Plain documents, so that those of several workers can be put together (`gateway.workers.answers`).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import orjson
from starlette.datastructures import QueryParams

from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, Selection
from gateway.core.tensor import Tensor
from gateway.fleet import Fleet
from gateway.routing.endpoint import Target
from gateway.routing.mirror import Mismatch
from gateway.routing.table import Route
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import render

# A JSON object; bytes and datatypes of tensors may be in it.
Document = dict[str, Any]


def to_json(document: object) -> bytes:
    """A document's JSON; bytes in it are taken for UTF-8."""
    return orjson.dumps(document, default=_as_text)


class View(Protocol):
    """What an operator may ask a gateway, of however many workers. Each raises GatewayError where it cannot say."""

    async def metrics(self) -> bytes:
        """What it counts, in Prometheus' text format."""

    async def routes(self) -> Document:
        """Every model: its policy, its targets, and how they are."""

    async def explain(self, query: QueryParams) -> Document:
        """Where a request would go, and why; `query` describes it. Raises as the request would, and INVALID_INPUT."""

    async def mirror(self) -> Document:
        """What each mirror saw."""


class FleetView:
    """The view of one worker."""

    def __init__(self, fleet: Fleet, registry: Registry, clock: Clock) -> None:
        self._fleet = fleet
        self._registry = registry
        self._clock = clock

    async def metrics(self) -> bytes:
        """What this worker counts."""
        for member in self._fleet.members.values():
            member.stack.show_breakers()
        return render(self._registry)

    async def routes(self) -> Document:
        """This worker's routes and endpoints."""
        fleet, table = self._fleet, self._fleet.router.table
        return {
            "routes": {name: _route(fleet, name, route) for name, route in table.routes.items()},
            "unrouted": dict(table.unrouted),
            "left_out": dict(table.left_out),
            "awaited": list(table.awaited),
            "endpoints": {name: _endpoint(fleet, name) for name in fleet.members},
        }

    async def explain(self, query: QueryParams) -> Document:
        """The order in which this worker would try the targets."""
        return _explained(self._fleet, query, self._clock)

    async def mirror(self) -> Document:
        """Counts by outcome and the worst differences, of each model with a mirror."""
        return {
            name: {
                "outcomes": report.outcomes,
                "worst": [_mismatch(item, self._clock.now()) for item in report.worst],
            }
            for name, report in self._fleet.router.mirrors().items()
        }


def _route(fleet: Fleet, name: str, route: Route) -> Document:
    traffic, mirror = route.traffic, route.traffic.mirror
    return {
        "policy": traffic.policy,
        "cross_stack": traffic.cross_stack,
        "sticky_header": traffic.sticky_header,
        "batching": None if traffic.batching is None else {"max_size": traffic.batching.max_rows},
        "contract": f"made of endpoint '{route.source}'" if route.source else "its own",
        "labels": dict(route.labels),
        "unavailable": dict(route.unavailable),
        "targets": [_target(fleet, name, target) for target in route.targets],
        "mirror": None
        if mirror is None
        else {"share": mirror.share, "keep_payloads": mirror.keep_payloads, **_target(fleet, name, mirror.target)},
    }


def _target(fleet: Fleet, model: str, target: Target) -> Document:
    member = fleet.members[target.endpoint]
    verdict = fleet.router.health.verdict(model, target)
    return {
        "endpoint": target.endpoint,
        "stack": member.endpoint.stack,
        "server": member.endpoint.server,
        "model": target.model,
        "version": target.version,
        "label": target.label,
        "variant": target.variant,
        "by_name": target.by_name,
        "batching": target.batching,
        "weight": target.weight,
        "status": verdict.status.value,
        "reason": verdict.reason,
        "versions": list(verdict.versions),
        "breaker": member.stack.breaker(target.circuit(model)).value,
        "slots": _slots(fleet, target.endpoint),
    }


def _endpoint(fleet: Fleet, name: str) -> Document:
    endpoint = fleet.members[name].endpoint
    return {
        "stack": endpoint.stack,
        "server": endpoint.server,
        "trouble": fleet.router.health.trouble(name),
        "slots": _slots(fleet, name),
    }


def _slots(fleet: Fleet, endpoint: str) -> dict[str, int]:
    batcher = fleet.members[endpoint].stack.batcher
    return {"all": batcher.slots, "busy": batcher.busy, "queued": batcher.queued}


def _explained(fleet: Fleet, query: QueryParams, clock: Clock) -> Document:
    known = {"model", "stack", "endpoint", "variant", "version", "label", "header"}
    unknown = sorted(set(query) - known)
    if unknown or not query.get("model"):
        what = f"'{unknown[0][:64]}' is unknown" if unknown else "model is missing"
        raise GatewayError(Cause.INVALID_INPUT, f"{what}; there are {', '.join(sorted(known))}, and model is needed")
    spec = fleet.router.resolve(ModelSpec(query["model"], _version(query.get("version")), query.get("label")))
    selection = Selection(query.get("stack"), query.get("endpoint"), query.get("variant"))
    context = CallContext("explain", "predict", clock.now(), headers=_headers(query.getlist("header")))
    route: Route = fleet.router.route(spec.name)
    order = fleet.router.explain(InferenceRequest(spec, (), selection=selection), context)
    return {
        "model": spec.name,
        "version": spec.version,
        "policy": route.traffic.policy,
        "rule": _rule(route, selection, context),
        "order": [{**_target(fleet, spec.name, target), "standing": standing} for target, standing in order],
    }


def _rule(route: Route, selection: Selection, context: CallContext) -> str:
    """Why the targets stand in this order."""
    chosen = [
        f"{what} '{value}'"
        for what, value in (
            ("stack", selection.stack),
            ("endpoint", selection.endpoint),
            ("variant", selection.variant),
        )
        if value is not None
    ]
    if chosen:
        return f"the client's choice of {' and '.join(chosen)} left these; the policy gives their order"
    held = route.traffic.sticky_header
    if route.traffic.policy != "sticky":
        return RULES[route.traffic.policy]
    if held is not None and held in context.headers:
        return f"the value of header '{held}' decides: always the same order for it"
    missing = f"header '{held}' is not given, and so " if held is not None else ""
    return f"{missing}the digest of a request's inputs decides: this order is that of a request without any"


RULES = {
    "failover": "the first listed comes first",
    "pinned": "the first listed, and nothing else",
    "weighted": "drawn by weight, anew for each request: this is one draw",
    "round_robin": "each in turn: this was one turn",
    "least_request": "of two drawn by chance the one with fewer requests under way: this is one draw",
    "fastest": "the least latency times requests under way comes first, as they are now",
    "compare": "/predict asks all of them and answers with the first listed; other protocols ask only that",
}


def _headers(given: list[str]) -> dict[str, str]:
    headers = {}
    for item in given:
        name, separator, value = item.partition("=")
        if not (separator and name):
            raise GatewayError(Cause.INVALID_INPUT, f"header '{item[:64]}': expected name=value")
        headers[name.strip().lower()] = value
    return headers


def _version(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise GatewayError(Cause.INVALID_INPUT, f"version '{text[:64]}' is no whole number")
    return int(text)


def _mismatch(item: Mismatch, now: float) -> Document:
    told: dict[str, Any] = {
        "digest": item.digest,
        "max_abs": item.difference.max_abs,
        "max_scaled": item.difference.max_scaled,
        "seconds_ago": round(now - item.at, 3),
    }
    for name, message in (("inputs", item.request), ("answered", item.answered), ("mirrored", item.mirrored)):
        if message is not None:
            told[name] = _tensors(message)
    return told


def _tensors(message: InferenceRequest | InferenceResponse) -> Document:
    tensors = message.inputs if isinstance(message, InferenceRequest) else message.outputs
    return {tensor.name: _values(tensor) for tensor in tensors}


def _values(tensor: Tensor) -> Any:  # noqa: ANN401 - nested lists of any depth
    array = tensor.array
    # Half precision has no Python number of its own, and bytes have no JSON.
    return (array.astype(np.float32) if tensor.datatype in ("FP16", "BF16") else array).tolist()


def _as_text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
