"""TorchServe's inference API and the reading half of its management API, on one port (docs/inference_api.md).

The model may be on any stack. Nothing can be registered, scaled or removed here: those methods are not allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from gateway.codecs import multipart, torchserve_json
from gateway.codecs.fields import shown
from gateway.codecs.selection import addressed
from gateway.core.contract import ContractOf
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.dataplane import DataPlane
from gateway.frontends.edge import Edge
from gateway.frontends.rest.errors import JSON, TORCHSERVE_SHAPE, torchserve_shape
from gateway.frontends.rest.inference import Door, InferenceEndpoint
from gateway.frontends.rest.openapi import RawRoute, json_answer
from gateway.frontends.rest.schemas import predict_example
from gateway.frontends.rest.whole import RequestHeaders
from gateway.frontends.torchserve import health, pretty

PROTOCOL = "torchserve-rest"
# `curl -T`, which TorchServe's documentation uses throughout, is a PUT.
METHODS = ("POST", "PUT")
MAX_LISTED = 100

# The media type does not say what the body is here, and no encoding is undone, as at TorchServe itself.
_SET_ASIDE = frozenset({b"content-type", b"content-encoding"})
_ERROR = "TorchServeError"


class PredictionsEndpoint:
    """`/predictions/{model}[/{version}]`, as an ASGI application."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        exchange = _Exchange(scope, self._edge.data_plane.version_names)
        path = scope["path_params"]
        errors = torchserve_shape(path["model"], path.get("version", ""))
        door = Door(PROTOCOL, exchange.decode, exchange.encode, errors)

        async def send_typed(message: Message) -> None:
            await send(exchange.typed(message))

        headers = [(name, value) for name, value in scope["headers"] if name not in _SET_ASIDE]
        headers.append((b"content-type", JSON.encode()))
        await InferenceEndpoint(self._edge, door)({**scope, "headers": headers}, receive, send_typed)


class _Exchange:
    """One request and its answer, which takes the request's form."""

    def __init__(self, scope: Scope, version_names: Callable[[str], Mapping[str, int]]) -> None:
        self._version_names = version_names
        sent = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        self._sent_type = sent.decode("latin-1")
        self._media_type_sent = self._sent_type.partition(";")[0].strip().lower()
        self._decoded: torchserve_json.Decoded | None = None
        self._media_type: str | None = None

    def decode(self, body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> InferenceRequest:
        """The request, whose body is JSON unless the model takes any bytes and the client did not call them JSON."""
        name, version = path["model"], path.get("version", "")
        contract = contract_of(name)
        model = torchserve_json.model_spec(name, version, self._version_names(name))
        if self._media_type_sent == multipart.MEDIA_TYPE:
            # What `curl -F data=@file` and requests' `files=` send.
            body = torchserve_json.only_body(multipart.form_fields(body, self._sent_type))
        if torchserve_json.takes_raw(contract) and self._media_type_sent != JSON:
            self._decoded = torchserve_json.decode_raw(body, model, contract)
        else:
            self._decoded = torchserve_json.decode_json(body, model, contract_of)
        return self._decoded.request

    def encode(self, response: InferenceResponse) -> bytes:
        """The answer in the form of the request."""
        assert self._decoded is not None  # noqa: S101 - only a request that was decoded is answered
        encoded = torchserve_json.encode_response(response, self._decoded)
        self._media_type = encoded.media_type
        return encoded.body

    def typed(self, message: Message) -> Message:
        """A message of the answer, its start with the content type of what `encode` gave."""
        if self._media_type is None or message["type"] != "http.response.start":
            return message
        rest = [(name, value) for name, value in message["headers"] if name != b"content-type"]
        return {**message, "headers": [(b"content-type", self._media_type.encode()), *rest]}


def prediction_routes(edge: Edge) -> list[RawRoute]:
    """The inference routes."""
    endpoint = PredictionsEndpoint(edge)
    return [
        RawRoute(
            path=path,
            endpoint=endpoint,
            tag="TorchServe",
            summary="One inference, as TorchServe's clients send it",
            description=(
                "The answer takes the form of the request. A model whose one input is BYTES also takes the raw body, "
                "with any other content type than JSON. A form may bring either in its field data or body."
            ),
            request="TorchServeRequest",
            response="TorchServeResponse",
            error=_ERROR,
            errors=TORCHSERVE_SHAPE,
            example=lambda contract: predict_example(contract, named=False),
            methods=METHODS,
            raw=True,
        )
        for path in ("/predictions/{model}", "/predictions/{model}/{version}")
    ]


_UNKNOWN_MODEL: dict[int | str, dict[str, Any]] = {
    404: json_answer(_ERROR, "Cause: model_not_found, version_not_found."),
    400: json_answer(_ERROR, "Cause: invalid_input."),
    500: json_answer(_ERROR, "An error of the gateway."),
    503: json_answer(_ERROR, "Cause: not_ready."),
}


def torchserve_routes(edge: Edge) -> APIRouter:
    """Health, list and describe."""
    router = APIRouter(tags=["TorchServe"], default_response_class=Response)
    plane = edge.data_plane

    @router.get(
        "/ping",
        responses={
            200: json_answer("TorchServeHealth", "Healthy."),
            500: json_answer("TorchServeHealth", "Unhealthy."),
        },
    )
    async def ping() -> Response:
        """Whether every model can answer."""
        ready = plane.ready()
        return _json(health(ready), 200 if ready else 500)

    @router.get(
        "/models",
        responses={
            200: json_answer("TorchServeModels", "The models."),
            400: json_answer(_ERROR, "Cause: invalid_input."),
            500: json_answer(_ERROR, "An error of the gateway."),
        },
    )
    async def models(limit: str = "", next_page_token: str = "") -> Response:
        """The models, a page at a time."""
        return _json(_page(plane.models(), _number("limit", limit), _number("next_page_token", next_page_token) or 0))

    answers = {200: json_answer("TorchServeModel", "One object for each version."), **_UNKNOWN_MODEL}

    @router.get("/models/{model}", responses=answers)
    async def model(request: Request, model: str) -> Response:
        """The default version of a model."""
        return _described(request, edge, model, "")

    @router.get("/models/{model}/{version}", responses=answers)
    async def model_at_version(request: Request, model: str, version: str) -> Response:
        """One version of a model, or `all` of them."""
        return _described(request, edge, model, version)

    @router.api_route(
        "/models/{model}/{version}/set-default", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False
    )
    async def set_default(model: str, version: str) -> Response:
        """Not here: which version answers by default is the model server's own policy."""
        raise HTTPException(405, headers={"allow": ""})

    return router


def _described(request: Request, edge: Edge, model: str, version: str) -> Response:
    try:
        return _json(_describe(request, edge, model, version))
    except GatewayError as exc:
        shape = torchserve_shape(model, version)
        return Response(shape.body(exc, ""), shape.status(exc.cause), media_type=shape.media_type)


def _describe(request: Request, edge: Edge, model: str, version: str) -> list[dict[str, Any]]:
    every = version == "all"
    plane = edge.data_plane
    declared = plane.declared_version(model)
    asked = torchserve_json.model_spec(model, "" if every else version, plane.version_names(model))
    spec, selection = addressed(asked, RequestHeaders.read(request.scope).selection)
    found = plane.versions(spec)
    if spec.version is not None:
        shown_versions: tuple[int, ...] = (spec.version,)
    else:
        # Where nothing answers for the model now, its own version is described, without a worker.
        shown_versions = (found or (declared,))[: None if every else 1]
    queue = {
        "remainingCapacity": max(edge.limits.in_flight - edge.admission.in_flight, 0),
        "pendingRequests": edge.admission.in_flight,
    }
    described = []
    for number in shown_versions:
        ready = number in found and plane.model_ready(ModelSpec(model, number), selection)
        described.append({**_entry(plane, model, number, ready), "jobQueueStatus": queue})
    return described


def _entry(plane: DataPlane, model: str, version: int, ready: bool) -> dict[str, Any]:
    """One version as TorchServe describes it; the gateway is its one worker, and takes one request as one item."""
    worker = {"id": f"twinserve {plane.version}", "status": "READY", "gpu": False, "memoryUsage": 0, "pid": -1}
    return {
        "modelName": model,
        "modelVersion": str(version),
        "modelUrl": _url(model),
        "runtime": "twinserve",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 0,
        "loadedAtStartup": True,
        "workers": [worker] if ready else [],
    }


def _page(names: tuple[str, ...], limit: int | None, start: int) -> dict[str, Any]:
    size = min(limit or MAX_LISTED, MAX_LISTED)
    page: dict[str, Any] = {"nextPageToken": str(start + size)} if start + size < len(names) else {}
    listed = sorted(names)[start : start + size]
    return {**page, "models": [{"modelName": name, "modelUrl": _url(name)} for name in listed]}


def _url(model: str) -> str:
    # The archive is the model server's own affair; this is where the model is to be had.
    return f"/models/{model}"


def _number(name: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise GatewayError(Cause.INVALID_INPUT, f"Parameter {shown(name)}: expected a whole number")
    return int(text)


def _json(body: object, status: int = 200) -> Response:
    return Response(pretty(body), status, media_type=JSON)
