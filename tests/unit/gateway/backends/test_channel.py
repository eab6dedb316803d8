"""Tests of gateway.backends.channel: the gRPC channel and the HTTP pool, each against a server of a few lines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import aiohttp.web
import grpc
import pytest

from gateway.backends.channel import GrpcChannel, HttpPool, HttpReply, named, time_left
from gateway.backends.errors import tfserving_rpc_error
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from tests.fakes.relay import Relay

CAP = 10_000
METHOD = "/test.Service/Method"
Answer = Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]]


class FixedClock:
    """A clock that stands at `instant`."""

    def __init__(self, instant: float) -> None:
        self.instant = instant

    def now(self) -> float:
        """The instant."""
        return self.instant


@asynccontextmanager
async def http_server(answer: Answer) -> AsyncIterator[str]:
    """The URL of a server that answers everything with `answer`."""
    app = aiohttp.web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = aiohttp.web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(reply: bytes) -> AsyncIterator[int]:
    """The port of a server that reads something, writes `reply` and closes."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener that never accepts and whose backlog is full: the kernel drops what comes."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
async def pool() -> AsyncIterator[HttpPool]:
    """A pool with a cap of CAP bytes."""
    pool = HttpPool(server="the server", max_reply_bytes=CAP, connect_timeout_s=0.2)
    yield pool
    await pool.close()


async def failure(call: Awaitable[object]) -> GatewayError:
    """The error that a call ends with."""
    with pytest.raises(GatewayError) as caught:
        await call
    return caught.value


async def get(pool: HttpPool, url: str) -> HttpReply:
    """The answer to a plain GET."""
    return await pool.request("GET", url, timeout_s=5)


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


async def test_a_reply_comes_whole_with_status_and_headers(pool: HttpPool) -> None:
    """Any status is an answer; header names ignore case."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        body = await request.read()
        assert request.headers["Accept-Encoding"] == "identity"
        assert request.headers["Content-Type"] == "application/octet-stream"
        return aiohttp.web.Response(status=418, body=body[::-1], headers={"x-server": "a/1"})

    async with http_server(answer) as url:
        reply = await pool.request("POST", url, timeout_s=5, body=b"abc", content_type="application/octet-stream")
    assert (reply.status, reply.body, reply.headers["X-Server"]) == (418, b"cba", "a/1")


async def test_a_body_of_many_megabytes_is_sent_whole(pool: HttpPool) -> None:
    """A large body is written in pieces, with its length announced."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text=f"{request.content_length} {len(await request.read())}")

    async with http_server(answer) as url:
        reply = await pool.request("POST", url, timeout_s=20, body=bytes(9_000_001))
    assert reply.body == b"9000001 9000001"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_reply_over_the_cap_is_not_read(pool: HttpPool, chunked: bool) -> None:
    """Whether or not the size is announced; a reply of exactly the cap is fine."""
    size = CAP

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        response = aiohttp.web.Response(body=bytes(size))
        if chunked:
            response.enable_chunked_encoding()
        return response

    async with http_server(answer) as url:
        assert len((await get(pool, url)).body) == CAP
        size = CAP + 1
        assert (await failure(get(pool, url))).cause is Cause.UPSTREAM_BAD_REPLY


async def test_endless_chunks_are_cut_off_at_the_cap(pool: HttpPool) -> None:
    """A reply without an end is dropped with its connection, so that the server notices."""
    ended = asyncio.Event()

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1000))
        finally:
            ended.set()

    async with http_server(answer) as url:
        assert (await failure(get(pool, url))).cause is Cause.UPSTREAM_BAD_REPLY
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_compressed_reply_is_not_inflated(pool: HttpPool) -> None:
    """Compression was not asked for; what comes compressed all the same is no usable answer."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=b"\x1f\x8b bomb", headers={"Content-Encoding": "gzip"})

    async with http_server(answer) as url:
        assert (await failure(get(pool, url))).cause is Cause.UPSTREAM_BAD_REPLY


async def test_a_redirect_is_not_followed(pool: HttpPool) -> None:
    """A redirect is an answer like any other: nothing goes to the place it names."""
    paths = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        paths.append(request.path)
        return aiohttp.web.Response(status=302, headers={"Location": "/elsewhere"})

    async with http_server(answer) as url:
        assert (await get(pool, f"{url}/here")).status == 302
    assert paths == ["/here"]


async def test_no_cookie_is_kept(pool: HttpPool) -> None:
    """Calls share connections and nothing else."""
    cookies: list[str | None] = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        cookies.append(request.headers.get("Cookie"))
        return aiohttp.web.Response(headers={"Set-Cookie": "a=b"})

    async with http_server(answer) as url:
        await get(pool, url)
        await get(pool, url)
    assert cookies == [None, None]


async def test_a_path_is_sent_as_it_is_encoded(pool: HttpPool) -> None:
    """Percent-encoded names are neither decoded nor encoded again."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text=request.raw_path)

    async with http_server(answer) as url:
        assert (await get(pool, f"{url}/m/a%2Fb%20c%3A%25")).body == b"/m/a%2Fb%20c%3A%25"


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (b"", Cause.UPSTREAM_LOST),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", Cause.UPSTREAM_LOST),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", Cause.UPSTREAM_LOST),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Cause.UPSTREAM_BAD_REPLY),
    ],
)
async def test_broken_replies(pool: HttpPool, reply: bytes, cause: Cause) -> None:
    """A connection that ends early is lost; what is not HTTP is a bad reply. Neither is asked for twice."""
    async with raw_server(reply) as port:
        call = pool.request("POST", f"http://127.0.0.1:{port}/", timeout_s=5, body=b"{}")
        assert (await failure(call)).cause is cause


async def test_a_stale_connection_is_lost_and_not_sent_again(pool: HttpPool) -> None:
    """A kept-alive connection that breaks as the next request goes out is UPSTREAM_LOST: it may have been read."""
    count = 0

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        nonlocal count
        count += 1
        if count == 2:
            assert request.transport is not None
            request.transport.abort()
        return aiohttp.web.Response()

    async with http_server(answer) as url:
        await pool.request("POST", url, timeout_s=5, body=b"1")
        assert (await failure(pool.request("POST", url, timeout_s=5, body=b"2"))).cause is Cause.UPSTREAM_LOST
        await pool.request("POST", url, timeout_s=5, body=b"3")
    assert count == 3


async def test_connections_are_kept_and_used_again(pool: HttpPool) -> None:
    """Calls one after another need one connection."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="ok")

    async with http_server(answer) as url, Relay(int(url.rpartition(":")[2])) as relay:
        for _ in range(5):
            await get(pool, f"http://127.0.0.1:{relay.port}/")
        assert relay.accepted == 1


async def test_a_host_that_does_not_take_the_connection_is_unreachable(pool: HttpPool) -> None:
    """The connect timeout is the server's trouble; a shorter deadline is the caller's."""

    for timeout_s, cause in ((5.0, Cause.UPSTREAM_UNREACHABLE), (0.1, Cause.DEADLINE)):
        with full_backlog() as port:
            begin = asyncio.get_running_loop().time()
            call = pool.request("GET", f"http://127.0.0.1:{port}/", timeout_s=timeout_s)
            assert (await failure(call)).cause is cause
            assert asyncio.get_running_loop().time() - begin < 1


async def test_the_deadline_covers_a_reply_that_trickles(pool: HttpPool) -> None:
    """The time is that of the whole answer, however steadily its bytes come."""

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    async with http_server(answer) as url:
        assert (await failure(pool.request("GET", url, timeout_s=0.2))).cause is Cause.DEADLINE


async def test_a_proxy_from_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model servers are reached directly, whatever the environment says."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="direct")

    pool = HttpPool(server="the server")
    async with http_server(answer) as url:
        assert (await get(pool, url)).body == b"direct"
    await pool.close()


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
