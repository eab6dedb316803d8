"""One inference request that is there whole, from its head to its answer, whatever brought it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from gateway.core.backend import Done, Outcome
from gateway.core.contract import ContractOf
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.dataplane import Flying
from gateway.frontends.edge import (
    SELECTION_HEADERS,
    Call,
    Edge,
    choose,
    failure,
    seconds_from_milliseconds,
    served_by_header,
)
from gateway.frontends.rest.answers import Answer, common, shutting_down, stating, told
from gateway.frontends.rest.body import Connection, too_large, while_connected
from gateway.frontends.rest.http_protocol import lines_of

if TYPE_CHECKING:
    from gateway.frontends.rest.inference import InferenceEndpoint

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


class Head:
    """What follows from the headers of a request and from its path's parameters. Requests with the same share it.

    `read` is for those that were let in: a refusal for a full gateway comes before one for what the headers say.
    """

    __slots__ = ("_headers", "cap", "model", "path", "selection", "sent_id", "timeout_s", "translate")

    cap: tuple[int, str]
    selection: Mapping[str, str]
    timeout_s: float | None
    """The client's own, where it sent one."""

    def __init__(self, headers: Fields, path: Mapping[str, str]) -> None:
        self._headers = headers
        self.path = path
        self.model = path.get("model", "")
        self.sent_id = next((value.decode("latin-1") for name, value in headers if name == b"x-request-id"), None)
        self.translate: Translate | None = None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self._headers:
            yield name.decode("latin-1"), value.decode("latin-1")

    def read(self, endpoint: InferenceEndpoint, edge: Edge, call: Call) -> Translate:
        """How the body is decoded; raises what is wrong with the headers, at each call. The call gets its deadline."""
        translate = self.translate
        if translate is None:
            headers = RequestHeaders.among(self._headers)
            timeout = headers.values.get(b"x-request-timeout-ms")
            self.timeout_s = None if timeout is None else seconds_from_milliseconds(timeout.decode("latin-1"))
            translate = endpoint.translation(headers)
            self.selection = headers.selection
            self.cap = endpoint.cap_of(self._headers)
            self.translate = translate
        if self.timeout_s is not None:
            edge.allow(call, self.timeout_s)
            edge.seconds_left(call)
        return translate


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
        "_head",
        "_request",
        "_ticket",
    )

    _encode: Encode
    _request: InferenceRequest

    def __init__(
        self,
        endpoint: InferenceEndpoint,
        edge: Edge,
        call: Call,
        head: Head,
        body: bytes,
        connection: Connection,
    ) -> None:
        self._endpoint = endpoint
        self._edge = edge
        self._call = call
        self._head = head
        self._body = body
        self._connection = connection
        self._ticket = edge.admission.receive()

    def open(self) -> None:
        """Admits and reads the request; raises what it is refused for."""
        edge, call, ticket, head = self._edge, self._call, self._ticket, self._head
        body, self._body = self._body, b""
        ticket.check()
        translate = head.read(self._endpoint, edge, call)
        if call.model:
            edge.data_plane.check_room(call.model, call.context.caller)
        cap, kind = head.cap
        if len(body) > cap:
            raise too_large(cap, kind)
        ticket.take_whole(len(body))
        begin = perf_counter()
        try:
            self._request, self._encode = translate(body, head.path, edge.data_plane.contract)
        finally:
            call.context.timings.add("decode", perf_counter() - begin)

    def start(self, done: Done) -> Flying | None:
        """Has it answered, as `DataPlane.begin` does."""
        return self._edge.start(self._call, self._request, self._head.selection, done)

    async def run(self) -> InferenceResponse:
        """Has it answered; raises CLIENT_GONE where the client leaves meanwhile."""
        work = self._edge.infer(self._call, self._request, self._head.selection)
        return await while_connected(_nothing, work, self._connection)

    def closed(self, outcome: Outcome) -> tuple[int, bytes, bytes] | None:
        """The answer to a request that ended so: status, lines of headers, body; None where the client has gone."""
        call = self._call
        request_id = call.context.request_id
        answer: Answer | None = None
        if isinstance(outcome, InferenceResponse):
            begin = perf_counter()
            try:
                answer = self._encode(outcome)
            except Exception as exc:
                outcome = exc
            call.context.timings.add("encode", perf_counter() - begin)
        if answer is not None:
            self._left(None)
            return 200, _answer_lines(call, answer), answer.body
        error = failure(request_id, outcome) if isinstance(outcome, Exception) else shutting_down()
        self._left(error.cause)
        if error.cause is Cause.CLIENT_GONE:
            return None
        shape = self._endpoint.shape(error)
        status, extra, text = told(error, shape, request_id, telling(call))
        return status, lines_of([*stating(shape.media_type, text), *extra, *common(request_id)]), text

    def _left(self, cause: Cause | None) -> None:
        self._ticket.leave()
        self._edge.finish(self._call, cause)


def telling(call: Call) -> list[tuple[bytes, bytes]]:
    """The headers of every inference answer: its times, and who gave it, or failed to, where one was asked."""
    headers = [(b"server-timing", call.context.timings.server_timing().encode())]
    if call.context.served_by is not None:
        headers.append((b"x-served-by", served_by_header(call.context.served_by).encode()))
    return headers


def _answer_lines(call: Call, answer: Answer) -> bytes:
    """The lines of an answer's headers, in one go: the same as `stating`, `telling` and `common` give."""
    context = call.context
    body = answer.body
    told_of = context.timings.server_timing()
    if context.served_by is not None:
        told_of = f"{told_of}\r\nx-served-by: {served_by_header(context.served_by)}"
    own = lines_of(answer.headers).decode("latin-1") if answer.headers else ""
    return (
        f"content-type: {answer.media_type}\r\ncontent-length: {len(body)}\r\nserver-timing: {told_of}\r\n"
        f"{own}x-request-id: {context.request_id}\r\nx-content-type-options: nosniff\r\n"
    ).encode("latin-1")


async def _nothing() -> Message:
    raise GatewayError(Cause.INTERNAL, "there is nothing to receive of a request that is there whole")
