"""TF Serving over REST: predict, status and metadata below `/v1/models`, whatever the case of the path.

Routes are those of model_servers/http_rest_api_util.cc: anything else below `/v1/` is a malformed request.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from urllib.parse import unquote

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.codecs import tfserving_json_in
from gateway.codecs.tfserving_documents import metadata_json, status_json
from gateway.codecs.tfserving_json_in import UnsupportedOutputError
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.frontends.edge import Call, Edge, Ticket, failure, header_text, seconds_from_milliseconds
from gateway.frontends.rest.answers import Answer, send_answer, send_error
from gateway.frontends.rest.body import CONNECTION, Body, while_connected
from gateway.frontends.rest.errors import JSON, TFSERVING_SHAPE, ErrorShape, tfserving_error
from gateway.frontends.rest.inference import Door, InferenceEndpoint
from gateway.frontends.rest.middleware import REQUEST_ID
from gateway.frontends.rest.whole import RequestHeaders
from gateway.frontends.tfserving import check_servable, chosen_version, described, version_states

PROTOCOL = "tfserving-rest"

_FLAGS = re.ASCII | re.IGNORECASE | re.DOTALL
_CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"/v1/models/(?P<model>[^/:]+){_CHOICE}:(?P<method>classify|regress|predict)", _FLAGS)
_ABOUT = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_CHOICE}(?P<metadata>/metadata)?", _FLAGS)
_BELOW_V1 = re.compile(r"/v1/.*", _FLAGS)
# The same as the OpenAPI document shows them.
PREDICT_PATHS = tuple(
    f"/v1/models/{{model}}{choice}:predict" for choice in ("", "/versions/{version}", "/labels/{label}")
)

_MAX_VERSION = 2**63 - 1
_MAX_SHOWN_PATH = 256
_NO_SIGNATURE = 'Serving signature name: "{}" not found in signature def'
_GZIP_WINDOW = 31
_CHUNK = 1 << 16
# An output that cannot be carried is told as 400, an input as 501.
_OUTPUT_SHAPE = ErrorShape(lambda _cause: 400, JSON, tfserving_error)


class TfServingPredict(InferenceEndpoint):
    """`:predict`, as an ASGI application: its scope's path parameters say of which model, version or label."""

    def __init__(self, edge: Edge) -> None:
        def unused(*_: object) -> InferenceRequest:
            raise GatewayError(Cause.INTERNAL, "TF Serving's bodies are read with their form, not by the door")

        super().__init__(edge, Door(PROTOCOL, unused, lambda _: b"", TFSERVING_SHAPE))

    async def _infer(self, call: Call, scope: Scope, receive: Receive, body: Body, ticket: Ticket) -> Answer:
        headers = RequestHeaders.read(scope)
        timeout = headers.values.get(b"x-request-timeout-ms")
        if timeout is not None:
            self._edge.allow(call, seconds_from_milliseconds(timeout.decode("latin-1")))
        data = await self._read(call, body, ticket)
        plane = self._edge.data_plane
        timings = call.context.timings
        with timings.phase("decode"):
            if b"gzip" in headers.values.get(b"content-encoding", b"").lower():
                data = inflated(data, ticket, min(self._edge.limits.json_bytes, self._edge.limits.body_bytes))
            asked = tfserving_json_in.parse(data)
            spec = chosen_version(plane, model_spec(scope["path_params"], asked.signature_name))
            check_servable(plane, spec, _NO_SIGNATURE)
            request = InferenceRequest(spec, asked.tensors(plane.contract(spec.name, spec.signature_name)))
        work = self._edge.infer(call, request, headers.selection)
        response = await while_connected(receive, work, scope.get(CONNECTION))
        with timings.phase("encode"):
            return Answer(tfserving_json_in.encode_response(response, row=asked.row))

    def shape(self, error: GatewayError) -> ErrorShape:
        """As TensorFlow Serving tells it."""
        return _OUTPUT_SHAPE if isinstance(error, UnsupportedOutputError) else super().shape(error)


class TfServingDoor:
    """Everything below `/v1/`, as one ASGI application: there case does not matter, and errors are TF Serving's."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._predict = TfServingPredict(edge)

    def route(self) -> Route:
        """The route that leads here, for any method."""
        route = Route("/v1/{rest:path}", self)
        # Starlette's own paths mind their case.
        route.path_regex = _BELOW_V1
        return route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        method = scope["method"]
        predict = _PREDICT.fullmatch(path) if method == "POST" else None
        if predict is not None and predict["method"].lower() == "predict":
            await self._predict({**scope, "path_params": _parts(predict)}, receive, send)
            return
        try:
            answer = self._answer(scope, method, path)
        except Exception as exc:
            error = failure(scope[REQUEST_ID], exc)
            if error.cause in (Cause.ROUTE_NOT_FOUND, Cause.METHOD_NOT_ALLOWED):
                self._edge.refuse(PROTOCOL, scope[REQUEST_ID], error.cause)
            await send_error(send, error, TFSERVING_SHAPE, scope[REQUEST_ID])
            return
        await send_answer(send, 200, JSON, answer)

    def _answer(self, scope: Scope, method: str, path: str) -> bytes:
        about = _ABOUT.fullmatch(path)
        if method != "GET" or about is None:
            raise _malformed(method, path, known=about is not None or _PREDICT.fullmatch(path) is not None)
        if about["model"] is None:
            raise GatewayError(Cause.INVALID_INPUT, "Missing model name in request.")
        spec = chosen_version(self._edge.data_plane, model_spec(_parts(about)))
        chosen = RequestHeaders.read(scope).selection
        if about["metadata"]:
            return metadata_json(spec.name, *described(self._edge.data_plane, spec, chosen))
        return status_json(version_states(self._edge.data_plane, spec, chosen))


def model_spec(path: Mapping[str, str], signature_name: str = "") -> ModelSpec:
    """The model that a path names; raises INVALID_INPUT for a version beyond 64 bits."""
    digits = path.get("version")
    if digits is not None and (len(digits.lstrip("0")) > len(str(_MAX_VERSION)) or int(digits) > _MAX_VERSION):
        raise GatewayError(Cause.INVALID_INPUT, f"Failed to convert version: {digits[:32]} to numeric.")
    version = None if digits is None else int(digits)
    return ModelSpec(path["model"], version, path.get("label"), signature_name or None)


def inflated(body: bytes, ticket: Ticket, cap: int) -> bytes:
    """A gzip body without its coding, every chunk of it counted on `ticket` before the next is made.

    Raises TOO_LARGE as soon as it passes `cap`, UNPARSEABLE where it is no gzip.
    """
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    chunks: list[bytes] = []
    size = 0
    rest = body
    try:
        while rest and not inflater.eof:
            chunk = inflater.decompress(rest, _CHUNK)
            rest = inflater.unconsumed_tail
            size += len(chunk)
            if size > cap:
                raise GatewayError(Cause.TOO_LARGE, f"the body inflates to more than {cap} bytes, the most taken")
            ticket.take(len(chunk))
            chunks.append(chunk)
        whole = inflater.eof and not inflater.unused_data
    except zlib.error:
        whole = False
    if not whole:
        # TF Serving takes what it cannot inflate as empty.
        raise GatewayError(
            Cause.UNPARSEABLE, "JSON Parse error: The document is empty (the body is not a whole gzip stream)"
        )
    return b"".join(chunks)


def _parts(found: re.Match[str]) -> dict[str, str]:
    parts = {name: found[name] for name in ("model", "version", "label")}
    return {name: unquote(part, errors="replace") for name, part in parts.items() if part is not None}


def _malformed(method: str, path: str, *, known: bool) -> GatewayError:
    cause = Cause.METHOD_NOT_ALLOWED if known else Cause.ROUTE_NOT_FOUND
    path = header_text(path)
    found = _PREDICT.fullmatch(path)
    if method == "POST" and found is not None:
        return GatewayError(
            Cause.ROUTE_NOT_FOUND,
            f"{found['method'].lower()} works on tf.Example, which the gateway does not take; use :predict",
        )
    return GatewayError(cause, f"Malformed request: {header_text(method)[:16]} {path[:_MAX_SHOWN_PATH]}")
