"""Everything that is not an inference: health, metadata, metrics, documentation. Ordinary FastAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from gateway.codecs import oip_json
from gateway.codecs.selection import addressed
from gateway.dataplane import DataPlane
from gateway.frontends.edge import EXTENSIONS, SERVER_NAME
from gateway.frontends.rest.errors import JSON, PROBLEM_JSON
from gateway.frontends.rest.inference import model_spec
from gateway.frontends.rest.openapi import json_answer
from gateway.frontends.rest.whole import RequestHeaders

_DOCS_PAGE = Path(__file__).with_name("docs.html")
# The page is whole in itself: it may run what is in it, and talk to the gateway that sent it.
_DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)

_OIP_ERROR: dict[int | str, dict[str, Any]] = {500: json_answer("OipError", "An error of the gateway.")}
_UNKNOWN_MODEL: dict[int | str, dict[str, Any]] = {
    404: json_answer("OipError", "Cause: model_not_found, version_not_found."),
    **_OIP_ERROR,
}
_PROBLEM: dict[int | str, dict[str, Any]] = {500: json_answer("Problem", "An error of the gateway.", PROBLEM_JSON)}


def _json(body: object, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type=JSON)


def oip_routes(data_plane: DataPlane) -> APIRouter:
    """Health and metadata of the Open Inference Protocol."""
    router = APIRouter(tags=["Open Inference Protocol"], default_response_class=Response)

    @router.get("/v2/", include_in_schema=False)
    @router.get("/v2", responses={200: json_answer("OipServerMetadata", "The gateway."), **_OIP_ERROR})
    async def server_metadata() -> Response:
        """Name and version of the gateway."""
        return Response(oip_json.encode_server_metadata(SERVER_NAME, data_plane.version, EXTENSIONS), media_type=JSON)

    @router.get("/v2/health/live", responses={200: json_answer("Live", "It lives."), **_OIP_ERROR})
    async def server_live() -> Response:
        """Whether the process turns."""
        return _json({"live": True})

    @router.get(
        "/v2/health/ready",
        responses={200: json_answer("Ready", "Ready."), 503: json_answer("Ready", "Not ready."), **_OIP_ERROR},
    )
    async def server_ready() -> Response:
        """Whether every model is ready, which is what the protocol means by a ready server."""
        ready = data_plane.ready()
        return _json({"ready": ready}, 200 if ready else 503)

    metadata_answers: dict[int | str, dict[str, Any]] = {
        200: json_answer("OipModelMetadata", "The model."),
        400: json_answer("OipError", "Cause: invalid_input, signature_not_found."),
        503: json_answer("OipError", "Cause: not_ready."),
        **_UNKNOWN_MODEL,
    }

    @router.get("/v2/models/{model}", responses=metadata_answers)
    async def model_metadata(request: Request, model: str) -> Response:
        """Versions, inputs and outputs of a model."""
        return _metadata(request, {"model": model})

    @router.get("/v2/models/{model}/versions/{version}", responses=metadata_answers)
    async def model_version_metadata(request: Request, model: str, version: str) -> Response:
        """Versions, inputs and outputs of a model, if it has this version."""
        return _metadata(request, {"model": model, "version": version})

    ready_answers = {
        200: json_answer("ModelReady", "Ready."),
        503: json_answer("ModelReady", "Not ready."),
        **_UNKNOWN_MODEL,
    }

    @router.get("/v2/models/{model}/ready", responses=ready_answers)
    async def model_ready(request: Request, model: str) -> Response:
        """Whether the model can answer."""
        return _ready(request, {"model": model})

    @router.get("/v2/models/{model}/versions/{version}/ready", responses=ready_answers)
    async def model_version_ready(request: Request, model: str, version: str) -> Response:
        """Whether this version of the model can answer."""
        return _ready(request, {"model": model, "version": version})

    def _metadata(request: Request, path: dict[str, str]) -> Response:
        spec, _ = addressed(model_spec(path), RequestHeaders.read(request.scope).selection)
        return Response(oip_json.encode_model_metadata(data_plane.model_metadata(spec)), media_type=JSON)

    def _ready(request: Request, path: dict[str, str]) -> Response:
        ready = data_plane.model_ready(*addressed(model_spec(path), RequestHeaders.read(request.scope).selection))
        return _json({"name": path["model"], "ready": ready}, 200 if ready else 503)

    return router


def operator_routes(data_plane: DataPlane, render_metrics: Callable[[], Awaitable[bytes]]) -> APIRouter:
    """What operators, and people with a browser, ask for."""
    router = APIRouter(tags=["Operation"], default_response_class=Response)

    @router.get("/livez", responses={200: json_answer("Live", "It lives."), **_PROBLEM})
    async def livez() -> Response:
        """Whether the process turns; asks no model server."""
        return _json({"live": True})

    @router.get(
        "/readyz",
        responses={200: json_answer("Ready", "Takes requests."), 503: json_answer("Ready", "Drains."), **_PROBLEM},
    )
    async def readyz() -> Response:
        """Whether requests are taken: configured and not draining. A dead model server does not change it."""
        accepting = data_plane.accepting
        return _json({"ready": accepting}, 200 if accepting else 503)

    @router.get(
        "/metrics",
        responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}, **_PROBLEM},
    )
    async def metrics() -> Response:
        """What the gateway counts."""
        return Response(await render_metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """These pages, which need nothing from outside."""
        return FileResponse(
            _DOCS_PAGE, media_type="text/html; charset=utf-8", headers={"content-security-policy": _DOCS_POLICY}
        )

    @router.get("/", include_in_schema=False)
    async def landing() -> Response:
        """Where to go from here; and what KServe's client of its first protocol takes for liveness."""
        return _json(
            {
                "status": "alive",
                "name": SERVER_NAME,
                "version": data_plane.version,
                "models": data_plane.models(),
                "docs": "/docs",
                "openapi": "/openapi.json",
                "metrics": "/metrics",
            }
        )

    return router
