"""The REST front ends of one worker: one FastAPI application, with raw ASGI endpoints where it counts."""

from __future__ import annotations

import copy
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.clock import Clock
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.observer import Observer
from gateway.core.trace import Tracer
from gateway.dataplane import DataPlane
from gateway.frontends.edge import Admission, Edge, Limits
from gateway.frontends.rest import openapi
from gateway.frontends.rest.errors import (
    OIP_SHAPE,
    PREDICT_SHAPE,
    is_oip,
    is_tfserving,
    is_torchserve,
    retry_after,
    shape_for,
)
from gateway.frontends.rest.inference import InferenceEndpoint, predict_door
from gateway.frontends.rest.middleware import REQUEST_ID, Identity
from gateway.frontends.rest.oip import OipEndpoint
from gateway.frontends.rest.repository import repository_routes
from gateway.frontends.rest.schemas import COMPONENTS, oip_example, predict_example
from gateway.frontends.rest.system import oip_routes, operator_routes
from gateway.frontends.rest.tfserving import PROTOCOL as TFSERVING
from gateway.frontends.rest.tfserving import TfServingDoor
from gateway.frontends.rest.tfserving_openapi import TFSERVING_COMPONENTS, about_paths, predict_routes
from gateway.frontends.rest.torchserve import prediction_routes, torchserve_routes

_DESCRIPTION = (
    "One door in front of TorchServe and TensorFlow Serving. Without a choice the gateway's own configuration "
    "decides which stack answers; every answer names it in the header x-served-by."
)
# Causes of the exceptions that the framework itself raises, by their status.
_FRAMEWORK = {
    404: (Cause.ROUTE_NOT_FOUND, "there is no such path"),
    405: (Cause.METHOD_NOT_ALLOWED, "the path has no such method"),
}


# Paths are a client's to choose: so many are remembered before all are forgotten, and none that is longer than this.
_MAX_FOUND = 1024
_MAX_FOUND_PATH = 256
# Without a query, without anything encoded.
_PLAIN_PATH = re.compile(rb"/[A-Za-z0-9._~/:@-]*")


class GatewayApp(FastAPI):
    """A FastAPI application whose OpenAPI covers its raw ASGI routes too.

    Those routes are answered without the framework's own stack, seven layers that cost more than all of ours. It has
    them too, for the methods that they do not take.
    """

    raw_routes: Sequence[openapi.RawRoute] = ()
    contracts: Callable[[], list[ModelContract]] = staticmethod(list)
    _direct: Sequence[tuple[re.Pattern[str], frozenset[str], ASGIApp]] = ()

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(**options)
        # Paths that were asked for: most requests are for few of them.
        self._found: dict[tuple[str, str], tuple[ASGIApp, dict[str, str]]] = {}
        self._short_ways: dict[bytes, tuple[InferenceEndpoint, dict[str, str]] | None] = {}

    def add_raw_routes(
        self,
        raw_routes: Sequence[openapi.RawRoute],
        contracts: Callable[[], list[ModelContract]],
        around: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        """Serves the routes, before all others; `contracts` gives the models of their examples.

        `around` is what they have instead of the application's middleware.
        """
        self.raw_routes = raw_routes
        self.contracts = contracts
        routes = [Route(route.path, route.endpoint, methods=list(route.methods)) for route in raw_routes]
        self.router.routes[:0] = routes
        self._direct = [
            (route.path_regex, frozenset(raw.methods), around(raw.endpoint))
            for route, raw in zip(routes, raw_routes, strict=True)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or passes the lifespan on."""
        if scope["type"] == "http":
            key = scope["method"], scope["path"]
            found = self._found.get(key) or self._find(*key)
            if found is not None:
                endpoint, scope["path_params"] = found
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def direct(self, url: bytes) -> tuple[InferenceEndpoint, dict[str, str]] | None:
        """The inference endpoint that answers POST at a plain path, and the path's parameters; None for all others."""
        try:
            return self._short_ways[url]
        except KeyError:
            way = self._short_way(url)
            if len(url) <= _MAX_FOUND_PATH:
                if len(self._short_ways) >= _MAX_FOUND:
                    self._short_ways.clear()
                self._short_ways[url] = way
            return way

    def _short_way(self, url: bytes) -> tuple[InferenceEndpoint, dict[str, str]] | None:
        if not _PLAIN_PATH.fullmatch(url):
            return None
        path = url.decode()
        for (pattern, methods, _), raw in zip(self._direct, self.raw_routes, strict=True):
            match = pattern.match(path)
            if match is not None and "POST" in methods:
                endpoint = raw.endpoint
                return (endpoint, match.groupdict()) if isinstance(endpoint, InferenceEndpoint) else None
        return None

    def _find(self, method: str, path: str) -> tuple[ASGIApp, dict[str, str]] | None:
        """The raw route of a path, and the path's parameters."""
        for pattern, methods, endpoint in self._direct:
            match = pattern.match(path)
            if match is not None and method in methods:
                found = endpoint, match.groupdict()
                if len(path) <= _MAX_FOUND_PATH:
                    if len(self._found) >= _MAX_FOUND:
                        self._found.clear()
                    self._found[method, path] = found
                return found
        return None

    def openapi(self) -> dict[str, Any]:
        """The document; made anew each time, since its examples follow the models."""
        document = copy.deepcopy(super().openapi())
        contracts = self.contracts()
        document["paths"] = {
            **openapi.paths(self.raw_routes, contracts),
            **document.get("paths", {}),
            **about_paths(),
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                openapi.show_models(operation, contracts)
                # FastAPI claims its own validation error for every path parameter; a string is always valid here.
                if (
                    "422" in operation["responses"]
                    and operation["responses"]["422"]["description"] == "Validation Error"
                ):
                    del operation["responses"]["422"]
                operation["responses"]["431"] = openapi.head_too_large()
        document["components"] = {"schemas": COMPONENTS | TFSERVING_COMPONENTS}
        return document


def create_app(
    data_plane: DataPlane,
    *,
    limits: Limits,
    observer: Observer,
    clock: Clock,
    render_metrics: Callable[[], Awaitable[bytes]],
    admission: Admission | None = None,
    tracer: Tracer | None = None,
) -> FastAPI:
    """The application. `admission` is shared with the gRPC server where there is one."""
    edge = Edge(
        data_plane,
        limits=limits,
        observer=observer,
        clock=clock,
        admission=admission or Admission(limits),
        tracer=tracer,
    )

    def refused(path: str, request_id: str, cause: Cause) -> None:
        edge.refuse(_protocol_of(path), request_id, cause)

    async def framework_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101 - the handler is registered for nothing else
        other = Cause.INTERNAL if exc.status_code >= 500 else Cause.UNPARSEABLE
        cause, detail = _FRAMEWORK.get(exc.status_code, (other, "the request cannot be handled"))
        refused(request.scope["path"], request.scope[REQUEST_ID], cause)
        return _answer(request, GatewayError(cause, detail), dict(exc.headers or {}))

    app = GatewayApp(
        title="twinserve gateway",
        description=_DESCRIPTION,
        version=data_plane.version,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Identity, refused=refused)],
        exception_handlers={
            HTTPException: framework_error,
            RequestValidationError: _invalid,
            GatewayError: _failed,
        },
        # Telemetry is the gateway's own; FastAPI's would look for a tracer at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    tfserving = TfServingDoor(edge)
    routes = [*raw_routes(edge), *predict_routes(tfserving)]
    app.add_raw_routes(routes, lambda: list(data_plane.contracts()), lambda endpoint: Identity(endpoint, refused))
    app.router.routes.append(tfserving.route())
    app.include_router(repository_routes(edge))
    app.include_router(oip_routes(data_plane))
    app.include_router(torchserve_routes(edge))
    app.include_router(operator_routes(data_plane, render_metrics))
    return app


def _protocol_of(path: str) -> str:
    """The protocol under whose name a request that reached no route is counted."""
    if is_tfserving(path):
        return TFSERVING
    if is_oip(path):
        return "oip-rest"
    return "torchserve-rest" if is_torchserve(path) else "predict"


def raw_routes(edge: Edge) -> list[openapi.RawRoute]:
    """The inference routes."""
    predict = InferenceEndpoint(edge, predict_door())
    oip = OipEndpoint(edge)
    return (
        [
            openapi.RawRoute(
                path=path,
                endpoint=predict,
                tag="Predict",
                summary="One inference, as plain JSON",
                description="Inputs as nested lists by name; datatypes and names are those of the model's contract.",
                request="PredictRequest",
                response="PredictResponse",
                error="Problem",
                errors=PREDICT_SHAPE,
                example=lambda contract, named=named: predict_example(contract, named=named),  # type: ignore[misc]
            )
            for path, named in (("/predict", True), ("/predict/{model}", False))
        ]
        + [
            openapi.RawRoute(
                path=path,
                endpoint=oip,
                tag="Open Inference Protocol",
                summary="One inference, after the Open Inference Protocol v2",
                description="Tensors with name, shape, datatype and data; or with binary data behind the JSON.",
                request="OipInferRequest",
                response="OipInferResponse",
                error="OipError",
                errors=OIP_SHAPE,
                example=oip_example,
                binary=True,
            )
            for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
        ]
        + prediction_routes(edge)
    )


async def _failed(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, GatewayError)  # noqa: S101 - the handler is registered for nothing else
    return _answer(request, exc, {})


async def _invalid(request: Request, exc: Exception) -> Response:
    # FastAPI's own answer would echo what was sent.
    return _answer(request, GatewayError(Cause.INVALID_INPUT, "a path, query or header parameter is not valid"), {})


def _answer(request: Request, error: GatewayError, headers: dict[str, str]) -> Response:
    shape = shape_for(request.scope["path"])
    status = shape.status(error.cause)
    wait = retry_after(error, status)
    if wait is not None:
        headers["retry-after"] = wait
    body = shape.body(error, request.scope[REQUEST_ID])
    return Response(body, status, headers, shape.media_type)
