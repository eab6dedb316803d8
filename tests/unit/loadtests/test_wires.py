"""The JSON protocols, and that every protocol of a cell exists."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gateway._generated import torchserve_pb2
from gateway.core.messages import TensorSpec
from gateway.core.tensor import Tensor
from loadtests.cell_spec import PROTOCOLS
from loadtests.replies import BadReplyError, RefusedError
from loadtests.wires import WIRES

INPUT = (Tensor("x", "FP32", np.array([[1.0, 0.1, -3.5]], np.float32)),)
ONE = (TensorSpec("y", "FP32", (-1, 2)),)
TWO = (*ONE, TensorSpec("label", "INT64", (-1,)))


def test_every_protocol_has_its_pair_of_functions() -> None:
    """Over the transport that its name says."""
    assert set(WIRES) == set(PROTOCOLS)
    for name, wire in WIRES.items():
        assert wire.transport == ("grpc" if name.endswith("grpc") else "rest")


@pytest.mark.parametrize(
    ("wire", "target"),
    [
        ("predict", "/predict"),
        ("oip-rest", "/v2/models/a%2Fb%20c/infer"),
        ("torchserve-rest", "/predictions/a%2Fb%20c"),
        ("tfserving-rest", "/v1/models/a%2Fb%20c:predict"),
        ("oip-grpc", "/inference.GRPCInferenceService/ModelInfer"),
        ("torchserve-grpc", "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"),
        ("tfserving-grpc", "/tensorflow.serving.PredictionService/Predict"),
    ],
)
def test_targets_are_the_servers_own(wire: str, target: str) -> None:
    """A model's name is escaped where it is part of a path."""
    assert WIRES[wire].target("a/b c") == target


def test_json_inputs_keep_every_float_bit() -> None:
    """The short decimal form of an FP32 reads back as the same FP32."""
    body = json.loads(WIRES["predict"].encode("m", INPUT))
    assert body["model"] == "m"
    assert np.array_equal(np.array(body["inputs"]["x"], np.float32), INPUT[0].array)
    assert json.loads(WIRES["tfserving-rest"].encode("m", INPUT)).keys() == {"inputs"}


def test_tf_serving_omits_the_name_of_a_single_output() -> None:
    """Column form: a bare list for one output, an object for several."""
    decode = WIRES["tfserving-rest"].decode
    assert decode(b'{"outputs": [[1, 2]]}', ONE)["y"].tolist() == [[1.0, 2.0]]
    several = decode(b'{"outputs": {"y": [[1, 2]], "label": [7]}}', TWO)
    assert several["label"].dtype == np.int64


@pytest.mark.parametrize("wire", ["predict", "oip-rest", "torchserve-rest", "tfserving-rest"])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"error": "x"}', b'{"outputs": {"y": [[1], [1, 2]]}}', b'{"outputs": {"y": "a"}}']
)
def test_a_reply_that_is_no_answer_is_a_bad_reply(wire: str, body: bytes) -> None:
    """Whatever a server sends, decoding raises nothing but BadReplyError."""
    with pytest.raises(BadReplyError):
        WIRES[wire].decode(body, ONE)


def test_open_inference_data_is_flat_and_may_come_back_nested() -> None:
    """The protocol allows both; shape and datatype are the answer's own."""
    assert json.loads(WIRES["oip-rest"].encode("m", INPUT)) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 0.1, -3.5]}]
    }
    for data in ([1, 2], [[1, 2]]):
        reply = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": data}, {"name": "other"}]}
        assert WIRES["oip-rest"].decode(json.dumps(reply).encode(), ONE)["y"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "output",
    [
        {"name": "y", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]},
        {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [1, 2]},
        {"name": "y", "datatype": "FP32", "shape": "wide", "data": [1, 2]},
        {"name": "y", "datatype": "FP32", "shape": [1, 2]},
    ],
)
def test_an_open_inference_output_must_fit_itself(output: dict[str, object]) -> None:
    """Another datatype, or data that does not fill the shape, is no answer."""
    with pytest.raises(BadReplyError):
        WIRES["oip-rest"].decode(json.dumps({"outputs": [output]}).encode(), ONE)


def test_torchserve_grpc_carries_json_under_the_key_data() -> None:
    """The map key is the handler's own, the value its JSON."""
    request = torchserve_pb2.PredictionsRequest.FromString(WIRES["torchserve-grpc"].encode("m", INPUT))
    assert request.model_name == "m"
    assert json.loads(request.input["data"]) == {"inputs": {"x": [[1.0, 0.1, -3.5]]}}


def test_an_error_in_a_successful_torchserve_reply_is_a_refusal() -> None:
    """TorchServe loses the handler's status over gRPC; the body still has it."""
    body = b'{"code": 400, "type": "BadRequestException", "message": "input x is missing"}'
    reply = torchserve_pb2.PredictionResponse(prediction=body).SerializeToString()
    with pytest.raises(RefusedError) as caught:
        WIRES["torchserve-grpc"].decode(reply, ONE)
    assert caught.value.status == 400
