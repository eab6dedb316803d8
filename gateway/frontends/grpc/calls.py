"""What every gRPC method shares: the client's metadata, the trailing metadata of answers, and errors as statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from gateway.codecs.wire import MAX_FIELDS, check_counts
from gateway.core.errors import Cause, GatewayError, capped
from gateway.frontends.edge import (
    SELECTION_HEADERS,
    Call,
    Edge,
    Ticket,
    choose,
    failure,
    request_id_from,
    served_by_header,
)
from gateway.frontends.grpc.errors import OIP

Context = grpc.aio.ServicerContext[bytes, bytes]
Method = Callable[[bytes, Context], Awaitable[bytes]]
M = TypeVar("M", bound=Message)
Trailing = tuple[tuple[str, str], ...]
# A client's metadata, as far as it is text.
Sent = list[tuple[str, str]]

# Status texts travel as a header, and 8 KiB is what many clients take of all headers together.
MAX_DETAIL = 1024


def metadata_of(context: Context) -> Sent:
    """What the client sent along, each time made anew by gRPC: to be asked for once a call."""
    sent: Any = context.invocation_metadata()
    # Keys that end in -bin have bytes for values; none of ours does.
    return [(key, value) for key, value in sent if isinstance(value, str)] if sent else []


def request_id(sent: Sent) -> str:
    """The client's own `x-request-id` if it is a sane one, else a fresh one."""
    for key, value in sent:
        if key == "x-request-id":
            return request_id_from(value)
    return request_id_from(None)


def open_call(edge: Edge, protocol: str, context: Context, sent: Sent, identity: str | None = None) -> Call:
    """A call that starts now, for whoever is at the other end; `identity` is its id, the client's own by default."""
    return edge.open(protocol, identity or request_id(sent), _host(context.peer()), sent)


def selection(sent: Sent) -> dict[str, str]:
    """Where the client's metadata wants it answered; raises INVALID_INPUT for a contradiction."""
    chosen: dict[str, str] = {}
    for key, value in sent:
        if key in SELECTION_HEADERS:
            choose(chosen, key, value)
    return chosen


def trailing(call: Call) -> Trailing:
    """What ends every inference: the id, the times, and who gave the answer, or failed to, where one was asked."""
    metadata = (
        ("x-request-id", call.context.request_id),
        ("server-timing", call.context.timings.server_timing()),
    )
    served_by = call.context.served_by
    return metadata if served_by is None else (*metadata, ("x-served-by", served_by_header(served_by)))


class Answering:
    """The `with` block in which a call is admitted and answered: reported here, once, however it ends.

    What goes wrong in the block ends there, and `error` says what the client is told. A cancellation goes on.
    """

    __slots__ = ("_call", "_edge", "_size", "_ticket", "error")

    def __init__(self, edge: Edge, call: Call, data: bytes) -> None:
        self._edge = edge
        self._call = call
        self._size = len(data)
        self._ticket: Ticket | None = None
        self.error: GatewayError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._ticket is not None:
            self._ticket.leave()
        call = self._call
        cause: Cause | None = None
        if error is not None:
            cause = Cause.INTERNAL
            if isinstance(error, asyncio.CancelledError):
                # gRPC cancels the handler when the client cancels, or its deadline passes; then nobody hears an answer.
                cause = self._edge.abandoned(call)
            elif isinstance(error, Exception):
                self.error = failure(call.context.request_id, error)
                cause = self.error.cause
        self._edge.finish(call, cause)
        return self.error is not None

    def admit(self) -> Ticket:
        """The stay of the call, whose message counts, until the block ends; raises OVERLOADED."""
        ticket = self._ticket = self._edge.admission.whole(self._size)
        return ticket


def keep_deadline(edge: Edge, call: Call, context: Context) -> None:
    """Takes the client's deadline over; raises DEADLINE where it has passed."""
    remaining = context.time_remaining()
    if remaining is not None:
        edge.allow(call, remaining)
        if remaining <= 0:
            edge.seconds_left(call)


async def abort(
    context: Context, error: GatewayError, metadata: Trailing, statuses: Mapping[Cause, grpc.StatusCode] = OIP
) -> NoReturn:
    """Ends the RPC with the cause's status by the protocol's table."""
    await context.abort(statuses[error.cause], capped(error.detail, MAX_DETAIL), metadata)


def answering(
    answer: Callable[[bytes, Mapping[str, str]], bytes], statuses: Mapping[Cause, grpc.StatusCode] = OIP
) -> Method:
    """A method whose answer, to a message and the metadata's selection, needs no waiting; failures become statuses."""

    async def method(data: bytes, context: Context) -> bytes:
        sent = metadata_of(context)
        identity = request_id(sent)
        metadata = (("x-request-id", identity),)
        try:
            encoded = answer(data, selection(sent))
        except Exception as exc:
            await abort(context, failure(identity, exc), metadata, statuses)
        context.set_trailing_metadata(metadata)
        return encoded

    return method


def parsed(message: M, data: bytes) -> M:
    """`message`, filled from `data`; raises UNPARSEABLE naming the message that was expected, and INVALID_INPUT.

    The latter for a message of more fields than any request needs.
    """
    if len(data) > MAX_FIELDS:
        check_counts(data, MAX_FIELDS, message.DESCRIPTOR.name)
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise GatewayError(Cause.UNPARSEABLE, f"expected a {message.DESCRIPTOR.name} message") from exc
    return message


class UnknownMethods(grpc.GenericRpcHandler):
    """Answers, and reports, whatever no service before it has. Added to a server last."""

    def __init__(self, edge: Edge, protocol: str) -> None:
        self._edge = edge
        self._protocol = protocol

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler for any method name."""
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    async def _refuse(self, _data: bytes, context: Context) -> bytes:
        identity = request_id(metadata_of(context))
        self._edge.refuse(self._protocol, identity, Cause.ROUTE_NOT_FOUND)
        error = GatewayError(Cause.ROUTE_NOT_FOUND, "there is no such service or method")
        await abort(context, error, (("x-request-id", identity),))


# The same for all calls of a connection.
@lru_cache(maxsize=1024)
def _host(peer: str) -> str:
    """The address without scheme and port, of gRPC's `ipv4:127.0.0.1:50051` or `ipv6:%5B::1%5D:50051`."""
    return peer.rpartition(":")[0].partition(":")[2]
