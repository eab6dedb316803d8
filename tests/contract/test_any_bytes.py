"""Arbitrary, damaged and odd bodies at every door: the client is told that it is wrong, and nothing else happens."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import AsyncIterator

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway._generated import oip_pb2, tfserving_pb2, torchserve_pb2
from gateway.codecs.tfserving_proto import encode_request
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, ModelSpec
from tests.builders import tensor
from tests.contract.stream_door import STREAM
from tests.contract.test_frontends import answering
from tests.unit.gateway.frontends.world import World

# What a request may be told that is no result.
CLIENTS_FAULT = {
    Cause.UNPARSEABLE,
    Cause.INVALID_INPUT,
    Cause.UNSUPPORTED_DATATYPE,
    Cause.MODEL_NOT_FOUND,
    Cause.VERSION_NOT_FOUND,
    Cause.LABEL_NOT_FOUND,
    Cause.SIGNATURE_NOT_FOUND,
    Cause.MEDIA_TYPE,
    Cause.TOO_LARGE,
}
JSON = {"content-type": "application/json"}
GRPC_STATUSES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def _text(document: object) -> bytes:
    return json.dumps(document).encode()


_OIP = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}], "id": "7"}
_BINARY = _text({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]})
_FORM = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n{"inputs": [[1, 2]]}\r\n--b--\r\n'
# Path, headers, and a body that the door answers.
REST = {
    "predict": ("/predict", JSON, _text({"model": "doubler", "inputs": {"x": [[1.0, 2.0]]}, "outputs": ["y"]})),
    "predict pair": ("/predict/pair", JSON, _text({"inputs": {"a": [3], "b": ["p"]}, "stack": "tfserving"})),
    "oip": ("/v2/models/doubler/infer", JSON, _text(_OIP)),
    "oip binary": (
        "/v2/models/doubler/infer",
        {"inference-header-content-length": str(len(_BINARY))},
        _BINARY + struct.pack("<2f", 1, 2),
    ),
    "tfserving rows": ("/v1/models/doubler:predict", {}, _text({"instances": [{"x": [1.0, 2.0]}]})),
    "tfserving columns": ("/v1/models/pair:predict", {}, _text({"inputs": {"a": [3], "b": [{"b64": "cA=="}]}})),
    "tfserving gzip": (
        "/v1/models/doubler:predict",
        {"content-encoding": "gzip"},
        gzip.compress(_text({"instances": [[1.0, 2.0]]}), mtime=0),
    ),
    "torchserve": ("/predictions/doubler", JSON, _text({"inputs": {"x": [[1.0, 2.0]]}, "parameters": {"a": 1}})),
    "torchserve list": ("/predictions/pair", JSON, _text([{"a": 3, "b": "p"}])),
    "torchserve form": ("/predictions/doubler", {"content-type": "multipart/form-data; boundary=b"}, _FORM),
    "repository": ("/v2/repository/index", JSON, _text({"ready": True})),
}
_TYPED = oip_pb2.ModelInferRequest(model_name="doubler")
_TYPED.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
_RAW = oip_pb2.ModelInferRequest(model_name="doubler", raw_input_contents=[struct.pack("<2f", 1, 2)])
_RAW.inputs.add(name="x", datatype="FP32", shape=[1, 2])
_PAIR = InferenceRequest(ModelSpec("pair"), (tensor("a", [3], "INT64"), tensor("b", np.array([b"p"], object), "BYTES")))
_SPEC = tfserving_pb2.ModelSpec(name="doubler")
_PREDICTIONS = torchserve_pb2.PredictionsRequest(model_name="doubler", input={"data": b'{"inputs": [[1, 2]]}'})
GRPC = {
    "oip typed": ("inference.GRPCInferenceService/ModelInfer", _TYPED.SerializeToString()),
    "oip raw": ("inference.GRPCInferenceService/ModelInfer", _RAW.SerializeToString()),
    "oip metadata": (
        "inference.GRPCInferenceService/ModelMetadata",
        oip_pb2.ModelMetadataRequest(name="doubler").SerializeToString(),
    ),
    "oip ready": (
        "inference.GRPCInferenceService/ModelReady",
        oip_pb2.ModelReadyRequest(name="doubler", version="1").SerializeToString(),
    ),
    "oip repository": (
        "inference.GRPCInferenceService/RepositoryIndex",
        oip_pb2.RepositoryIndexRequest(ready=True).SerializeToString(),
    ),
    "tfserving": ("tensorflow.serving.PredictionService/Predict", encode_request(_PAIR)),
    "tfserving metadata": (
        "tensorflow.serving.PredictionService/GetModelMetadata",
        tfserving_pb2.GetModelMetadataRequest(model_spec=_SPEC, metadata_field=["signature_def"]).SerializeToString(),
    ),
    "tfserving status": (
        "tensorflow.serving.ModelService/GetModelStatus",
        tfserving_pb2.GetModelStatusRequest(model_spec=_SPEC).SerializeToString(),
    ),
    "torchserve": (
        "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
        _PREDICTIONS.SerializeToString(),
    ),
}
doors = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
# A real server and connection cost more time.
sockets = settings(doors, max_examples=15)
SHORT_WAY = ("predict", "oip", "tfserving rows", "torchserve")
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["x", "FP32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """A body with bytes cut out, put in, turned over or repeated, in up to four places."""
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(body)))
        end = draw(st.integers(begin, min(len(body), begin + 16)))
        body = draw(
            st.sampled_from(
                [
                    body[:begin] + body[end:],
                    body[:begin],
                    body[:end] + body[begin:],
                    body[:begin] + draw(st.binary(min_size=1, max_size=4)) + body[end:],
                    body[:begin] + bytes(byte ^ 0x81 for byte in body[begin:end]) + body[end:],
                ]
            )
        )
    return body


@st.composite
def other_values(draw: st.DrawFn, body: bytes) -> bytes:
    """A JSON body with one of its values, however deep, replaced by any other."""

    def walk(value: object) -> object:
        if draw(st.integers(0, 3)) == 0:
            return draw(_VALUES)
        if isinstance(value, dict) and value:
            key = draw(st.sampled_from(sorted(value)))
            return {**value, key: walk(value[key])}
        if isinstance(value, list) and value:
            return [walk(value[0]), *value[1:]]
        return draw(_VALUES)

    return _text(walk(json.loads(body)))


@st.composite
def fields(draw: st.DrawFn, depth: int = 3) -> bytes:
    """Any protobuf message: fields of any number and type, some of them messages again."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([0, 1, 2, 2, 2, 5]))
        tag = bytes([draw(st.integers(1, 15)) << 3 | kind])
        if kind == 2:
            content = draw(fields(depth - 1) if depth and draw(st.booleans()) else st.binary(max_size=8) | NAMES)
            parts.append(tag + bytes([min(len(content), 127)]) + content[:127])
        else:
            size = {0: 1, 1: 8, 5: 4}[kind]
            content = draw(st.binary(min_size=size, max_size=size))
            parts.append(tag + (bytes([content[0] & 0x7F]) if kind == 0 else content))
    return b"".join(parts)


def _serialized(message: oip_pb2.ModelInferRequest) -> bytes:
    return message.SerializeToString()


def _sound_or_not(message: bytes) -> st.SearchStrategy[bytes]:
    return st.just(message) | st.binary(max_size=64) | damaged(message) | fields()


NAMES = st.sampled_from([b"doubler", b"pair", b"x", b"FP32", b"serving_default", b"signature_def"])


@pytest.fixture
async def world() -> World:
    world = await World.started()
    for backend in world.backends.values():
        backend.answer = answering
    return world


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with world.grpc() as channel:
        yield channel


@pytest.fixture
async def connected(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server, whose protocol serves whole bodies without ASGI."""
    async with (
        world.rest_port() as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize("name", REST)
async def test_the_rest_bodies_are_sound(client: httpx.AsyncClient, name: str) -> None:
    """What is damaged below is answered where it is whole."""
    path, headers, body = REST[name]
    assert (await client.post(path, content=body, headers=headers)).status_code == 200


@pytest.mark.parametrize("name", GRPC)
async def test_the_messages_are_sound(channel: grpc.aio.Channel, name: str) -> None:
    """What is damaged below is answered where it is whole."""
    method, message = GRPC[name]
    assert await channel.unary_unary(f"/{method}")(message)


@pytest.mark.parametrize("name", REST)
@doors
@given(data=st.data())
async def test_no_body_makes_a_server_error(
    world: World, client: httpx.AsyncClient, name: str, data: st.DataObject
) -> None:
    """Whatever is sent over REST, the answer is a result or one of the client's own errors, and is counted as that."""
    await _answered(world, client, name, data)


@pytest.mark.parametrize("name", SHORT_WAY)
@sockets
@given(data=st.data())
async def test_no_body_makes_a_server_error_over_a_socket(
    world: World, connected: httpx.AsyncClient, name: str, data: st.DataObject
) -> None:
    """Nor where a real server takes it, past ASGI, from a connection that is kept."""
    await _answered(world, connected, name, data)


async def _answered(world: World, client: httpx.AsyncClient, name: str, data: st.DataObject) -> None:
    path, headers, body = REST[name]
    ways = [st.binary(max_size=64), damaged(body), _VALUES.map(_text)]
    sent = data.draw(st.one_of(*ways, *([other_values(body)] if body[:1] in b"{[" and "binary" not in name else [])))
    answer = await client.post(path, content=sent, headers=headers)
    _check_causes(world)
    assert answer.status_code in (200, 400, 404, 413, 415, 422)


def _check_causes(world: World) -> None:
    """What was reported is no server's fault, and nothing is under way any more."""
    causes = {finished.cause for finished in world.observer.finished}
    world.observer.finished.clear()
    assert causes <= CLIENTS_FAULT | {None}
    assert (world.admission.in_flight, world.admission.in_flight_bytes) == (0, 0)


@pytest.mark.parametrize("name", GRPC)
@doors
@given(data=st.data())
async def test_no_message_makes_a_server_error(
    world: World, channel: grpc.aio.Channel, name: str, data: st.DataObject
) -> None:
    """Whatever is sent over gRPC, the status is a result's or one of the client's own errors."""
    method, message = GRPC[name]
    sent = data.draw(st.binary(max_size=64) | damaged(message) | fields())
    call = channel.unary_unary(f"/{method}")(sent)
    assert await call.code() in GRPC_STATUSES
    _check_causes(world)


@doors
@given(sent=st.lists(st.sampled_from([_TYPED, _RAW]).map(_serialized).flatmap(_sound_or_not), min_size=1, max_size=4))
async def test_no_message_ends_a_stream(world: World, channel: grpc.aio.Channel, sent: list[bytes]) -> None:
    """Each has its own reply, an answer or a text, in their order; a sound one is answered after any other."""
    call = channel.stream_stream(STREAM)()
    for message in (*sent, _RAW.SerializeToString()):
        await call.write(message)
    await call.done_writing()
    replies = [oip_pb2.ModelStreamInferResponse.FromString(reply) async for reply in call]
    assert await call.code() is grpc.StatusCode.OK
    assert len(replies) == len(sent) + 1
    assert all(bool(reply.error_message) != bool(reply.infer_response.outputs) for reply in replies)
    assert replies[-1].infer_response.raw_output_contents == [struct.pack("<2f", 2, 4)]
    _check_causes(world)
