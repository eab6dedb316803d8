"""The inference routes: raw ASGI endpoints, since they are the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.types import Receive, Scope, Send

from gateway.codecs import predict_json
from gateway.codecs.selection import version_number
from gateway.core.contract import ContractOf
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.frontends.edge import (
    Call,
    Edge,
    Ticket,
    failure,
    request_id_from,
    seconds_from_milliseconds,
)
from gateway.frontends.rest.answers import Answer, send_answer, send_error, shutting_down
from gateway.frontends.rest.body import CONNECTION, Body, Connection, while_connected
from gateway.frontends.rest.errors import PREDICT_SHAPE, ErrorShape
from gateway.frontends.rest.middleware import REQUEST_ID
from gateway.frontends.rest.whole import Encode, Fields, Head, RequestHeaders, Serving, Translate, telling

Decode = Callable[[bytes, Mapping[str, str], ContractOf], InferenceRequest]


@dataclass(frozen=True, slots=True)
class Door:
    """One protocol's way in and out: how it decodes (body, path parameters), encodes and tells errors."""

    protocol: str
    decode: Decode
    encode: Callable[[InferenceResponse], bytes]
    errors: ErrorShape


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
        await send_answer(send, 200, outcome.media_type, outcome.body, [*telling(call), *outcome.headers])

    def head(self, headers: Fields, path: Mapping[str, str]) -> Head:
        """What follows from the headers of a request without ASGI, and from its path's parameters."""
        return Head(headers, path)

    def begin(self, head: Head, caller: str, body: bytes, connection: Connection) -> Serving:
        """Begins the same for a request that is there whole, without ASGI."""
        call = self._edge.open(self._door.protocol, request_id_from(head.sent_id), caller, head)
        call.model = head.model
        return Serving(self, self._edge, call, head, body, connection)

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
        headers = telling(call)
        if body.skippable:
            await send_error(send, error, self.shape(error), call.context.request_id, headers)
            return
        headers.append((b"connection", b"close"))
        rest = partial(body.discard, self._edge.limits.body_timeout_s)
        await send_error(send, error, self.shape(error), call.context.request_id, headers, before_end=rest)

    def shape(self, _error: GatewayError) -> ErrorShape:
        """How the door tells this error."""
        return self._door.errors


def predict_door() -> Door:
    """`POST /predict` and `POST /predict/{model}`."""

    def decode(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> InferenceRequest:
        return predict_json.decode_request(body, contract_of, path.get("model"))

    return Door("predict", decode, predict_json.encode_response, PREDICT_SHAPE)


def model_spec(path: Mapping[str, str]) -> ModelSpec:
    """The model that an Open Inference Protocol path names; raises VERSION_NOT_FOUND."""
    model, version = path["model"], path.get("version")
    return ModelSpec(model, None if version is None else version_number(version, model))
