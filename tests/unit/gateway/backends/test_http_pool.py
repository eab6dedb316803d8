"""Tests of gateway.backends.http_pool: against servers of a few lines, well behaved and not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import aiohttp.web
import pytest

from gateway.backends.http_pool import HttpPool, HttpReply
from gateway.core.errors import Cause
from tests.fakes.relay import Relay
from tests.unit.gateway.backends.support import failure, raw_server

CAP = 10_000
Answer = Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]]


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


async def get(pool: HttpPool, url: str) -> HttpReply:
    """The answer to a plain GET."""
    return await pool.request("GET", url, timeout_s=5)


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
