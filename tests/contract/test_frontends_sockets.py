"""What only a real HTTP server and a raw socket can show: broken framing, slow and leaving clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.core.errors import Cause
from gateway.frontends.edge import Limits
from tests.unit.gateway.frontends.world import World

GOOD = b'{"model": "doubler", "inputs": [[1, 2]]}'
HEAD = b"POST /predict HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n"
WHOLE = HEAD + LENGTH % len(GOOD) + GOOD


class Wire:
    """A client that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, data: bytes) -> None:
        """Sends bytes."""
        self._writer.write(data)
        await self._writer.drain()

    def leave(self) -> None:
        """Closes the connection at once."""
        self._writer.transport.abort()

    async def hear(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """One answer: status, headers, body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get(b"content-length", b"0")))
        return int(first.split()[1]), headers, body

    async def silence(self) -> bytes:
        """What comes until the server closes."""
        return await self._reader.read()


@asynccontextmanager
async def dialled(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def world() -> World:
    return await World.started(Limits(json_bytes=100_000, body_timeout_s=0.2))


@pytest.fixture
async def port(world: World) -> AsyncIterator[int]:
    async with world.rest_port() as port:
        yield port
        # After whatever a client did, the next one is served, and nothing is left of the other.
        async with dialled(port) as wire:
            await wire.say(WHOLE)
            assert (await wire.hear())[0] == 200
        assert (world.admission.in_flight, world.admission.in_flight_bytes, world.admission.arriving) == (0, 0, 0)


async def told(world: World) -> Cause | None:
    """The cause of the one request reported, waited for."""
    while not world.observer.finished:
        await asyncio.sleep(0.001)
    return world.last.cause


async def test_a_chunked_body_over_the_cap_is_refused_and_closed(world: World, port: int) -> None:
    """No length was declared, so that only counting stops it; the client can read its answer."""
    async with dialled(port) as wire:
        await wire.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(11):
            await wire.say(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        status, headers, body = await wire.hear()
        assert (status, headers[b"connection"]) == (413, b"close")
        assert b"too_large" in body
        assert await wire.silence() == b""
    assert await told(world) is Cause.TOO_LARGE
    assert world.sent == 0


async def test_many_tiny_chunks_are_one_body(world: World, port: int) -> None:
    """How a body is cut does not matter."""
    async with dialled(port) as wire:
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD)
        await wire.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert (await wire.hear())[0] == 200
    assert await told(world) is None


async def test_a_declared_length_over_the_cap_is_refused_before_it_is_sent(world: World, port: int) -> None:
    """A client that asks first is never told to go on."""
    async with dialled(port) as wire:
        await wire.say(HEAD + b"Expect: 100-continue\r\n" + LENGTH % 100_001)
        status, headers, _ = await wire.hear()
        assert (status, headers[b"connection"]) == (413, b"close")
    assert await told(world) is Cause.TOO_LARGE


async def test_a_client_that_asks_first_is_told_to_go_on(world: World, port: int) -> None:
    """Where its body will be taken."""
    async with dialled(port) as wire:
        await wire.say(HEAD + b"Expect: 100-continue\r\n" + LENGTH % len(GOOD))
        assert (await wire.hear())[0] == 100
        await wire.say(GOOD)
        assert (await wire.hear())[0] == 200
    assert await told(world) is None


async def test_a_body_that_stops_is_a_408(world: World, port: int) -> None:
    """The client hears why, before the connection closes."""
    async with dialled(port) as wire:
        await wire.say(HEAD + LENGTH % 100_000 + b"{")
        status, _, body = await wire.hear()
        assert status == 408
        assert b"client_too_slow" in body
    assert await told(world) is Cause.CLIENT_TOO_SLOW


@pytest.mark.parametrize("sent", [b"", b"{"])
async def test_a_client_that_leaves_before_its_body_is_whole_is_gone(world: World, port: int, sent: bytes) -> None:
    """Nobody is answered, nobody is asked."""
    async with dialled(port) as wire:
        await wire.say(HEAD + LENGTH % 50 + sent)
        while not world.admission.arriving:
            await asyncio.sleep(0.001)
        wire.leave()
        assert await told(world) is Cause.CLIENT_GONE
    assert world.sent == 0


async def test_a_client_that_leaves_during_the_call_ends_it(world: World, port: int) -> None:
    """The call upstream is cancelled, and the slot is free."""
    world.backends["ts"].hold = asyncio.Event()
    async with dialled(port) as wire:
        await wire.say(WHOLE)
        while not world.sent:
            await asyncio.sleep(0.001)
        wire.leave()
        assert await told(world) is Cause.CLIENT_GONE
    world.backends["ts"].hold.set()


async def test_requests_sent_at_once_are_answered_in_order(world: World, port: int) -> None:
    """A pipeline is many requests, each with its own answer."""
    async with dialled(port) as wire:
        bodies = [b'{"model": "doubler", "inputs": [[%d, 0]]}' % number for number in range(20)]
        await wire.say(b"".join(HEAD + LENGTH % len(body) + body for body in bodies))
        for number in range(20):
            status, _, body = await wire.hear()
            assert status == 200
            assert b'"y":[[%.1f,0.0]]' % (2 * number) in body
    assert len(world.observer.finished) == 20


async def test_a_refusal_leaves_the_connection_open(world: World, port: int) -> None:
    """A small body that was refused is skipped, and the next request on the connection is answered."""
    async with dialled(port) as wire:
        await wire.say(WHOLE.replace(b"application/json", b"text/plain") + WHOLE)
        assert (await wire.hear())[0] == 415
        assert (await wire.hear())[0] == 200
    assert [finished.cause for finished in world.observer.finished] == [Cause.MEDIA_TYPE, None]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5,5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 40\r\nContent-Length: 41\r\n",
        b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"X-A: a\x00b\r\n",
    ],
)
async def test_broken_framing_is_refused_and_closed(world: World, port: int, head: bytes) -> None:
    """Where a request ends is never guessed."""
    async with dialled(port) as wire:
        await wire.say(HEAD + head + b"\r\n" + GOOD)
        status, headers, _ = await wire.hear()
        assert (status, headers[b"connection"]) == (400, b"close")
    assert world.sent == 0


async def test_a_connection_is_never_upgraded(port: int) -> None:
    """Neither to a websocket nor to HTTP/2."""
    for protocol in (b"websocket", b"h2c"):
        async with dialled(port) as wire:
            await wire.say(HEAD + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n" + LENGTH % len(GOOD) + GOOD)
            assert (await wire.hear())[0] != 101


@pytest.mark.parametrize("target", [b"/predict/..%2f..%2fetc", b"/v2/models/a%00", b"/predict/%2e%2e/x", b"//predict"])
async def test_paths_that_climb_lead_nowhere(port: int, target: bytes) -> None:
    """Encoded or not."""
    async with dialled(port) as wire:
        await wire.say(HEAD.replace(b"/predict", target) + LENGTH % len(GOOD) + GOOD)
        assert (await wire.hear())[0] == 404
