"""Tests of gateway.backends.http_connection, through a pool: replies as only raw servers give them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.backends.http_connection import MAX_FRAMING_BYTES, MAX_HEADERS, Headers
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
        b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_FRAMING_BYTES // 20),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_reply_is_refused_within_bounds(pool: HttpPool, reply: bytes) -> None:
    """Endless headers, trailers, chunk extensions and interim replies, other protocols."""
    async with raw_server(reply) as port:
        call = pool.request("POST", f"http://127.0.0.1:{port}/", timeout_s=5, body=b"{}")
        assert (await failure(call)).cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    "reply",
    [
        b"Content-Length: many\r\n\r\nok",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip\r\n\r\nok",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
        b"Content-Length: 2\nX-A: 1\n\nok",
        b"X-A: 1\r\n Content-Length: 2\r\n\r\nok",
        b"X-A: 1\rContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_reply_whose_end_is_a_matter_of_opinion_is_refused(pool: HttpPool, reply: bytes) -> None:
    """Where two readers could see two replies, neither is taken."""
    async with raw_server(b"HTTP/1.1 200 OK\r\n" + reply) as port:
        call = pool.request("POST", f"http://127.0.0.1:{port}/", timeout_s=5, body=b"{}")
        assert (await failure(call)).cause is Cause.UPSTREAM_BAD_REPLY


async def test_an_interim_reply_before_the_end_is_no_reply(pool: HttpPool) -> None:
    """It has no body that could end with the connection."""
    async with raw_server(b"HTTP/1.1 100 Continue\r\n\r\n") as port:
        call = pool.request("POST", f"http://127.0.0.1:{port}/", timeout_s=5, body=b"{}")
        assert (await failure(call)).cause is Cause.UPSTREAM_LOST


async def test_a_trailer_is_no_header(pool: HttpPool) -> None:
    """What stands behind the body says nothing about it; spaces around a value are no part of it."""
    head = b"HTTP/1.1 200 OK\r\nX-A: 1 \r\nTransfer-Encoding: chunked \r\n\r\n"
    async with raw_server(head + b"1\r\no\r\n1\r\nk\r\n0\r\nX-B: 2\r\n\r\n") as port:
        reply = await pool.request("GET", f"http://127.0.0.1:{port}/", timeout_s=5)
    assert (reply.body, reply.headers.get("x-a"), reply.headers.get("x-b")) == (b"ok", "1", None)


async def test_a_body_in_many_parts_comes_whole(pool: HttpPool) -> None:
    """Each part as small as it gets."""
    body = bytes(range(256)) * 16
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    async with raw_server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n") as port:
        reply = await pool.request("GET", f"http://127.0.0.1:{port}/", timeout_s=5)
    assert reply.body == body


@pytest.mark.parametrize(
    "bad", [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", b"SSH-2\r\n"]
)
async def test_a_connection_is_not_used_after_a_bad_reply(pool: HttpPool, bad: bytes) -> None:
    """What is still on it belongs to no other request."""
    async with scripted([bad, OK], [OK]) as (url, read):
        call = pool.request("POST", url, timeout_s=5, body=b"")
        assert (await failure(call)).cause is Cause.UPSTREAM_BAD_REPLY
        assert (await pool.request("POST", url, timeout_s=5, body=b"")).body == b"ok"
    assert read == [1, 1]


async def test_a_cancelled_call_leaves_no_connection_behind(pool: HttpPool) -> None:
    """Its reply, had it come, would have been the next request's."""
    gone = asyncio.Event()
    asked = asyncio.Event()
    accepted = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.readuntil(b"\r\n\r\n")
        if accepted == 1:
            asked.set()
            with suppress(ConnectionError):
                await reader.read()
            gone.set()
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server, asyncio.timeout(5):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        call = asyncio.create_task(pool.request("GET", url, timeout_s=5))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await gone.wait()
        assert (await pool.request("GET", url, timeout_s=5)).body == b"ok"
    assert accepted == 2


async def test_a_pool_has_no_more_connections_than_its_bound(pool: HttpPool) -> None:
    """Who finds all of them busy waits for one, until its deadline."""
    bound, accepted = 256, 0
    full, go_on = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                if accepted == bound:
                    full.set()
                await go_on.wait()
                writer.write(OK)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=2 * bound)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        calls = [asyncio.create_task(pool.request("GET", url, timeout_s=30)) for _ in range(bound + 10)]
        async with asyncio.timeout(30):
            await full.wait()
        assert (await failure(pool.request("GET", url, timeout_s=0.01))).cause is Cause.DEADLINE
        go_on.set()
        assert {(await call).status for call in calls} == {200}
        await pool.close()
    assert accepted == bound


async def test_an_answer_before_the_request_was_read_ends_the_connection(pool: HttpPool) -> None:
    """At once, with what is still unsent: a server that has answered may never read it."""
    answered = asyncio.Event()
    read: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    body = bytes(32 << 20)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await answered.wait()
        size = 0
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                size += len(data)
        writer.close()
        read.set_result(size)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await pool.request("POST", url, timeout_s=5, body=body)).body == b"ok"
        answered.set()
        async with asyncio.timeout(5):
            assert await read < len(body)


class EndingLoop(asyncio.SelectorEventLoop):
    """Its new connections have ended by the time their owner may use them, as uvloop's may have."""

    async def create_connection(self, *args: Any, **options: Any) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """A connection that is there, and gone."""
        transport, protocol = await super().create_connection(*args, **options)
        transport.abort()
        await asyncio.sleep(0)
        return transport, protocol


def test_a_connection_that_ends_before_anything_is_sent_is_unreachable() -> None:
    """Nothing was sent, so that another server may be asked, and nothing is waited for."""

    async def cause() -> Cause:
        read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                read.set_result(await reader.read())
            writer.close()

        pool = HttpPool(server="the server")
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server, asyncio.timeout(5):
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            error = await failure(pool.request("POST", url, timeout_s=5, body=b"{}"))
            assert await read == b""
        await pool.close()
        return error.cause

    with asyncio.Runner(loop_factory=EndingLoop) as runner:
        assert runner.run(cause()) is Cause.UPSTREAM_UNREACHABLE


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
    "url",
    [
        "ftp://host/",
        "http:///path",
        "http://host/a b",
        "http://host/\r\nX: y",
        "http://a:b@host/",
        "http://host:99999/",
        "http://[::1/",
        f"http://{'a' * 64}/",
        "nothing",
    ],
)
async def test_what_is_no_url_is_our_own_fault(pool: HttpPool, url: str) -> None:
    """Nothing is sent; spaces and ends of lines would become part of the head."""
    assert (await failure(pool.request("GET", url, timeout_s=5))).cause is Cause.INTERNAL


@pytest.mark.parametrize(
    "headers", [{"X-A": "secret\r\nX-B: 2"}, {"X-A": "secret\0"}, {"X-A": "secré"}, {"X A": "secret"}, {"": "1"}]
)
async def test_a_header_of_ours_is_one_line(pool: HttpPool, headers: dict[str, str]) -> None:
    """Whatever its value came from; an error does not repeat the value, which may be a key."""
    error = await failure(pool.request("GET", "http://127.0.0.1:9/", timeout_s=5, headers=headers))
    assert error.cause is Cause.INTERNAL
    assert "secret" not in error.detail


def test_headers_ignore_case_and_keep_the_first() -> None:
    """As a mapping of text."""
    headers = Headers([(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2")])
    assert (headers["content-TYPE"], headers["X-a"], headers.get("x-b")) == ("text/plain", "1", None)
    assert list(headers) == ["content-type", "x-a"]
    assert len(headers) == 2


async def test_replies_with_the_same_head_are_read_by_what_they_hold(pool: HttpPool) -> None:
    """Also where the head was parsed for another reply."""
    replies = [OK, OK.replace(b"ok", b"no"), OK.replace(b"200 OK", b"404 Not"), OK]
    async with scripted(replies) as (url, read):
        found = [await pool.request("POST", url, timeout_s=5, body=b"{}") for _ in replies]
    assert [(reply.status, reply.body) for reply in found] == [(200, b"ok"), (200, b"no"), (404, b"ok"), (200, b"ok")]
    assert read == [4]


async def test_a_second_reply_behind_a_repeated_head_ends_the_connection(pool: HttpPool) -> None:
    """Nobody asked for it."""
    async with scripted([OK, OK + OK], [OK]) as (url, read):
        found = [await pool.request("POST", url, timeout_s=5, body=b"{}") for _ in range(3)]
    assert [reply.body for reply in found] == [b"ok"] * 3
    assert read == [2, 1]
