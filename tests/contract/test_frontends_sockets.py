"""What only a real HTTP server and a raw socket can show: broken framing, slow and leaving clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway.core.errors import Cause
from gateway.frontends.edge import Limits
from gateway.frontends.rest.direct import DirectHttpProtocol
from gateway.frontends.rest.http_protocol import MAX_WAITING
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


class Hasty(DirectHttpProtocol):
    """The protocol, with little patience."""

    head_seconds = 0.1


async def answer(port: int, request: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """The answer to one request, on a connection of its own."""
    async with dialled(port) as wire:
        await wire.say(request)
        return await wire.hear()


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
        bodies = [b'{"model": "doubler", "inputs": [[%d, 0]]}' % number for number in range(100)]
        await wire.say(b"".join(HEAD + LENGTH % len(body) + body for body in bodies))
        for number in range(100):
            status, _, body = await wire.hear()
            assert status == 200
            assert b'"y":[[%.1f,0.0]]' % (2 * number) in body
    assert len(world.observer.finished) == 100


async def test_a_refusal_leaves_the_connection_open(world: World, port: int) -> None:
    """A small body that was refused is skipped, and the next request on the connection is answered."""
    async with dialled(port) as wire:
        await wire.say(WHOLE.replace(b"application/json", b"text/plain") + WHOLE)
        assert (await wire.hear())[0] == 415
        assert (await wire.hear())[0] == 200
    assert [finished.cause for finished in world.observer.finished] == [Cause.MEDIA_TYPE, None]


@pytest.mark.parametrize(
    "head", [HEAD + b"Connection: close\r\n", HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")], ids=["asked", "1.0"]
)
async def test_a_refusal_that_ends_the_connection_takes_the_rest_of_the_body(
    world: World, port: int, head: bytes
) -> None:
    """However small that is: closed before it came, the connection would be reset and the answer lost."""
    async with dialled(port) as wire:
        await wire.say(head.replace(b"application/json", b"text/plain") + LENGTH % 10_000)
        status, headers, _ = await wire.hear()
        assert (status, headers[b"connection"]) == (415, b"close")
        for _ in range(10):
            await wire.say(b"x" * 1000)
            await asyncio.sleep(0.005)
        assert await wire.silence() == b""


async def test_too_many_requests_sent_at_once_end_the_connection_once_those_taken_are_answered(port: int) -> None:
    """Each in order; the last answer says that it is the last, and none is lost to what was sent behind."""
    async with dialled(port) as wire:
        await wire.say(WHOLE * 3000)
        taken = 1
        while b"connection" not in (heard := await wire.hear())[1]:
            assert heard[0] == 200
            taken += 1
        assert (heard[0], taken) == (200, MAX_WAITING + 1)
        assert await wire.silence() == b""


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


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_a_connection_is_never_upgraded(world: World, port: int, protocol: bytes) -> None:
    """Neither to a websocket nor to HTTP/2: the request is served as it stands, and so is the one behind it."""
    upgrade = b"Connection: keep-alive, Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    lengthy = HEAD + upgrade + LENGTH % len(GOOD) + GOOD
    chunked = HEAD + upgrade + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n"
    async with dialled(port) as wire:
        await wire.say(lengthy + chunked + WHOLE)
        for _ in range(3):
            assert (await wire.hear())[0] == 200
        for byte in lengthy + WHOLE:
            await wire.say(bytes([byte]))
        for _ in range(2):
            assert (await wire.hear())[0] == 200
    assert world.sent == 5


async def test_promised_bytes_take_no_room(world: World) -> None:
    """Bodies that were declared and never come leave the room to those that do."""
    world = await World.started(Limits(json_bytes=1000, in_flight_bytes=1500, in_flight=10))
    async with world.rest_port() as port, AsyncExitStack() as idle:
        for _ in range(10):
            wire = await idle.enter_async_context(dialled(port))
            await wire.say(HEAD + LENGTH % 1000 + b"{")
        while world.admission.arriving < 10:
            await asyncio.sleep(0.001)
        assert (await answer(port, WHOLE))[0] == 200


async def test_slow_bodies_leave_the_places_to_whole_requests(world: World) -> None:
    """A request counts as in flight once its body is whole; those that are still arriving have a bound of their own."""
    world = await World.started(Limits(in_flight=2))
    async with world.rest_port() as port, AsyncExitStack() as slow:
        for count in range(1, 9):
            wire = await slow.enter_async_context(dialled(port))
            await wire.say(HEAD + LENGTH % 100 + b"{")
            while world.admission.arriving < count:
                await asyncio.sleep(0.001)
            if count == 7:
                assert (await answer(port, WHOLE))[0] == 200
        assert (await answer(port, WHOLE))[0] == 503


@pytest.mark.parametrize(
    "head",
    [
        b"X-Long: " + b"x" * 70_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(70)),
        b"X: y\r\n" * 300,
    ],
    ids=["one long", "many", "too many"],
)
async def test_a_head_that_is_too_large_is_refused_and_closed(world: World, port: int, head: bytes) -> None:
    """Whole or endless, in one header or in many; the client can read its answer."""
    for end in (b"\r\n" + GOOD, b""):
        async with dialled(port) as wire:
            await wire.say(HEAD + head + end)
            status, headers, body = await wire.hear()
            assert (status, headers[b"connection"], headers[b"content-type"]) == (431, b"close", b"application/json")
            assert b"the request" in body
            assert await wire.silence() == b""
    assert world.sent == 0


async def test_a_large_head_within_the_bounds_is_taken(port: int) -> None:
    """Also where its body shares a packet with it."""
    head = HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 400) for number in range(150))
    async with dialled(port) as wire:
        for _ in range(3):
            await wire.say(head + LENGTH % len(GOOD) + GOOD)
            assert (await wire.hear())[0] == 200


async def test_an_endless_end_of_a_body_is_refused(world: World, port: int) -> None:
    """What follows the last chunk is bounded as a head is."""
    async with dialled(port) as wire:
        await wire.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: " + b"x" * 140_000)
        assert (await wire.hear())[0] == 431
    assert await told(world) is Cause.CLIENT_GONE


async def test_a_refused_head_waits_for_the_answer_before_it(world: World, port: int) -> None:
    """A request that was taken is answered, whatever follows it; then the connection ends."""
    world.backends["ts"].hold = asyncio.Event()
    async with dialled(port) as wire:
        await wire.say(WHOLE + HEAD + b"X: " + b"x" * 140_000)
        while not world.sent:
            await asyncio.sleep(0.001)
        world.backends["ts"].hold.set()
        assert (await wire.hear())[0] == 200
        assert await wire.silence() == b""


async def test_a_head_that_stops_is_a_408(world: World) -> None:
    """A connection on which no request ever starts is closed without a word."""
    async with world.rest_port(Hasty) as port:
        async with dialled(port) as wire:
            await wire.say(HEAD)
            assert (await wire.hear())[0] == 408
            assert await wire.silence() == b""
        async with dialled(port) as wire:
            assert await wire.silence() == b""


async def test_the_time_of_a_head_is_not_the_time_of_its_answer(world: World) -> None:
    """Once a head is whole, its body and its answer have times of their own."""
    world.backends["ts"].hold = asyncio.Event()
    async with world.rest_port(Hasty) as port, dialled(port) as wire:
        for byte in WHOLE[:5], WHOLE[5:]:
            await wire.say(byte)
            await asyncio.sleep(0.01)
        await asyncio.sleep(3 * Hasty.head_seconds)
        world.backends["ts"].hold.set()
        assert (await wire.hear())[0] == 200


async def test_a_client_that_leaves_a_pipeline_ends_all_of_it(
    world: World, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The call under way is cancelled, the others never start, and nothing of it is an error."""
    world.backends["ts"].hold = asyncio.Event()
    async with dialled(port) as wire:
        await wire.say(WHOLE * 3)
        while not world.sent:
            await asyncio.sleep(0.001)
        wire.leave()
        assert await told(world) is Cause.CLIENT_GONE
    world.backends["ts"].hold.set()
    assert world.sent == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_drain_that_cuts_a_request_off_answers_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told to come back; the log has no failure of the application."""
    world.backends["ts"].hold = asyncio.Event()
    async with AsyncExitStack() as client:
        async with world.rest_port() as port:
            wire = await client.enter_async_context(dialled(port))
            await wire.say(WHOLE)
            while not world.sent:
                await asyncio.sleep(0.001)
        assert (await wire.hear())[0] == 503
    assert await told(world) is Cause.NOT_READY
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("target", [b"/predict/..%2f..%2fetc", b"/v2/models/a%00", b"/predict/%2e%2e/x", b"//predict"])
async def test_paths_that_climb_lead_nowhere(port: int, target: bytes) -> None:
    """Encoded or not."""
    async with dialled(port) as wire:
        await wire.say(HEAD.replace(b"/predict", target) + LENGTH % len(GOOD) + GOOD)
        assert (await wire.hear())[0] == 404
