"""The Open Inference Protocol over gRPC, through a real server."""

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
from tests.unit.gateway.frontends.grpc.test_calls import refusal
from tests.unit.gateway.frontends.world import TWO_OUTPUTS, Finished, StraightBackend, World, two_outputs

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"


@pytest.fixture(params=[False, True], ids=["general", "straight"])
async def world(request: pytest.FixtureRequest) -> World:
    """In front of servers that are asked in coroutines, and without."""
    return await World.started(straight=request.param)


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with world.grpc() as channel:
        yield channel


def infer_request(model: str = "doubler", **fields: Any) -> bytes:
    message = oip_pb2.ModelInferRequest(model_name=model, id="7", **fields)
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1, 2])
    return message.SerializeToString()


async def test_an_inference_answers_with_what_gave_it(world: World, channel: grpc.aio.Channel) -> None:
    """Typed in, typed out; id, times and who answered are trailing metadata."""
    call = channel.unary_unary(INFER)(infer_request(), metadata=(("x-request-id", "mine"),))
    answer = oip_pb2.ModelInferResponse.FromString(await call)
    assert (answer.model_name, answer.model_version, answer.id) == ("doubler", "1", "7")
    assert list(answer.outputs[0].contents.fp32_contents) == [2, 4]
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-request-id"] == "mine"
    assert trailing["x-served-by"] == 'endpoint=ts; stack=torchserve; server="ts 1.0"; version=1; variant=torchscript'
    assert trailing["server-timing"].startswith("decode;dur=")
    assert world.last == Finished("doubler", 1, "torchserve", "oip-grpc", None)
    assert world.straight == isinstance(world.backends["ts"], StraightBackend)


async def test_raw_in_is_raw_out(channel: grpc.aio.Channel) -> None:
    """The answer takes the request's form."""
    message = oip_pb2.ModelInferRequest.FromString(infer_request())
    message.inputs[0].ClearField("contents")
    message.raw_input_contents.append(b"\x00\x00\x80?\x00\x00\x00@")
    answer = oip_pb2.ModelInferResponse.FromString(await channel.unary_unary(INFER)(message.SerializeToString()))
    assert list(answer.raw_output_contents) == [b"\x00\x00\x00@\x00\x00\x80@"]


async def test_metadata_chooses_who_answers(world: World, channel: grpc.aio.Channel) -> None:
    """As headers do over HTTP."""
    call = channel.unary_unary(INFER)(infer_request(), metadata=(("x-endpoint", "tf"), ("x-label", "stable")))
    await call
    assert dict(await call.trailing_metadata())["x-served-by"].startswith("endpoint=tf;")
    assert world.backends["tf"].requests[0].model.version == 1


async def test_a_failure_is_a_status_with_the_id(world: World, channel: grpc.aio.Channel) -> None:
    """And with its times, but nobody who gave an answer."""
    refused = await refusal(channel, INFER, infer_request("nope"))
    assert refused.code() is grpc.StatusCode.NOT_FOUND
    assert refused.details() == "unknown model 'nope'"
    trailing = dict(tuple(refused.trailing_metadata()))
    assert set(trailing) == {"x-request-id", "server-timing"}
    assert world.last == Finished("", None, "", "oip-grpc", Cause.MODEL_NOT_FOUND)


@pytest.mark.parametrize(
    "method",
    ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "RepositoryIndex"],
)
async def test_garbage_is_the_clients_error(channel: grpc.aio.Channel, method: str) -> None:
    """INVALID_ARGUMENT, where a library that parses before us would say INTERNAL."""
    refused = await refusal(channel, SERVICE + method, b"\xff\xff\xff")
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-request-id" in dict(tuple(refused.trailing_metadata()))


async def test_the_server_says_what_it_is_and_how_it_is(world: World, channel: grpc.aio.Channel) -> None:
    """Live, ready and metadata; not ready is an answer, no error."""

    async def ask(method: str) -> bytes:
        answer: bytes = await channel.unary_unary(SERVICE + method)(b"", metadata=(("x-request-id", "mine"),))
        return answer

    assert oip_pb2.ServerLiveResponse.FromString(await ask("ServerLive")).live
    assert oip_pb2.ServerReadyResponse.FromString(await ask("ServerReady")).ready
    metadata = oip_pb2.ServerMetadataResponse.FromString(await ask("ServerMetadata"))
    assert (metadata.name, metadata.version, list(metadata.extensions)) == (
        "twinserve",
        "0.1.0",
        ["binary_tensor_data"],
    )
    world.plane.drain()
    assert not oip_pb2.ServerReadyResponse.FromString(await ask("ServerReady")).ready


async def test_a_model_says_what_it_takes_and_whether_it_is_ready(world: World, channel: grpc.aio.Channel) -> None:
    """With and without a version."""
    for version in ("", "1"):
        asked = oip_pb2.ModelMetadataRequest(name="doubler", version=version).SerializeToString()
        metadata = oip_pb2.ModelMetadataResponse.FromString(await channel.unary_unary(SERVICE + "ModelMetadata")(asked))
        assert (metadata.name, list(metadata.versions), metadata.inputs[0].datatype) == ("doubler", ["1"], "FP32")
        ready = await channel.unary_unary(SERVICE + "ModelReady")(asked)
        assert oip_pb2.ModelReadyResponse.FromString(ready).ready
    assert world.observer.finished == []


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("doubler", "9"), ("doubler", "latest;rm")])
@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
async def test_what_is_not_there_is_not_found(channel: grpc.aio.Channel, method: str, model: str, version: str) -> None:
    """Whatever is asked of it."""
    asked = oip_pb2.ModelReadyRequest(name=model, version=version).SerializeToString()
    assert (await refusal(channel, SERVICE + method, asked)).code() is grpc.StatusCode.NOT_FOUND


async def test_the_index_lists_what_can_answer_and_what_cannot(world: World, channel: grpc.aio.Channel) -> None:
    """Each version with its state; of a model that has none, only where all are asked for, and why."""

    async def index(**fields: Any) -> list[tuple[str, str, str]]:
        asked = oip_pb2.RepositoryIndexRequest(**fields).SerializeToString()
        answer = await channel.unary_unary(SERVICE + "RepositoryIndex")(asked)
        models = oip_pb2.RepositoryIndexResponse.FromString(answer).models
        assert all((model.state == "READY") is (model.reason == "") for model in models)
        return [(model.name, model.version, model.state) for model in models]

    assert await index() == [("doubler", "1", "READY"), ("pair", "1", "READY")] == await index(ready=True)
    for name, backend in world.backends.items():
        backend.reachable = False
        await world.health.check(world.endpoints[name])
    assert await index() == [("doubler", "", "UNAVAILABLE"), ("pair", "", "UNAVAILABLE")]
    assert await index(ready=True) == []


async def test_there_is_one_repository(channel: grpc.aio.Channel) -> None:
    """Asking for another by name is an error, not an empty list."""
    asked = oip_pb2.RepositoryIndexRequest(repository_name="mine").SerializeToString()
    refused = await refusal(channel, SERVICE + "RepositoryIndex", asked)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "repository_name" in (refused.details() or "")


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_models_are_not_loaded_here(channel: grpc.aio.Channel, method: str) -> None:
    """The refusal says who does load them."""
    refused = await refusal(channel, SERVICE + method, b"")
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "configuration" in (refused.details() or "")


async def test_an_answer_may_come_later(world: World, channel: grpc.aio.Channel) -> None:
    """Other calls are answered meanwhile; a failure that comes later is told as one that comes at once."""
    hold = world.backends["ts"].hold = asyncio.Event()
    held = asyncio.ensure_future(channel.unary_unary(INFER)(infer_request(), metadata=(("x-request-id", "held"),)))
    await world.until_sent()
    world.backends["ts"].hold = None
    answer = oip_pb2.ModelInferResponse.FromString(await channel.unary_unary(INFER)(infer_request()))
    assert list(answer.outputs[0].contents.fp32_contents) == [2, 4]
    assert world.last.cause is None
    assert not held.done()
    world.backends["ts"].reachable = False
    hold.set()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await held
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(tuple(refused.value.trailing_metadata()))["x-served-by"].startswith("endpoint=ts;")
    assert world.last.cause is Cause.UPSTREAM_UNREACHABLE
    assert world.admission.in_flight == 0


async def test_outputs_parameters_version_and_id_go_all_the_way() -> None:
    """The model sees the wishes, the client their echo; outputs come in the order asked for."""
    world = await World.started(model=TWO_OUTPUTS)
    world.backends["ts"].answer = two_outputs
    message = oip_pb2.ModelInferRequest.FromString(infer_request(model_version="1"))
    message.parameters["k"].int64_param = 3
    message.outputs.add(name="s")
    message.outputs.add(name="y")
    async with world.grpc() as channel:
        answer = oip_pb2.ModelInferResponse.FromString(await channel.unary_unary(INFER)(message.SerializeToString()))
        assert [output.name for output in answer.outputs] == ["s", "y"]
        assert (answer.model_version, answer.id, answer.parameters["told"].string_param) == ("1", "7", "yes")
        (seen,) = world.backends["ts"].requests
        assert (seen.wanted, seen.parameters, seen.model.version) == (("s", "y"), {"k": 3}, 1)
        message.outputs[0].parameters["classification"].int64_param = 2
        refused = await refusal(channel, INFER, message.SerializeToString())
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "classification" in (refused.details() or "")


async def test_a_client_that_cancels_is_counted_and_its_call_cancelled(world: World, channel: grpc.aio.Channel) -> None:
    """Upstream stops too."""
    ended = asyncio.Event()

    class Hold(asyncio.Event):
        async def wait(self) -> bool:  # type: ignore[override]
            try:
                return await super().wait()
            finally:
                ended.set()

    world.backends["ts"].hold = Hold()
    call = channel.unary_unary(INFER)(infer_request())
    calling = asyncio.ensure_future(call)
    await world.until_sent()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    async with asyncio.timeout(5):
        await ended.wait()
    await world.observer.until()
    assert world.last.cause is Cause.CLIENT_GONE
    assert world.admission.in_flight == 0


async def test_the_clients_deadline_is_the_calls(world: World, channel: grpc.aio.Channel) -> None:
    """It goes all the way down, and is counted as what it is."""
    # On a busy machine a deadline may pass before there is a connection: then nobody here hears of the call.
    await channel.channel_ready()
    world.backends["ts"].hold = asyncio.Event()
    refused = await refusal(channel, INFER, infer_request(), timeout=0.3)
    assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await world.observer.until()
    assert world.last.cause is Cause.DEADLINE


async def test_a_bug_is_counted_and_opaque(
    world: World, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    """The status has the id, the log the rest."""

    def bug(_: InferenceRequest) -> InferenceResponse:
        raise KeyError("secret")

    world.backends["ts"].answer = bug
    refused = await refusal(channel, INFER, infer_request(), metadata=(("x-request-id", "mine"),))
    assert refused.code() is grpc.StatusCode.INTERNAL
    assert "mine" in (refused.details() or "")
    assert "secret" not in (refused.details() or "")
    assert "secret" in caplog.text
    assert world.last.cause is Cause.INTERNAL


@pytest.mark.parametrize("limits", [Limits(in_flight=0), Limits(in_flight_bytes=3)])
async def test_a_full_gateway_refuses(limits: Limits) -> None:
    """By number and by bytes."""
    world = await World.started(limits)
    async with world.grpc() as channel:
        assert (await refusal(channel, INFER, infer_request())).code() is grpc.StatusCode.UNAVAILABLE
    assert world.last.cause is Cause.OVERLOADED
