"""The protobuf protocols: every form in which a server may answer is understood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway._generated import oip_pb2, tfserving_pb2
from gateway.core.messages import TensorSpec
from gateway.core.tensor import Tensor
from loadtests import protobuf
from loadtests.replies import BadReplyError

INPUT = (Tensor("x", "FP32", np.array([[1.0, 2.0, 3.0]], np.float32)),)
SPEC = (TensorSpec("y", "FP32", (-1, 2)),)


def _predict_reply(shape: tuple[int, ...] = (1, 2), dtype: int = 1, **values: Any) -> bytes:
    reply = tfserving_pb2.PredictResponse()
    proto = reply.outputs["y"]
    proto.dtype = dtype  # type: ignore[assignment]
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    for field, value in values.items():
        if field == "tensor_content":
            proto.tensor_content = value
        else:
            getattr(proto, field).extend(value)
    return reply.SerializeToString()


def test_a_predict_request_holds_the_raw_bytes() -> None:
    """Shape and bytes are the tensor's own."""
    request = tfserving_pb2.PredictRequest.FromString(protobuf.encode_predict_request("m", INPUT))
    proto = request.inputs["x"]
    assert request.model_spec.name == "m"
    assert [dim.size for dim in proto.tensor_shape.dim] == [1, 3]
    assert proto.tensor_content == INPUT[0].array.tobytes()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"float_val": [1.0, 2.0]}, [[1.0, 2.0]]),
        ({"float_val": [4.0]}, [[4.0, 4.0]]),
        ({}, [[0.0, 0.0]]),
        ({"float_val": [1.0, 2.0, 3.0]}, [[1.0, 2.0]]),
        ({"tensor_content": np.array([5, 6], "<f4").tobytes(), "float_val": [1.0]}, [[5.0, 6.0]]),
    ],
)
def test_tensor_proto_rules(values: dict[str, Any], expected: list[list[float]]) -> None:
    """tensor_content wins; too few typed values repeat the last one, none are zeros, extra ones are dropped."""
    assert protobuf.decode_predict_response(_predict_reply(**values), SPEC)["y"].tolist() == expected


@pytest.mark.parametrize(
    ("datatype", "number", "field", "sent", "expected"),
    [
        ("FP64", 2, "double_val", [1.5], [1.5]),
        ("INT64", 9, "int64_val", [-7], [-7]),
        ("UINT8", 4, "int_val", [200], [200]),
        ("BOOL", 10, "bool_val", [True], [True]),
        ("FP16", 19, "half_val", [0x3C00], [1.0]),
    ],
)
def test_tensor_proto_datatypes(datatype: str, number: int, field: str, sent: list[Any], expected: list[Any]) -> None:
    """Each datatype has its own field; FP16 travels as its bit pattern."""
    spec = (TensorSpec("y", datatype, (-1,)),)
    reply = _predict_reply((1,), number, **{field: sent})
    assert protobuf.decode_predict_response(reply, spec)["y"].tolist() == expected


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff",
        _predict_reply(dtype=9, int64_val=[1, 2]),
        _predict_reply(tensor_content=b"abc"),
        _predict_reply((-1, 2), float_val=[1.0, 2.0]),
        _predict_reply((10**12, 2), float_val=[1.0]),
    ],
)
def test_a_broken_predict_reply_is_a_bad_reply(reply: bytes) -> None:
    """No protobuf, another dtype, a wrong size, a negative dimension and an absurd one."""
    with pytest.raises(BadReplyError):
        protobuf.decode_predict_response(reply, SPEC)


def test_model_infer_sends_raw_contents() -> None:
    """One raw entry for each input, in order."""
    request = oip_pb2.ModelInferRequest.FromString(protobuf.encode_model_infer("m", INPUT))
    assert request.model_name == "m"
    assert list(request.inputs[0].shape) == [1, 3]
    assert request.raw_input_contents[0] == INPUT[0].array.tobytes()


def test_model_infer_replies_are_read_raw_or_typed() -> None:
    """A gateway may answer in either form; outputs that the contract does not name are passed over."""
    typed = oip_pb2.ModelInferResponse()
    typed.outputs.add(name="extra", datatype="FP32", shape=[1])
    output = typed.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    output.contents.fp32_contents.extend([1.0, 2.0])
    assert protobuf.decode_model_infer(typed.SerializeToString(), SPEC)["y"].tolist() == [[1.0, 2.0]]
    raw = oip_pb2.ModelInferResponse()
    raw.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    raw.raw_output_contents.append(np.array([3, 4], "<f4").tobytes())
    assert protobuf.decode_model_infer(raw.SerializeToString(), SPEC)["y"].tolist() == [[3.0, 4.0]]


def test_a_broken_model_infer_reply_is_a_bad_reply() -> None:
    """Another datatype, too few values and an uneven number of raw contents."""
    wrong_type = oip_pb2.ModelInferResponse()
    wrong_type.outputs.add(name="y", datatype="FP64", shape=[1, 2])
    too_few = oip_pb2.ModelInferResponse()
    too_few.outputs.add(name="y", datatype="FP32", shape=[1, 2]).contents.fp32_contents.append(1.0)
    uneven = oip_pb2.ModelInferResponse()
    uneven.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    uneven.raw_output_contents.extend([b"", b""])
    for reply in (wrong_type, too_few, uneven):
        with pytest.raises(BadReplyError):
            protobuf.decode_model_infer(reply.SerializeToString(), SPEC)
