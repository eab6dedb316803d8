"""The inference routes: raw ASGI endpoints, since they are the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.types import Message, Receive, Scope, Send

from gateway.codecs import predict_json
from gateway.codecs.selection import version_number
from gateway.core.backend import Done, Outcome
from gateway.core.contract import ContractOf
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.dataplane import Flying
from gateway.frontends.edge import (
    SELECTION_HEADERS,
    Call,
    Edge,
    Ticket,
    choose,
    failure,
    request_id_from,
    seconds_from_milliseconds,
    served_by_header,
)
from gateway.frontends.rest.answers import Answer, common, send_answer, send_error, shutting_down, stating, told
from gateway.frontends.rest.body import CONNECTION, Body, Connection, too_large, while_connected
from gateway.frontends.rest.errors import PREDICT_SHAPE, ErrorShape
from gateway.frontends.rest.middleware import REQUEST_ID

Decode = Callable[[bytes, Mapping[str, str], ContractOf], InferenceRequest]
Encode = Callable[[InferenceResponse], Answer]
Translate = Callable[[bytes, Mapping[str, str], ContractOf], tuple[InferenceRequest, Encode]]

Fields = list[tuple[bytes, bytes]]

_SELECTION_HEADERS = {name.encode(): name for name in SELECTION_HEADERS}
_USED_HEADERS = frozenset(
    {
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"inference-header-content-length",
        b"x-request-timeout-ms",
    }
)


@dataclass(frozen=True, slots=True)
class Door:
    """One protocol's way in and out: how it decodes (body, path parameters), encodes and tells errors."""

    protocol: str
    decode: Decode
    encode: Callable[[InferenceResponse], bytes]
    errors: ErrorShape


@dataclass(slots=True)
class RequestHeaders:
    """The headers that an inference request can carry, and where it wants to be answered."""

    values: Mapping[bytes, bytes]
    selection: Mapping[str, str]

    @classmethod
    def read(cls, scope: Scope) -> RequestHeaders:
        """Of an ASGI request; raises as `among` does."""
        return cls.among(scope["headers"])

    @classmethod
    def among(cls, headers: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
        """Raises INVALID_INPUT for a contradiction, UNPARSEABLE for a header that may come only once."""
        values: dict[bytes, bytes] = {}
        selection: dict[str, str] = {}
        for name, value in headers:
            if name in _USED_HEADERS:
                if values.setdefault(name, value) != value:
                    raise GatewayError(Cause.UNPARSEABLE, f"{name.decode()} is sent twice with different values")
            elif name in _SELECTION_HEADERS:
                choose(selection, _SELECTION_HEADERS[name], value.decode("latin-1"))
        return cls(values, selection)

    def check_encoding(self) -> None:
        """Raises MEDIA_TYPE for a compressed body."""
        encoding = self.values.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != b"identity":
            raise GatewayError(Cause.MEDIA_TYPE, "Content-Encoding: expected none; bodies are taken uncompressed only")

    def check_media_type(self) -> None:
        """Raises MEDIA_TYPE for anything but uncompressed JSON in UTF-8."""
        self.check_encoding()
        stated = self.values.get(b"content-type", b"")
        if stated == b"application/json":
            return
        media_type, _, parameters = stated.lower().partition(b";")
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
        caller, headers = scope.get("client"), scope["headers"]
        call = self._edge.open(
            self._door.protocol,
            scope[REQUEST_ID],
            caller[0] if caller else "",
            ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers),
        )
        call.model = scope["path_params"].get("model", "")
        body = self._body(scope, receive)
        try:
            outcome = await self._outcome(call, scope, receive, body)
        except asyncio.CancelledError:
            # The client's own leaving is an outcome; what is left is a server that ends its tasks to shut down.
            # The answer is this task's end too: raised again, the cancelling would be logged as a failure.
            outcome = shutting_down()
        if isinstance(outcome, GatewayError):
            await self._send_error(send, call, body, outcome)
            return
        await send_answer(send, 200, outcome.media_type, outcome.body, [*_telling(call), *outcome.headers])

    def begin(
        self, headers: Fields, path: Mapping[str, str], caller: str, body: bytes, connection: Connection
    ) -> Serving:
        """Begins the same for a request that is there whole, without ASGI."""
        sent = None
        for name, value in headers:
            if name == b"x-request-id":
                sent = value.decode("latin-1")
                break
        call = self._edge.open(
            self._door.protocol,
            request_id_from(sent),
            caller,
            ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers),
        )
        call.model = path.get("model", "")
        return Serving(self, self._edge, call, headers, path, body, connection)

    def cap_of(self, _headers: Fields) -> tuple[int, str]:
        """How large a body with these headers may be, and of what kind it then is: all of it is JSON."""
        limits = self._edge.limits
        return min(limits.json_bytes, limits.body_bytes), "as JSON"

    def _body(self, scope: Scope, receive: Receive) -> Body:
        """The request's body."""
        cap, kind = self.cap_of(scope["headers"])
        return Body(receive, scope["headers"], cap=cap, kind=kind, connection=scope.get(CONNECTION))

    def translation(self, headers: RequestHeaders) -> Translate:
        """How a request with these headers is decoded, and its answer encoded; raises what is wrong with them."""
        headers.check_media_type()

        def translate(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> tuple[InferenceRequest, Encode]:
            return self._door.decode(body, path, contract_of), lambda response: Answer(self._door.encode(response))

        return translate

    async def _outcome(self, call: Call, scope: Scope, receive: Receive, body: Body) -> Answer | GatewayError:
        """The encoded answer, or why there is none: reported here, before anything is sent."""
        cause: Cause | None = Cause.NOT_READY
        try:
            with self._edge.admission.receive() as ticket:
                encoded = await self._infer(call, scope, receive, body, ticket)
            cause = None
            return encoded
        except Exception as exc:
            error = failure(call.context.request_id, exc)
            cause = error.cause
            return error
        finally:
            self._edge.finish(call, cause)

    async def _infer(self, call: Call, scope: Scope, receive: Receive, body: Body, ticket: Ticket) -> Answer:
        headers = RequestHeaders.read(scope)
        timeout = headers.values.get(b"x-request-timeout-ms")
        if timeout is not None:
            self._edge.allow(call, seconds_from_milliseconds(timeout.decode("latin-1")))
        translate = self.translation(headers)
        data = await self._read(call, body, ticket)
        timings = call.context.timings
        with timings.phase("decode"):
            request, encode = translate(data, scope["path_params"], self._edge.data_plane.contract)
        work = self._edge.infer(call, request, headers.selection)
        response = await while_connected(receive, work, scope.get(CONNECTION))
        with timings.phase("encode"):
            return encode(response)

    async def _read(self, call: Call, body: Body, ticket: Ticket) -> bytes:
        """The body; of a request that can be sent nowhere, as far as its path tells, nothing is read."""
        left = self._edge.seconds_left(call)
        if call.model:
            self._edge.data_plane.check_room(call.model, call.context.caller)
        arrived = body.arrived(ticket)
        if arrived is not None:
            return arrived
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
            await send_error(send, error, self.shape(error), call.context.request_id, headers)
            return
        headers.append((b"connection", b"close"))
        rest = partial(body.discard, self._edge.limits.body_timeout_s)
        await send_error(send, error, self.shape(error), call.context.request_id, headers, before_end=rest)

    def shape(self, _error: GatewayError) -> ErrorShape:
        """How the door tells this error."""
        return self._door.errors


class Serving:
    """One request that was there whole, from its head to its answer, on whichever of two ways.

    `start` has it served without a coroutine where that is possible; `run` serves it in any case. `closed` makes the
    answer of how it ended, and is called once.
    """

    __slots__ = (
        "_body",
        "_call",
        "_connection",
        "_edge",
        "_encode",
        "_endpoint",
        "_headers",
        "_path",
        "_request",
        "_selection",
        "_ticket",
    )

    _encode: Encode
    _request: InferenceRequest
    _selection: Mapping[str, str]

    def __init__(
        self,
        endpoint: InferenceEndpoint,
        edge: Edge,
        call: Call,
        headers: Fields,
        path: Mapping[str, str],
        body: bytes,
        connection: Connection,
    ) -> None:
        self._endpoint = endpoint
        self._edge = edge
        self._call = call
        self._headers = headers
        self._path = path
        self._body = body
        self._connection = connection
        self._ticket = edge.admission.receive()

    def open(self) -> None:
        """Admits and reads the request; raises what it is refused for."""
        edge, call, ticket, endpoint = self._edge, self._call, self._ticket, self._endpoint
        body, self._body = self._body, b""
        ticket.__enter__()
        headers = RequestHeaders.among(self._headers)
        timeout = headers.values.get(b"x-request-timeout-ms")
        if timeout is not None:
            edge.allow(call, seconds_from_milliseconds(timeout.decode("latin-1")))
        translate = endpoint.translation(headers)
        edge.seconds_left(call)
        if call.model:
            edge.data_plane.check_room(call.model, call.context.caller)
        cap, kind = endpoint.cap_of(self._headers)
        if len(body) > cap:
            raise too_large(cap, kind)
        ticket.take(len(body))
        ticket.whole()
        self._selection = headers.selection
        with call.context.timings.phase("decode"):
            self._request, self._encode = translate(body, self._path, edge.data_plane.contract)

    def start(self, done: Done) -> Flying | None:
        """Has it answered, as `DataPlane.begin` does."""
        return self._edge.start(self._call, self._request, self._selection, done)

    async def run(self) -> InferenceResponse:
        """Has it answered; raises CLIENT_GONE where the client leaves meanwhile."""
        work = self._edge.infer(self._call, self._request, self._selection)
        return await while_connected(_nothing, work, self._connection)

    def closed(self, outcome: Outcome) -> tuple[int, Fields, bytes] | None:
        """The answer to a request that ended so: status, headers and body, None where the client has gone."""
        call = self._call
        request_id = call.context.request_id
        answer: Answer | None = None
        if isinstance(outcome, InferenceResponse):
            try:
                with call.context.timings.phase("encode"):
                    answer = self._encode(outcome)
            except Exception as exc:
                outcome = exc
        if answer is not None:
            self._left(None)
            return (
                200,
                [*stating(answer.media_type, answer.body), *_telling(call), *answer.headers, *common(request_id)],
                answer.body,
            )
        error = failure(request_id, outcome) if isinstance(outcome, Exception) else shutting_down()
        self._left(error.cause)
        if error.cause is Cause.CLIENT_GONE:
            return None
        shape = self._endpoint.shape(error)
        status, extra, text = told(error, shape, request_id, _telling(call))
        return status, [*stating(shape.media_type, text), *extra, *common(request_id)], text

    def _left(self, cause: Cause | None) -> None:
        self._ticket.leave()
        self._edge.finish(self._call, cause)


def predict_door() -> Door:
    """`POST /predict` and `POST /predict/{model}`."""

    def decode(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> InferenceRequest:
        return predict_json.decode_request(body, contract_of, path.get("model"))

    return Door("predict", decode, predict_json.encode_response, PREDICT_SHAPE)


def model_spec(path: Mapping[str, str]) -> ModelSpec:
    """The model that an Open Inference Protocol path names; raises VERSION_NOT_FOUND."""
    model, version = path["model"], path.get("version")
    return ModelSpec(model, None if version is None else version_number(version, model))


async def _nothing() -> Message:
    raise GatewayError(Cause.INTERNAL, "there is nothing to receive of a request that is there whole")


def _telling(call: Call) -> list[tuple[bytes, bytes]]:
    """The headers of every inference answer: its times, and who gave it, or failed to, where one was asked."""
    headers = [(b"server-timing", call.context.timings.server_timing().encode())]
    if call.context.served_by is not None:
        headers.append((b"x-served-by", served_by_header(call.context.served_by).encode()))
    return headers
