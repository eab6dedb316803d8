"""The operator's port: routes and why they go where they do, mirrors, the configuration.

It listens on the loopback address only, and answers only requests that name such an address as their host, so that no
page in a browser can read from it under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from gateway.core.errors import Cause, GatewayError
from gateway.frontends.rest.errors import JSON, PREDICT_SHAPE, PROBLEM_JSON, retry_after
from gateway.reload import Reload, Reloader
from gateway.view import View, to_json

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


def create_admin(view: View, reloader: Reloader, *, doors: Mapping[str, str]) -> Starlette:
    """The application; `doors` are the addresses at which this gateway's clients find it, by protocol."""

    async def landing(_: Request) -> Response:
        return _json({"name": "twinserve gateway", "version": __version__, "doors": dict(doors), "paths": PATHS})

    async def metrics(_: Request) -> Response:
        return Response(await view.metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def routes(_: Request) -> Response:
        return _json({"doors": dict(doors), **await view.routes()})

    async def explain(request: Request) -> Response:
        return _json(await view.explain(request.query_params))

    async def mirror(_: Request) -> Response:
        return _json(await view.mirror())

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
    return Response(to_json(body), media_type=JSON)


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
