"""The operator's port of one worker: its routes and why they go where they do, its mirrors, its configuration.

It listens on the loopback address only, and answers only requests that name such an address as their host, so that no
page in a browser can read from it under a name of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from gateway import __version__
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, Selection
from gateway.core.tensor import Tensor
from gateway.fleet import Fleet
from gateway.frontends.rest.errors import JSON, PREDICT_SHAPE, PROBLEM_JSON, retry_after
from gateway.reload import Reload, Reloader
from gateway.routing.endpoint import Target
from gateway.routing.mirror import Mismatch
from gateway.routing.table import Route

HOSTS = ("127.0.0.1", "localhost", "[::1]")
_FRAMEWORK = {
    404: (Cause.ROUTE_NOT_FOUND, "there is no such path; GET / lists those there are"),
    405: (Cause.METHOD_NOT_ALLOWED, "the path has no such method; GET / lists those there are"),
}
PATHS = {
    "GET /metrics": "what the gateway counts, for Prometheus",
    "GET /routes": "every model: its policy, its targets, and how they are",
    "GET /routes/explain?model=&stack=&endpoint=&variant=&version=&label=&header=name=value": (
        "where such a request would go now, and why"
    ),
    "GET /mirror": "what each mirror saw: outcomes, and the worst differences",
    "GET /config": "the last reload of the configuration, and what was wrong with it",
    "POST /reload": "reads the configuration again, as SIGHUP does",
}


def create_admin(
    fleet: Fleet, reloader: Reloader, *, clock: Clock, render_metrics: Callable[[], bytes], doors: Mapping[str, str]
) -> Starlette:
    """The application; `doors` are the addresses at which this gateway's clients find it, by protocol."""

    async def landing(_: Request) -> Response:
        return _json({"name": "twinserve gateway", "version": __version__, "doors": dict(doors), "paths": PATHS})

    async def metrics(_: Request) -> Response:
        return Response(render_metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def routes(_: Request) -> Response:
        table = fleet.router.table
        return _json(
            {
                "doors": dict(doors),
                "routes": {name: _route(fleet, name, route) for name, route in table.routes.items()},
                "unrouted": dict(table.unrouted),
                "left_out": dict(table.left_out),
                "awaited": list(table.awaited),
                "endpoints": {name: _endpoint(fleet, name) for name in fleet.members},
            }
        )

    async def explain(request: Request) -> Response:
        return _json(_explained(fleet, request, clock))

    async def mirror(_: Request) -> Response:
        reports = fleet.router.mirrors()
        return _json(
            {
                name: {
                    "outcomes": report.outcomes,
                    "worst": [_mismatch(item, clock.now()) for item in report.worst],
                }
                for name, report in reports.items()
            }
        )

    async def config(_: Request) -> Response:
        return _json(_config(reloader))

    async def reload(_: Request) -> Response:
        done = await reloader.reload("admin")
        if done.outcome == "ok":
            return _json(_config(reloader))
        problem = {
            "type": "urn:twinserve:config:invalid",
            "title": "The configuration cannot be used; the one before goes on",
            "status": 422,
            "detail": done.error,
        }
        return Response(orjson.dumps(problem), 422, media_type=PROBLEM_JSON)

    return Starlette(
        routes=[
            Path("/", landing),
            Path("/metrics", metrics),
            Path("/routes", routes),
            Path("/routes/explain", explain),
            Path("/mirror", mirror),
            Path("/config", config),
            Path("/reload", reload, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
        exception_handlers={HTTPException: _framework_error, GatewayError: _failed},
    )


def _route(fleet: Fleet, name: str, route: Route) -> dict[str, Any]:
    traffic, mirror = route.traffic, route.traffic.mirror
    return {
        "policy": traffic.policy,
        "cross_stack": traffic.cross_stack,
        "sticky_header": traffic.sticky_header,
        "batching": None if traffic.batching is None else {"max_size": traffic.batching.max_rows},
        "contract": f"made of endpoint '{route.source}'" if route.source else "its own",
        "labels": dict(route.labels),
        "targets": [_target(fleet, name, target) for target in route.targets],
        "mirror": None
        if mirror is None
        else {"share": mirror.share, "keep_payloads": mirror.keep_payloads, **_target(fleet, name, mirror.target)},
    }


def _target(fleet: Fleet, model: str, target: Target) -> dict[str, Any]:
    member = fleet.members[target.endpoint]
    verdict = fleet.router.health.verdict(model, target)
    return {
        "endpoint": target.endpoint,
        "stack": member.endpoint.stack,
        "server": member.endpoint.server,
        "model": target.model,
        "version": target.version,
        "variant": target.variant,
        "weight": target.weight,
        "status": verdict.status.value,
        "reason": verdict.reason,
        "versions": list(verdict.versions),
        "breaker": member.stack.breaker(model).value,
        "slots": _slots(fleet, target.endpoint),
    }


def _endpoint(fleet: Fleet, name: str) -> dict[str, Any]:
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


def _explained(fleet: Fleet, asked: Request, clock: Clock) -> dict[str, Any]:
    """Raises GatewayError as a request would, and INVALID_INPUT for a question that cannot be read."""
    query = asked.query_params
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


def _mismatch(item: Mismatch, now: float) -> dict[str, Any]:
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


def _tensors(message: InferenceRequest | InferenceResponse) -> dict[str, Any]:
    tensors = message.inputs if isinstance(message, InferenceRequest) else message.outputs
    return {tensor.name: _values(tensor) for tensor in tensors}


def _values(tensor: Tensor) -> Any:  # noqa: ANN401 - nested lists of any depth
    array = tensor.array
    # Half precision has no Python number of its own, and bytes have no JSON.
    return (array.astype(np.float32) if tensor.datatype in ("FP16", "BF16") else array).tolist()


def _config(reloader: Reloader) -> dict[str, Any]:
    last: Reload = reloader.last
    return {
        "file": None if reloader.file is None else str(reloader.file),
        "reloads": {outcome: reloader.counts[outcome] for outcome in ("ok", "invalid")},
        "last": {
            "at": last.at.isoformat(timespec="milliseconds"),
            "cause": last.cause,
            "outcome": last.outcome,
            "error": last.error,
            "endpoints": {
                "kept": last.changes.kept,
                "connected": last.changes.connected,
                "closed": last.changes.closed,
            },
            "needs_restart": last.needs_restart,
        },
    }


def _json(body: object) -> Response:
    return Response(orjson.dumps(body, default=_as_text), media_type=JSON)


def _as_text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


async def _framework_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - the handler is registered for nothing else
    cause, detail = _FRAMEWORK.get(exc.status_code, (Cause.UNPARSEABLE, "the request cannot be handled"))
    return _problem(GatewayError(cause, detail), dict(exc.headers or {}))


async def _failed(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, GatewayError)  # noqa: S101 - the handler is registered for nothing else
    return _problem(exc, {})


def _problem(error: GatewayError, headers: dict[str, str]) -> Response:
    status = PREDICT_SHAPE.status(error.cause)
    wait = retry_after(error, status)
    if wait is not None:
        headers["retry-after"] = wait
    return Response(PREDICT_SHAPE.body(error, ""), status, headers, PROBLEM_JSON)
