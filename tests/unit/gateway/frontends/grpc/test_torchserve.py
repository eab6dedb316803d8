"""TorchServe over gRPC, through a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway._generated import torchserve_pb2
from gateway.core.errors import Cause
from gateway.frontends.edge import Limits
from tests.unit.gateway.frontends.grpc.test_calls import refusal
from tests.unit.gateway.frontends.rest.test_torchserve import echoing
from tests.unit.gateway.frontends.world import Finished, World

SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
PREDICTIONS = SERVICE + "Predictions"
HTTP = "org.pytorch.serve.http."
ARCHIVE = "org.pytorch.serve.archive.model."


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with world.grpc() as channel:
        yield channel


def asking(model: str = "doubler", version: str = "", data: Mapping[str, bytes] | None = None) -> bytes:
    sent = {"data": b'{"instances": [[1, 2]]}'} if data is None else data
    return torchserve_pb2.PredictionsRequest(model_name=model, model_version=version, input=sent).SerializeToString()


async def prediction(channel: grpc.aio.Channel, request: bytes) -> bytes:
    answer = torchserve_pb2.PredictionResponse.FromString(await channel.unary_unary(PREDICTIONS)(request))
    return answer.prediction


@pytest.mark.parametrize("key", ["data", "body"])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"inputs": {"x": [[1, 2]]}}, {"outputs": {"y": [[2, 4]]}}),
        ({"instances": [[1, 2]]}, {"predictions": [[2, 4]]}),
        ([[1, 2]], [[2, 4]]),
    ],
)
async def test_every_form_is_answered_in_kind(
    channel: grpc.aio.Channel, key: str, sent: object, expected: object
) -> None:
    """Under either key that TorchServe's handlers look for."""
    assert json.loads(await prediction(channel, asking(data={key: json.dumps(sent).encode()}))) == expected


async def test_an_answer_says_what_gave_it(world: World, channel: grpc.aio.Channel) -> None:
    """Id, times and who answered are trailing metadata; metadata chooses who does."""
    metadata = (("x-request-id", "mine"), ("x-stack", "tfserving"))
    call = channel.unary_unary(PREDICTIONS)(asking(version="1.0"), metadata=metadata)
    await call
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-request-id"] == "mine"
    assert trailing["x-served-by"] == 'endpoint=tf; stack=tfserving; server="tf 1.0"; version=1; variant=savedmodel'
    assert trailing["server-timing"].startswith("decode;dur=")
    assert world.last == Finished("doubler", 1, "tfserving", "torchserve-grpc", None)


async def test_a_version_name_has_the_number_it_is_given(channel: grpc.aio.Channel) -> None:
    """`2024-05a` is version 1 by the configuration."""
    call = channel.unary_unary(PREDICTIONS)(asking(version="2024-05a"))
    await call
    assert "version=1" in dict(await call.trailing_metadata())["x-served-by"]


async def test_a_model_of_bytes_takes_any_bytes() -> None:
    """Even what looks like a form: over gRPC nothing says that it is one."""
    async with (await echoing()).grpc() as channel:
        for sent in (b"", b"\x00\xff", b'{"inputs": ["p"]}'):
            assert await prediction(channel, asking("echo", data={"data": sent})) == sent


@pytest.mark.parametrize(
    ("request_bytes", "code", "details"),
    [
        (asking("nope"), "NOT_FOUND", f"Model not found: nope\n{ARCHIVE}ModelNotFoundException"),
        (
            asking(version="9.9"),
            "NOT_FOUND",
            f"Model version: 9.9 does not exist for model: doubler\n{ARCHIVE}ModelVersionNotFoundException",
        ),
        (
            asking(version="2"),
            "NOT_FOUND",
            f"Model version: 2 does not exist for model: doubler\n{ARCHIVE}ModelVersionNotFoundException",
        ),
        (b"", "INVALID_ARGUMENT", f"Parameter model_name is required.\n{HTTP}BadRequestException"),
        (b"\xff", "INVALID_ARGUMENT", f"expected a PredictionsRequest message\n{HTTP}BadRequestException"),
        (
            asking(data={}),
            "INVALID_ARGUMENT",
            "input: expected the body under one of the keys 'data' and 'body', found nothing\n"
            f"{HTTP}BadRequestException",
        ),
        (
            asking(data={"data": b"1", "more": b""}),
            "INVALID_ARGUMENT",
            "input: expected the body under one of the keys 'data' and 'body', found 'data', 'more'\n"
            f"{HTTP}BadRequestException",
        ),
    ],
)
async def test_failures_name_torchserves_exception(
    world: World, channel: grpc.aio.Channel, request_bytes: bytes, code: str, details: str
) -> None:
    """Its text, and its class on a line of its own; the status is what the failure means."""
    refused = await refusal(channel, PREDICTIONS, request_bytes, metadata=(("x-request-id", "mine"),))
    assert (refused.code(), refused.details()) == (grpc.StatusCode[code], details)
    assert ("x-request-id", "mine") in tuple(refused.trailing_metadata())
    assert (world.last.protocol, world.sent) == ("torchserve-grpc", 0)


async def test_json_has_its_own_cap() -> None:
    """Parsing holds up everything else; raw bytes do not."""
    world = await World.started(Limits(json_bytes=10))
    async with world.grpc() as channel:
        refused = await refusal(channel, PREDICTIONS, asking())
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert world.last.cause is Cause.TOO_LARGE


async def test_ping_is_ok_even_when_unhealthy(world: World, channel: grpc.aio.Channel) -> None:
    """Only its text tells, as at TorchServe."""

    async def ping() -> str:
        answer = await channel.unary_unary(SERVICE + "Ping")(b"")
        return torchserve_pb2.TorchServeHealthResponse.FromString(answer).health

    assert await ping() == '{\n  "status": "Healthy"\n}'
    world.plane.drain()
    assert await ping() == '{\n  "status": "Unhealthy"\n}'
    assert world.observer.finished == []


@pytest.mark.parametrize("method", ["StreamPredictions", "StreamPredictions2"])
async def test_streams_are_refused_by_name(world: World, channel: grpc.aio.Channel, method: str) -> None:
    """With the method that is there."""
    stream = channel.stream_stream(SERVICE + method)()
    await stream.write(asking())
    assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Predictions" in await stream.details()
    assert world.last == Finished("", None, "", "torchserve-grpc", Cause.ROUTE_NOT_FOUND)


async def test_management_is_not_here(channel: grpc.aio.Channel) -> None:
    """It is another service, which is not offered."""
    for method in ("RegisterModel", "ListModels"):
        refused = await refusal(channel, f"/org.pytorch.serve.grpc.management.ManagementAPIsService/{method}")
        assert refused.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_client_that_leaves_is_reported(world: World, channel: grpc.aio.Channel) -> None:
    """As gone, once its call has ended."""
    world.backends["ts"].hold = asyncio.Event()
    call = channel.unary_unary(PREDICTIONS)(asking())
    await world.until_sent()
    call.cancel()
    await world.observer.until()
    assert world.last.cause is Cause.CLIENT_GONE
    assert world.admission.in_flight == 0


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=64).map(lambda body: asking(data={"data": body})) | st.binary(max_size=32))
async def test_no_bytes_make_a_server_error(channel: grpc.aio.Channel, data: bytes) -> None:
    """Whatever is sent, the status is a result or the client's error."""
    call = channel.unary_unary(PREDICTIONS)(data)
    assert await call.code() in (
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    )


async def test_an_answer_that_is_there_at_once_is_not_waited_for() -> None:
    """It is the same, and so is one that has to be waited for."""
    world = await World.started(straight=True)
    async with world.grpc() as channel:
        for hold in (None, asyncio.Event()):
            world.backends["ts"].hold = hold
            if hold is not None:
                hold.set()
            assert json.loads(await prediction(channel, asking())) == {"predictions": [[2, 4]]}
            assert world.last == Finished("doubler", 1, "torchserve", "torchserve-grpc", None)
    assert world.straight == 2
