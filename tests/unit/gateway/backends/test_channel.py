"""Tests of gateway.backends.channel: the gRPC channel, against servers of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from gateway.backends.channel import GrpcChannel, named, time_left
from gateway.backends.errors import tfserving_rpc_error
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from tests.fakes.relay import Relay
from tests.unit.gateway.backends.support import failure, raw_server

CAP = 10_000
METHOD = "/test.Service/Method"


class FixedClock:
    """A clock that stands at `instant`."""

    def __init__(self, instant: float) -> None:
        self.instant = instant

    def now(self) -> float:
        """The instant."""
        return self.instant


def test_time_left_is_the_deadline_less_now() -> None:
    """The remaining seconds by the clock that the deadline is an instant of."""
    assert time_left(CallContext("r", "predict", deadline=12.5), FixedClock(10.0)) == 2.5


@pytest.mark.parametrize("now", [12.5, 99.0])
def test_a_deadline_that_has_passed_sends_nothing(now: float) -> None:
    """At and after the deadline the call is over."""
    with pytest.raises(GatewayError) as caught:
        time_left(CallContext("r", "predict", deadline=12.5), FixedClock(now))
    assert caught.value.cause is Cause.DEADLINE


@pytest.mark.parametrize(
    ("mark", "configured", "name"),
    [
        ("savedmodel-server/1.0 (stand-in)", "TensorFlow Serving 2.20", "savedmodel-server 1.0 (stand-in)"),
        (None, "TensorFlow Serving 2.20", "TensorFlow Serving 2.20"),
        ("", None, "unstated"),
        ('bad"\x00/1', None, "bad 1"),
        ("x" * 500, None, "x" * 80),
    ],
)
def test_a_server_is_named_by_its_mark_first(mark: str | None, configured: str | None, name: str) -> None:
    """A mark wins over configuration, and reaches headers only as short printable text."""
    assert named(mark, configured, "unstated") == name


@asynccontextmanager
async def grpc_server(
    answer: Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]],
    compression: grpc.Compression | None = None,
) -> AsyncIterator[str]:
    """The address of a server whose METHOD is `answer`."""

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
            return grpc.unary_unary_rpc_method_handler(answer) if handler_call_details.method == METHOD else None

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)], compression=compression)
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[GrpcChannel]:
    """A channel with a cap of CAP bytes."""
    channel = GrpcChannel(address, server="the server", answered=tfserving_rpc_error, max_reply_bytes=CAP)
    yield channel
    await channel.close()


async def echo(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """The message itself."""
    return message


async def test_raw_bytes_go_there_and_back() -> None:
    """Messages are neither serialised nor parsed on the way."""
    async with grpc_server(echo) as address, channel_to(address) as channel:
        assert await channel.call(METHOD, b"\x00\xff raw", 5) == b"\x00\xff raw"


async def test_grpc_requests_may_be_large_and_replies_may_not() -> None:
    """A request beyond gRPC's default of 4 MiB arrives; a reply over the cap is UPSTREAM_BAD_REPLY."""

    async def length(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return str(len(message)).encode()

    async with grpc_server(length) as address, channel_to(address) as channel:
        assert await channel.call(METHOD, bytes(9_000_000), 10) == b"9000000"
    async with grpc_server(echo) as address, channel_to(address) as channel:
        assert len(await channel.call(METHOD, bytes(CAP), 5)) == CAP
        assert (await failure(channel.call(METHOD, bytes(CAP + 1), 5))).cause is Cause.UPSTREAM_BAD_REPLY


async def test_a_compressed_message_is_not_inflated() -> None:
    """No compression is offered, so a server that compresses all the same sends nothing usable."""
    async with grpc_server(echo, grpc.Compression.Gzip) as address, channel_to(address) as channel:
        assert (await failure(channel.call(METHOD, bytes(CAP), 5))).cause is Cause.UPSTREAM_BAD_REPLY


async def test_no_grpc_call_is_sent_twice() -> None:
    """UNAVAILABLE from the server is not retried by the channel."""
    count = 0

    async def refuse(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        nonlocal count
        count += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

    async with grpc_server(refuse) as address, channel_to(address) as channel:
        await failure(channel.call(METHOD, b"", 5))
    assert count == 1


async def test_ask_returns_metadata_with_any_status() -> None:
    """What marks a server is read from errors as well as from answers."""

    async def marked(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.send_initial_metadata((("x-server", "a/1"),))
        if message:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nope")
        return message

    async with grpc_server(marked) as address, channel_to(address) as channel:
        fine, refused = await channel.ask(METHOD, b"", 5), await channel.ask(METHOD, b"x", 5)
    assert (fine.code, fine.metadata["x-server"]) == (grpc.StatusCode.OK, "a/1")
    assert (refused.code, refused.metadata["x-server"]) == (grpc.StatusCode.NOT_FOUND, "a/1")


async def test_ask_fails_where_nobody_knows_the_method() -> None:
    """A gRPC server without the service is not the model server that was configured."""
    async with grpc_server(echo) as address, channel_to(address) as channel:
        assert (await failure(channel.ask("/other.Service/Method", b"", 5))).cause is Cause.UPSTREAM_BAD_REPLY


async def test_a_grpc_port_that_speaks_http1_is_unreachable() -> None:
    """A REST port in place of the gRPC port takes the connection and never becomes one."""
    async with (
        raw_server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port,
        channel_to(f"127.0.0.1:{port}") as channel,
    ):
        assert (await failure(channel.call(METHOD, b"", 5))).cause is Cause.UPSTREAM_UNREACHABLE


async def test_a_server_that_comes_back_is_found_again() -> None:
    """After a failure the channel reconnects within about a second, by itself."""
    async with grpc_server(echo) as address:
        port = int(address.rpartition(":")[2])
        relay = Relay(port)
        async with relay, channel_to(f"127.0.0.1:{relay.port}") as channel:
            await channel.call(METHOD, b"", 5)
            relay.cut()
            async with asyncio.timeout(5):
                while True:
                    try:
                        assert await channel.call(METHOD, b"again", 5) == b"again"
                        break
                    except GatewayError as exc:
                        assert exc.cause in (Cause.UPSTREAM_UNREACHABLE, Cause.UPSTREAM_LOST)  # noqa: PT017
