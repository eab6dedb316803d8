"""ModelStreamInfer, through a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gateway._generated import oip_pb2
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.frontends.edge import Limits
from tests.builders import doubled
from tests.unit.gateway.frontends.grpc.test_oip import infer_request
from tests.unit.gateway.frontends.world import Finished, World

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(params=[False, True], ids=["general", "straight"])
async def world(request: pytest.FixtureRequest) -> World:
    """In front of servers that are asked in coroutines, and without."""
    return await World.started(straight=request.param)


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with world.grpc() as channel:
        yield channel


class Talk:
    """A client that writes and reads one message at a time, in its own order."""

    def __init__(self, channel: grpc.aio.Channel, **options: Any) -> None:
        self.call = channel.stream_stream(STREAM)(**options)

    async def say(self, data: bytes) -> None:
        """Sends one request."""
        await self.call.write(data)

    async def hear(self) -> oip_pb2.ModelStreamInferResponse:
        """One reply; fails where there is none soon."""
        async with asyncio.timeout(10):
            message = await self.call.read()
        assert isinstance(message, bytes)
        return oip_pb2.ModelStreamInferResponse.FromString(message)

    async def ask(self, data: bytes) -> oip_pb2.ModelStreamInferResponse:
        """One request and its reply."""
        await self.say(data)
        return await self.hear()

    async def end(self) -> grpc.StatusCode:
        """Says that nothing follows; how the server ends it."""
        await self.call.done_writing()
        async with asyncio.timeout(10):
            assert await self.call.read() is grpc.aio.EOF
            return await self.call.code()


def numbered(number: int, **fields: Any) -> bytes:
    message = oip_pb2.ModelInferRequest.FromString(infer_request(**fields))
    message.id = str(number)
    return message.SerializeToString()


async def test_each_request_has_one_reply_in_order(world: World, channel: grpc.aio.Channel) -> None:
    """All sent before any is read, each counted; raw in is raw out, whatever the one before was."""
    talk = Talk(channel, metadata=(("x-request-id", "mine"), ("x-endpoint", "tf")))
    for number in range(3):
        await talk.say(numbered(number))
    raw = oip_pb2.ModelInferRequest.FromString(numbered(3))
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(b"\x00\x00\x80?\x00\x00\x00@")
    await talk.say(raw.SerializeToString())
    for number in range(3):
        reply = await talk.hear()
        assert (reply.error_message, reply.infer_response.id) == ("", str(number))
        assert list(reply.infer_response.outputs[0].contents.fp32_contents) == [2, 4]
    assert list((await talk.hear()).infer_response.raw_output_contents) == [b"\x00\x00\x00@\x00\x00\x80@"]
    assert await talk.end() is grpc.StatusCode.OK
    assert dict(tuple(await talk.call.trailing_metadata()))["x-request-id"] == "mine"
    assert world.observer.finished == [Finished("doubler", 1, "tfserving", "oip-grpc", None)] * 4
    assert (world.admission.in_flight, world.admission.in_flight_bytes) == (0, 0)


async def test_a_stream_without_requests_ends_well(world: World, channel: grpc.aio.Channel) -> None:
    """Nothing is counted."""
    assert await Talk(channel).end() is grpc.StatusCode.OK
    assert world.observer.finished == []


async def test_a_failure_is_its_requests_own(world: World, channel: grpc.aio.Channel) -> None:
    """Its text and id are in the reply, and the next request is answered."""
    talk = Talk(channel)
    for data, words, identity, cause in (
        (numbered(1, model="nope"), "unknown model 'nope'", "1", Cause.MODEL_NOT_FOUND),
        (numbered(2, model_version="9"), "no version 9", "2", Cause.VERSION_NOT_FOUND),
        (numbered(3, raw_input_contents=[b""]), "raw_input_contents", "3", Cause.INVALID_INPUT),
        (b"\xff\xff", "ModelInferRequest", "", Cause.UNPARSEABLE),
        (b"", "'model_name'", "", Cause.INVALID_INPUT),
    ):
        reply = await talk.ask(data)
        assert words in reply.error_message
        assert reply.infer_response == oip_pb2.ModelInferResponse(id=identity)
        assert world.last.cause is cause
    assert (await talk.ask(numbered(6))).error_message == ""
    assert await talk.end() is grpc.StatusCode.OK


async def test_a_bug_is_opaque_and_names_its_request(
    world: World, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    """Each request of a stream has an id of its own in the log."""

    def bug(asked: InferenceRequest) -> InferenceResponse:
        if asked.id == "2":
            raise KeyError("secret")
        return doubled(asked)

    world.backends["ts"].answer = bug
    talk = Talk(channel, metadata=(("x-request-id", "mine"),))
    assert (await talk.ask(numbered(1))).error_message == ""
    text = (await talk.ask(numbered(2))).error_message
    assert "mine-2" in text
    assert "secret" not in text
    assert "mine-2" in caplog.text
    assert await talk.end() is grpc.StatusCode.OK


async def test_each_request_has_a_deadline_of_its_own() -> None:
    """The stream outlives it."""
    world = await World.started(Limits(timeout_s=0.3))
    async with world.grpc() as channel:
        talk = Talk(channel)
        world.backends["ts"].hold = asyncio.Event()
        assert "no answer within" in (await talk.ask(numbered(1))).error_message
        assert world.last.cause is Cause.DEADLINE
        world.backends["ts"].hold = None
        assert (await talk.ask(numbered(2))).error_message == ""
        assert await talk.end() is grpc.StatusCode.OK


async def test_the_clients_deadline_ends_stream_and_request(world: World, channel: grpc.aio.Channel) -> None:
    """What was under way is counted as what it is."""
    world.backends["ts"].hold = asyncio.Event()
    talk = Talk(channel, timeout=0.2)
    await talk.say(numbered(1))
    async with asyncio.timeout(10):
        assert await talk.call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (finished,) = await world.observer.until()
    assert finished.cause is Cause.DEADLINE
    assert world.admission.in_flight == 0


@pytest.mark.parametrize("limits", [Limits(in_flight=0), Limits(in_flight_bytes=3)])
async def test_a_full_gateway_refuses_the_request_not_the_stream(limits: Limits) -> None:
    """By number and by bytes."""
    world = await World.started(limits)
    async with world.grpc() as channel:
        talk = Talk(channel)
        assert "full" in (await talk.ask(numbered(1))).error_message
        assert world.last.cause is Cause.OVERLOADED
        assert await talk.end() is grpc.StatusCode.OK


async def test_an_open_stream_takes_no_place() -> None:
    """Only requests do."""
    world = await World.started(Limits(in_flight=1))
    async with world.grpc() as channel:
        one, other = Talk(channel), Talk(channel)
        for talk in (one, other, one):
            assert (await talk.ask(numbered(1))).error_message == ""
            assert world.admission.in_flight == 0
        assert {await one.end(), await other.end()} == {grpc.StatusCode.OK}


async def test_a_client_that_cancels_is_counted_and_its_request_cancelled(
    world: World, channel: grpc.aio.Channel
) -> None:
    """What it had sent besides reaches no server."""
    world.backends["ts"].hold = asyncio.Event()
    talk = Talk(channel)
    for number in range(3):
        await talk.say(numbered(number))
    await world.until_sent()
    talk.call.cancel()
    (finished,) = await world.observer.until()
    assert finished.cause is Cause.CLIENT_GONE
    assert (world.admission.in_flight, world.sent) == (0, 1)


async def test_a_client_that_cancels_between_requests_leaves_nothing(world: World, channel: grpc.aio.Channel) -> None:
    """The one before was answered and counted; the next stream is served."""
    talk = Talk(channel)
    assert (await talk.ask(numbered(1))).error_message == ""
    talk.call.cancel()
    assert world.last.cause is None
    again = Talk(channel)
    assert (await again.ask(numbered(2))).error_message == ""
    assert await again.end() is grpc.StatusCode.OK


async def test_a_silent_stream_ends_when_the_gateway_drains(world: World, channel: grpc.aio.Channel) -> None:
    """Its client is told to open another; one under way is answered first."""
    hold = world.backends["ts"].hold = asyncio.Event()
    talk, silent = Talk(channel), Talk(channel)
    await talk.say(numbered(1))
    await world.until_sent()
    world.plane.drain()
    async with asyncio.timeout(10):
        assert await silent.call.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in (await silent.call.details() or "")
    hold.set()
    assert (await talk.hear()).error_message == ""
    async with asyncio.timeout(10):
        assert await talk.call.code() is grpc.StatusCode.UNAVAILABLE
