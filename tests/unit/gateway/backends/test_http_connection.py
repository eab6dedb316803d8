"""Tests of gateway.backends.http_connection, through a pool: replies as only raw servers give them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.backends.http_connection import MAX_FRAMING_BYTES, Headers
from gateway.backends.http_pool import HttpPool
from gateway.core.errors import Cause
from tests.unit.gateway.backends.support import failure, raw_server

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], object]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def pool() -> AsyncIterator[HttpPool]:
    """A pool with room for any reply of these tests."""
    pool = HttpPool(server="the server", max_reply_bytes=1 << 20)
    yield pool
    await pool.close()


@asynccontextmanager
async def scripted(*connections: list[bytes]) -> AsyncIterator[tuple[str, list[int]]]:
    """A server's URL, and the requests read on each connection so far.

    Each connection has its list of replies, one a request; then it closes.
    """
    read: list[int] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(read)
        read.append(0)
        for reply in connections[number]:
            await reader.readuntil(b"\r\n\r\n")
            read[number] += 1
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", read


async def test_a_reply_without_a_length_ends_with_its_connection(pool: HttpPool) -> None:
    """As HTTP/1.0 servers write it."""
    async with raw_server(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nall of it") as port:
        reply = await pool.request("GET", f"http://127.0.0.1:{port}/", timeout_s=5)
    assert (reply.status, reply.body) == (200, b"all of it")


async def test_an_interim_reply_is_not_the_reply(pool: HttpPool) -> None:
    """A server may say that it goes on before it answers."""
    async with raw_server(b"HTTP/1.1 100 Continue\r\n\r\n" + OK) as port:
        reply = await pool.request("POST", f"http://127.0.0.1:{port}/", timeout_s=5, body=b"{}")
    assert (reply.status, reply.body) == (200, b"ok")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (2 * MAX_FRAMING_BYTES),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * (2 * MAX_FRAMING_BYTES),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    ],
)
async def test_what_is_no_reply_is_refused_within_bounds(pool: HttpPool, reply: bytes) -> None:
    """Endless headers and chunk extensions, other protocols, lengths that are none."""
    async with raw_server(reply) as port:
        call = pool.request("POST", f"http://127.0.0.1:{port}/", timeout_s=5, body=b"{}")
        assert (await failure(call)).cause is Cause.UPSTREAM_BAD_REPLY


async def test_a_get_on_a_connection_just_closed_is_asked_again(pool: HttpPool) -> None:
    """It changes nothing there; a POST may, and is not."""
    async with scripted([OK], [OK]) as (url, read):
        first = await pool.request("GET", url, timeout_s=5)
        second = await pool.request("GET", url, timeout_s=5)
    assert (first.body, second.body, read) == (b"ok", b"ok", [1, 1])


@pytest.mark.parametrize("more", [OK, b"garbage", b"HTTP/1.1 2"])
async def test_bytes_that_nobody_asked_for_end_the_connection(pool: HttpPool, more: bytes) -> None:
    """They would be taken for the next request's reply."""
    async with scripted([OK + more, OK], [OK]) as (url, read):
        assert (await pool.request("POST", url, timeout_s=5, body=b"")).body == b"ok"
        assert (await pool.request("POST", url, timeout_s=5, body=b"")).body == b"ok"
    assert read == [1, 1]


async def test_a_request_in_flight_is_lost_when_the_pool_closes() -> None:
    """And none is taken after."""
    pool = HttpPool(server="the server")
    asked = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        call = asyncio.create_task(failure(pool.request("GET", url, timeout_s=5)))
        await asked.wait()
        await pool.close()
        assert (await call).cause is Cause.UPSTREAM_LOST
        assert (await failure(pool.request("GET", url, timeout_s=5))).cause is Cause.UPSTREAM_UNREACHABLE


@pytest.mark.parametrize(
    "url", ["ftp://host/", "http:///path", "http://host/a b", "http://host/\r\nX: y", "http://a:b@host/", "nothing"]
)
async def test_what_is_no_url_is_our_own_fault(pool: HttpPool, url: str) -> None:
    """Nothing is sent; spaces and ends of lines would become part of the head."""
    assert (await failure(pool.request("GET", url, timeout_s=5))).cause is Cause.INTERNAL


def test_headers_ignore_case_and_keep_the_first() -> None:
    """As a mapping of text."""
    headers = Headers([(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2")])
    assert (headers["content-TYPE"], headers["X-a"], headers.get("x-b")) == ("text/plain", "1", None)
    assert list(headers) == ["content-type", "x-a"]
    assert len(headers) == 2
