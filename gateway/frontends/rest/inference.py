"""The inference routes: raw ASGI endpoints, since they are the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from gateway.codecs import oip_json, predict_json
from gateway.codecs.selection import version_number
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.frontends.edge import (
    SELECTION_HEADERS,
    Call,
    Edge,
    Ticket,
    choose,
    failure,
    header_text,
    seconds_from_milliseconds,
)
from gateway.frontends.rest.answers import send_answer, send_error
from gateway.frontends.rest.body import Body, while_connected
from gateway.frontends.rest.errors import JSON, OIP_SHAPE, PREDICT_SHAPE, ErrorShape
from gateway.frontends.rest.middleware import REQUEST_ID

ContractOf = Callable[[str], ModelContract]
Decode = Callable[[bytes, Mapping[str, str], ContractOf], InferenceRequest]

_SELECTION_HEADERS = {name.encode(): name for name in SELECTION_HEADERS}
_USED_HEADERS = frozenset({b"content-type", b"content-length", b"content-encoding", b"x-request-timeout-ms"})


@dataclass(frozen=True, slots=True)
class Door:
    """One protocol's way in and out: how it decodes (body, path parameters), encodes and tells errors."""

    protocol: str
    decode: Decode
    encode: Callable[[InferenceResponse], bytes]
    errors: ErrorShape


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The headers that an inference request can carry, and where it wants to be answered."""

    values: Mapping[bytes, bytes]
    selection: Mapping[str, str]

    @classmethod
    def read(cls, scope: Scope) -> RequestHeaders:
        """Raises INVALID_INPUT for a contradiction, UNPARSEABLE for a header that may come only once."""
        values: dict[bytes, bytes] = {}
        selection: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in _USED_HEADERS:
                if values.setdefault(name, value) != value:
                    raise GatewayError(Cause.UNPARSEABLE, f"{name.decode()} is sent twice with different values")
            elif name in _SELECTION_HEADERS:
                choose(selection, _SELECTION_HEADERS[name], value.decode("latin-1"))
        return cls(values, selection)

    def check_media_type(self) -> None:
        """Raises MEDIA_TYPE for anything but uncompressed JSON in UTF-8."""
        encoding = self.values.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            raise GatewayError(Cause.MEDIA_TYPE, "Content-Encoding: expected none; bodies are taken uncompressed only")
        media_type, _, parameters = self.values.get(b"content-type", b"").lower().partition(b";")
        if media_type.strip() != b"application/json":
            raise GatewayError(
                Cause.MEDIA_TYPE,
                "expected Content-Type: application/json; with curl: -H 'Content-Type: application/json'",
            )
        for parameter in parameters.split(b";"):
            key, _, value = parameter.partition(b"=")
            if key.strip() == b"charset" and value.strip(b' "') not in (b"utf-8", b"utf8"):
                raise GatewayError(Cause.MEDIA_TYPE, "expected JSON in UTF-8, the only charset that JSON has")


class InferenceEndpoint:
    """One protocol's inference route, as an ASGI application: one answer to every request, reported once."""

    def __init__(self, edge: Edge, door: Door) -> None:
        self._edge = edge
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        call = self._edge.open(self._door.protocol, scope[REQUEST_ID])
        call.model = scope["path_params"].get("model", "")
        limits = self._edge.limits
        body = Body(receive, scope["headers"], cap=min(limits.json_bytes, limits.body_bytes))
        try:
            outcome = await self._outcome(call, scope, receive, body)
        except asyncio.CancelledError:
            # The client's own leaving is an outcome; what is left is a server that ends its tasks to shut down.
            await self._send_error(send, call, body, GatewayError(Cause.NOT_READY, "the gateway is shutting down"))
            raise
        if isinstance(outcome, GatewayError):
            await self._send_error(send, call, body, outcome)
            return
        await send_answer(send, 200, JSON, outcome, _telling(call))

    async def _outcome(self, call: Call, scope: Scope, receive: Receive, body: Body) -> bytes | GatewayError:
        """The encoded answer, or why there is none: reported here, before anything is sent."""
        cause: Cause | None = Cause.NOT_READY
        try:
            with self._edge.admission.admit() as ticket:
                encoded = await self._infer(call, scope, receive, body, ticket)
            cause = None
            return encoded
        except Exception as exc:
            error = failure(call.context.request_id, exc)
            cause = error.cause
            return error
        finally:
            self._edge.finish(call, cause)

    async def _infer(self, call: Call, scope: Scope, receive: Receive, body: Body, ticket: Ticket) -> bytes:
        headers = RequestHeaders.read(scope)
        timeout = headers.values.get(b"x-request-timeout-ms")
        if timeout is not None:
            self._edge.allow(call, seconds_from_milliseconds(timeout.decode("latin-1")))
        headers.check_media_type()
        data = await self._read(call, body, ticket)
        timings = call.context.timings
        with timings.phase("decode"):
            request = self._door.decode(data, scope["path_params"], self._edge.data_plane.contract)
        response = await while_connected(receive, self._edge.infer(call, request, headers.selection))
        with timings.phase("encode"):
            return self._door.encode(response)

    async def _read(self, call: Call, body: Body, ticket: Ticket) -> bytes:
        left = self._edge.seconds_left(call)
        try:
            return await body.read(ticket, min(left, self._edge.limits.body_timeout_s))
        except GatewayError as exc:
            if exc.cause is Cause.CLIENT_TOO_SLOW and self._edge.limits.body_timeout_s > left:
                raise GatewayError(Cause.DEADLINE, "the deadline passed before the whole body had arrived") from exc
            raise

    async def _send_error(self, send: Send, call: Call, body: Body, error: GatewayError) -> None:
        if error.cause is Cause.CLIENT_GONE:
            return
        headers = _telling(call)
        if body.skippable:
            await send_error(send, error, self._shape(error), call.context.request_id, headers)
            return
        headers.append((b"connection", b"close"))
        await send_error(send, error, self._shape(error), call.context.request_id, headers, before_end=body.discard)

    def _shape(self, _error: GatewayError) -> ErrorShape:
        """How the door tells this error."""
        return self._door.errors


def predict_door() -> Door:
    """`POST /predict` and `POST /predict/{model}`."""

    def decode(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> InferenceRequest:
        return predict_json.decode_request(body, contract_of, path.get("model"))

    return Door("predict", decode, predict_json.encode_response, PREDICT_SHAPE)


def oip_door() -> Door:
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    def decode(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> InferenceRequest:
        return oip_json.decode_request(body, model_spec(path), contract_of)

    return Door("oip-rest", decode, oip_json.encode_response, OIP_SHAPE)


def model_spec(path: Mapping[str, str]) -> ModelSpec:
    """The model that an Open Inference Protocol path names; raises VERSION_NOT_FOUND."""
    model, version = path["model"], path.get("version")
    return ModelSpec(model, None if version is None else version_number(version, model))


def _telling(call: Call) -> list[tuple[bytes, bytes]]:
    """The headers of every inference answer: its times, and who gave it, or failed to, where one was asked."""
    headers = [(b"server-timing", call.context.timings.server_timing().encode())]
    if call.context.served_by is not None:
        headers.append((b"x-served-by", header_text(call.context.served_by.header()).encode()))
    return headers
