"""The frame between the gateway and its TorchServe handler."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import torchserve
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.core.tensor import Tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed


def frame(header: object, *buffers: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + b"".join(buffers)


def output(**changes: object) -> dict[str, object]:
    tensor = {"name": "y", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}, **changes}
    return {key: value for key, value in tensor.items() if value is not ...}


def reply(**changes: object) -> bytes:
    return frame({"model_name": "m", "model_version": "1", "outputs": [output(**changes)]}, bytes(8))


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + size]), data[4 + size :]


def test_a_request_is_header_and_buffers() -> None:
    """Everything of the request but the model, which the path names, in the documented layout."""
    tensors = (
        Tensor("x", "FP32", np.array([[1, 2]], np.float32)),
        Tensor("s", "BYTES", np.array([b"ab"], dtype=object)),
    )
    data = torchserve.encode_frame(InferenceRequest(ModelSpec("m", version=1), tensors, ("y",), {"k": 0.5}, "7"))
    header, buffers = split(data)
    assert header == {
        "id": "7",
        "parameters": {"k": 0.5},
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        ],
        "outputs": [{"name": "y"}],
    }
    assert buffers == struct.pack("<ff", 1, 2) + b"\x02\0\0\0ab"


def test_what_a_request_leaves_open_is_not_sent() -> None:
    """No id, parameters or outputs: no such keys."""
    header, buffers = split(torchserve.encode_frame(InferenceRequest(ModelSpec("m"), ())))
    assert (header, buffers) == ({"inputs": []}, b"")


@untimed
@given(pairs(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
def test_tensors_survive_to_the_bit(tensors: tuple[Tensor, ...], identity: str) -> None:
    """Every datatype and shape: a request's frame, answered by its own tensors."""
    header, buffers = split(torchserve.encode_frame(InferenceRequest(ModelSpec("m"), tensors, id=identity)))
    answer = {"model_name": "m", "model_version": "3", "id": header.get("id", ""), "outputs": header["inputs"]}
    response = torchserve.decode_frame(frame(answer, buffers))
    assert (response.model, response.version, response.id) == ("m", 3, identity)
    for tensor, back in zip(tensors, response.outputs, strict=True):
        assert_same(tensor, back)


@pytest.mark.parametrize(
    ("version", "number"), [("1", 1), ("1.0", 1), ("12", 12), ("2024-05a", None), ("1.5", None), ("", None), (1, None)]
)
def test_versions_n_and_n_point_0_are_n(version: object, number: int | None) -> None:
    """TorchServe's versions are free strings; any other is not a version here."""
    response = torchserve.decode_frame(frame({"model_name": "m", "model_version": version, "outputs": []}))
    assert response.version == number


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("unparseable", Cause.UNPARSEABLE),
        ("invalid_input", Cause.INVALID_INPUT),
        ("unsupported_datatype", Cause.UNSUPPORTED_DATATYPE),
        ("upstream_failed", Cause.UPSTREAM_FAILED),
    ],
)
def test_the_handlers_own_error_is_raised_with_its_cause(cause: str, expected: Cause) -> None:
    """The frame says what TorchServe's status cannot; the text is capped."""
    with pytest.raises(GatewayError, match="no input 'z'") as caught:
        torchserve.decode_frame(frame({"error": "no input 'z'" + "!" * 5000, "cause": cause}))
    assert caught.value.cause is expected
    assert len(caught.value.detail) == 512


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b'{"code": 503, "type": "InternalServerException", "message": "Prediction failed"}',
        frame(b"{"),
        frame(b"\xff"),
        frame([]),
        frame({}),
        frame({"error": "x"}),
        frame({"error": "x", "cause": "internal"}),
        frame({"error": 1, "cause": "invalid_input"}),
        frame({"model_name": "m"}),
        frame({"model_name": 1, "outputs": []}),
        frame({"model_name": "m", "outputs": 1}),
        frame({"model_name": "m", "outputs": "ab"}),
        frame({"model_name": "m", "outputs": [1]}),
        frame({"model_name": "m", "outputs": []}, b"x"),
        reply()[:-1],
        reply() + b"x",
        reply(name=...),
        reply(name=1),
        reply(datatype="FP99"),
        reply(datatype=None),
        reply(shape=[3]),
        reply(shape=[-2]),
        reply(shape=[2.0]),
        reply(shape=[True]),
        reply(shape=2),
        reply(shape=[1] * 40),
        reply(parameters=...),
        reply(parameters={}),
        reply(parameters={"binary_data_size": "8"}),
        reply(parameters={"binary_data_size": -8}),
        reply(parameters={"binary_data_size": 10**30}),
        frame({"model_name": "m", "outputs": [output(), output(name="z", parameters={"binary_data_size": -8})]}),
        frame({"model_name": "m", "outputs": [output(datatype="BOOL", shape=[8])]}, b"\x02" * 8),
        frame({"model_name": "m", "outputs": [output(datatype="BYTES", shape=[1])]}, b"\xff" * 8),
    ],
    ids=lambda data: repr(data[4:60]),
)
def test_what_is_no_frame_is_the_servers_fault(data: bytes) -> None:
    """Malformed frames are UPSTREAM_BAD_REPLY, never an error of the client."""
    with pytest.raises(GatewayError) as caught:
        torchserve.decode_frame(data)
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY
    assert len(caught.value.detail) <= 512


def test_a_reply_without_the_handler_says_so() -> None:
    """A model archived with another handler answers no frames; the message points there."""
    with pytest.raises(GatewayError, match="does the model run our handler"):
        torchserve.decode_frame(b'{"predictions": []}')


@untimed
@given(st.binary(max_size=60) | st.binary(max_size=40).map(frame) | st.text('{}[]":,1outps', max_size=40).map(frame))
def test_any_bytes_are_a_frame_or_a_bad_reply(data: bytes) -> None:
    """Nothing but a GatewayError is ever raised."""
    try:
        response = torchserve.decode_frame(data)
    except GatewayError:
        return
    assert isinstance(response, InferenceResponse)
