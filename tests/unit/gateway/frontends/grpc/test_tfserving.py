"""TF Serving's door over gRPC, through a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from gateway._generated import tfserving_pb2
from gateway.codecs import tfserving_proto
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.frontends.edge import Limits
from gateway.frontends.grpc.errors import OIP, TFSERVING
from gateway.frontends.grpc.tfserving import MODEL_SERVICE, PREDICTION_SERVICE
from tests.builders import tensor
from tests.unit.gateway.frontends.grpc.test_calls import refusal
from tests.unit.gateway.frontends.world import Finished, World

PREDICT = f"/{PREDICTION_SERVICE}/Predict"
METADATA = f"/{PREDICTION_SERVICE}/GetModelMetadata"
STATUS = f"/{MODEL_SERVICE}/GetModelStatus"


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with world.grpc() as channel:
        yield channel


def predict_request(model: str = "doubler", **choice: Any) -> bytes:
    return tfserving_proto.encode_request(InferenceRequest(ModelSpec(model, **choice), (tensor("x", [[1, 2]]),)))


async def test_an_inference_answers_with_what_gave_it(world: World, channel: grpc.aio.Channel) -> None:
    """Typed values and the version in the message; id, times and who answered are trailing metadata."""
    call = channel.unary_unary(PREDICT)(
        predict_request(), metadata=(("x-request-id", "mine"), ("x-stack", "tfserving"))
    )
    answer = tfserving_pb2.PredictResponse.FromString(await call)
    assert list(answer.outputs["y"].float_val) == [2, 4]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("doubler", 1)
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-request-id"] == "mine"
    assert trailing["x-served-by"] == 'endpoint=tf; stack=tfserving; server="tf 1.0"; version=1; variant=savedmodel'
    assert trailing["server-timing"].startswith("decode;dur=")
    assert world.last == Finished("doubler", 1, "tfserving", "tfserving-grpc", None)


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        (PREDICT, b"", StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
        (PREDICT, b"\xff", StatusCode.INVALID_ARGUMENT, "expected a PredictRequest message"),
        (PREDICT, predict_request(""), StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (PREDICT, predict_request("nope"), StatusCode.NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (PREDICT, predict_request(version=9), StatusCode.NOT_FOUND, "request: Specific(doubler, 9)"),
        (PREDICT, predict_request(label="x"), StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        (PREDICT, predict_request("nope", label="x"), StatusCode.INVALID_ARGUMENT, "servable version label: x"),
        (PREDICT, predict_request(signature_name="s"), StatusCode.FAILED_PRECONDITION, 'signature key "s" not found.'),
        (METADATA, b"", StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
        (STATUS, b"", StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
    ],
)
async def test_errors_are_tf_servings(
    channel: grpc.aio.Channel, method: str, request_: bytes, code: StatusCode, text: str
) -> None:
    """In its order of checks and its words."""
    found = await refusal(channel, method, request_)
    assert found.code() is code
    assert text in str(found.details())


def metadata_request(model: str = "doubler", fields: tuple[str, ...] = ("signature_def",)) -> bytes:
    message = tfserving_pb2.GetModelMetadataRequest(metadata_field=fields)
    message.model_spec.name = model
    return message.SerializeToString()


async def test_metadata_is_the_contracts(channel: grpc.aio.Channel) -> None:
    """What our own client of TF Serving makes of it."""
    signatures = tfserving_proto.decode_signatures(await channel.unary_unary(METADATA)(metadata_request()))
    metadata = signatures.pop("serving_default")
    assert not signatures
    assert (metadata.name, metadata.versions) == ("doubler", (1,))
    assert [(spec.name, spec.datatype, spec.shape) for spec in metadata.inputs] == [("x", "FP32", (-1, 2))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in metadata.outputs] == [("y", "FP32", (-1, 2))]


@pytest.mark.parametrize(
    ("fields", "model", "code", "text"),
    [
        ((), "doubler", StatusCode.INVALID_ARGUMENT, "must specify at least one metadata_field"),
        (("graph",), "doubler", StatusCode.INVALID_ARGUMENT, "Metadata field graph is not supported"),
        (("signature_def",), "nope", StatusCode.NOT_FOUND, "Servable not found for request: Latest(nope)"),
    ],
)
async def test_metadata_that_there_is_not(
    channel: grpc.aio.Channel, fields: tuple[str, ...], model: str, code: StatusCode, text: str
) -> None:
    """Only signatures, of models that are known."""
    found = await refusal(channel, METADATA, metadata_request(model, fields))
    assert found.code() is code
    assert text in str(found.details())


async def test_version_0_is_the_gateways_choice(channel: grpc.aio.Channel) -> None:
    """At every method, and the answer names the version: OpenVINO's client writes 0 where its user names none."""
    asked = tfserving_pb2.PredictRequest.FromString(predict_request())
    asked.model_spec.version.value = 0
    answer = await channel.unary_unary(PREDICT)(asked.SerializeToString())
    assert tfserving_pb2.PredictResponse.FromString(answer).model_spec.version.value == 1
    about = tfserving_pb2.GetModelMetadataRequest.FromString(metadata_request())
    about.model_spec.version.value = 0
    metadata = await channel.unary_unary(METADATA)(about.SerializeToString())
    assert tfserving_proto.decode_signatures(metadata)["serving_default"].versions == (1,)
    status = tfserving_pb2.GetModelStatusRequest(model_spec=asked.model_spec)
    assert tfserving_proto.decode_status(await channel.unary_unary(STATUS)(status.SerializeToString())) == (1,)


async def test_status_tells_the_versions(channel: grpc.aio.Channel) -> None:
    """A label is ignored, as TF Serving does; an unknown version or model is not found."""
    for spec in (ModelSpec("doubler"), ModelSpec("doubler", 1), ModelSpec("doubler", label="no")):
        answer = await channel.unary_unary(STATUS)(tfserving_proto.encode_status_request(spec))
        assert tfserving_proto.decode_status(answer) == (1,)
    for spec, text in (
        (ModelSpec("nope"), "Could not find any versions of model nope"),
        (ModelSpec("doubler", 9), "Could not find version 9 of model doubler"),
    ):
        found = await refusal(channel, STATUS, tfserving_proto.encode_status_request(spec))
        assert (found.code(), found.details()) == (StatusCode.NOT_FOUND, text)


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (f"/{PREDICTION_SERVICE}/Classify", "use Predict"),
        (f"/{PREDICTION_SERVICE}/Regress", "use Predict"),
        (f"/{PREDICTION_SERVICE}/MultiInference", "use Predict"),
        (f"/{PREDICTION_SERVICE}/PredictStreamed", "use Predict"),
        (f"/{MODEL_SERVICE}/HandleReloadConfigRequest", "reload them at the model server"),
        ("/tensorflow.serving.SessionService/SessionRun", "there is no such service or method"),
    ],
)
async def test_what_is_not_offered_says_so(world: World, channel: grpc.aio.Channel, method: str, word: str) -> None:
    """UNIMPLEMENTED, reported, and with what to do instead."""
    found = await refusal(channel, method, b"")
    assert found.code() is StatusCode.UNIMPLEMENTED
    assert word in str(found.details())
    assert world.last.cause is Cause.ROUTE_NOT_FOUND


async def test_what_a_value_stands_for_counts_as_bytes_in_flight() -> None:
    """One value for all elements is a small message and a large tensor."""
    world = await World.started(Limits(in_flight_bytes=60))
    message = tfserving_pb2.PredictRequest()
    message.ParseFromString(predict_request())
    item = message.inputs["x"]
    item.ClearField("tensor_content")
    item.float_val.append(1)
    item.tensor_shape.dim[0].size = 8
    async with world.grpc() as channel:
        found = await refusal(channel, PREDICT, message.SerializeToString())
    assert found.code() is StatusCode.UNAVAILABLE
    assert (world.sent, world.admission.in_flight_bytes) == (0, 0)


# Causes whose status is not the Open Inference Protocol's.
OWN = {
    Cause.LABEL_NOT_FOUND: StatusCode.INVALID_ARGUMENT,
    Cause.SIGNATURE_NOT_FOUND: StatusCode.FAILED_PRECONDITION,
}


@pytest.mark.parametrize("cause", Cause)
def test_statuses_are_those_of_the_design(cause: Cause) -> None:
    """The table is the design's column."""
    assert TFSERVING[cause] is OWN.get(cause, OIP[cause])


async def test_an_answer_that_is_there_at_once_is_not_waited_for() -> None:
    """It is the same, and so is one that has to be waited for."""
    world = await World.started(straight=True)
    async with world.grpc() as channel:
        for hold in (None, asyncio.Event()):
            world.backends["ts"].hold = hold
            if hold is not None:
                hold.set()
            answer = tfserving_pb2.PredictResponse.FromString(await channel.unary_unary(PREDICT)(predict_request()))
            assert list(answer.outputs["y"].float_val) == [2, 4]
            assert world.last == Finished("doubler", 1, "torchserve", "tfserving-grpc", None)
    assert world.straight == 2
