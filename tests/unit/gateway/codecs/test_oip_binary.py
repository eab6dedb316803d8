"""Binary tensor data over REST."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import oip_binary
from gateway.codecs.oip_binary import BinaryWishes, OipRestRequest
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import Tensor, to_raw
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

CONTRACT = ModelContract("m", 1, (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))


def fitting(document: Any) -> ModelContract:
    """A contract that takes what the document declares, as far as it declares tensors at all."""
    inputs = (TensorSpec(item["name"], item["datatype"], (-1,) * len(item["shape"])) for item in document["inputs"])
    return ModelContract("m", 1, tuple(inputs), ())


JSON_INPUT: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
TWO = np.array([1, 2], np.float32).tobytes()


def binary_input(size: object = 8, **changes: object) -> dict[str, Any]:
    return {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": size}, **changes}


def decode(document: object, data: bytes = b"", *, length: int | None = 0) -> OipRestRequest:
    """`length` 0 stands for the right one."""
    header = json.dumps(document).encode()
    return oip_binary.decode_request(
        header + data, len(header) if length == 0 else length, ModelSpec("m"), lambda _: fitting(document)
    )


def refusal(document: object, data: bytes = b"", *, length: int | None = 0) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        decode(document, data, length=length)
    return caught.value


def test_binary_and_json_inputs_mix() -> None:
    """Only those with a size take bytes, in the inputs' order."""
    decoded = decode(
        {
            "id": "7",
            "inputs": [binary_input(), {**JSON_INPUT, "name": "j"}, binary_input(11, name="b", datatype="BYTES")],
        },
        TWO + b"\x03\0\0\0abc\0\0\0\0",
    )
    x, j, b = decoded.request.inputs
    assert (x.array.tolist(), j.array.tolist(), b.array.tolist()) == ([1, 2], [1, 2], [b"abc", b""])
    assert decoded.request.id == "7"


def test_wishes_for_outputs() -> None:
    """The default is the request's, and an output's own word wins; neither reaches the model."""
    decoded = decode(
        {
            "inputs": [JSON_INPUT],
            "parameters": {"binary_data_output": True, "k": 1},
            "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
        },
        length=None,
    )
    assert [decoded.wishes.wants(name) for name in ("a", "b")] == [True, False]
    assert decoded.request.wanted == ("a", "b")
    assert decoded.request.parameters == {"k": 1}
    assert not decode({"inputs": [JSON_INPUT]}).wishes.wants("a")


@pytest.mark.parametrize(
    ("document", "data", "cause", "words"),
    [
        ({"inputs": [binary_input()]}, TWO[:-1], Cause.UNPARSEABLE, ["'x'", "7 bytes"]),
        ({"inputs": [binary_input()]}, TWO + b"!", Cause.UNPARSEABLE, ["1 bytes are left over"]),
        ({"inputs": [JSON_INPUT]}, TWO, Cause.UNPARSEABLE, ["8 bytes are left over"]),
        ({"inputs": [binary_input(4)]}, TWO[:4], Cause.INVALID_INPUT, ["'x'", "4 bytes", "takes 8"]),
        ({"inputs": [binary_input(10**18)]}, TWO, Cause.UNPARSEABLE, ["'x'", "8 bytes"]),
        ({"inputs": [binary_input(-1)]}, b"", Cause.INVALID_INPUT, ["'x'", "'binary_data_size'"]),
        ({"inputs": [binary_input("8")]}, TWO, Cause.INVALID_INPUT, ["'binary_data_size'"]),
        ({"inputs": [binary_input(True)]}, b"!", Cause.INVALID_INPUT, ["'binary_data_size'"]),
        ({"inputs": [binary_input(8.0)]}, TWO, Cause.INVALID_INPUT, ["'binary_data_size'"]),
        ({"inputs": [binary_input(data=[1, 2])]}, TWO, Cause.INVALID_INPUT, ["both", "'data'"]),
        ({"inputs": [binary_input(shape=[2**40])]}, TWO, Cause.INVALID_INPUT, ["takes 4398046511104"]),
        ({"inputs": [binary_input(shape=[-2])]}, TWO, Cause.INVALID_INPUT, ["negative"]),
        ({"inputs": [binary_input(2, datatype="BOOL")]}, b"\0\2", Cause.INVALID_INPUT, ["BOOL"]),
        ({"inputs": [binary_input(8, datatype="BYTES")]}, b"\1\0\0\0a\1\0\0", Cause.INVALID_INPUT, ["element 1"]),
        (
            {"inputs": [JSON_INPUT], "parameters": {"binary_data_output": 1}},
            b"",
            Cause.INVALID_INPUT,
            ["'binary_data_output'"],
        ),
        (
            {"inputs": [JSON_INPUT], "outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]},
            b"",
            Cause.INVALID_INPUT,
            ["'binary_data'"],
        ),
    ],
)
def test_what_does_not_add_up_is_refused(document: object, data: bytes, cause: Cause, words: list[str]) -> None:
    """The message names the input and the bytes, and nothing of what they hold."""
    error = refusal(document, data)
    assert error.cause is cause
    assert all(word in error.detail for word in words), error.detail


def test_a_length_beyond_the_body_or_missing_is_told() -> None:
    """Without the length nobody knows where the JSON ends."""
    assert refusal({"inputs": [binary_input()]}, TWO, length=9999).cause is Cause.UNPARSEABLE
    assert refusal({"inputs": [binary_input()]}, TWO, length=None).cause is Cause.UNPARSEABLE
    error = refusal({"inputs": [binary_input()]}, length=None)
    assert error.cause is Cause.INVALID_INPUT
    assert "Inference-Header-Content-Length" in error.detail


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", Cause.UNPARSEABLE),
        ("x", Cause.UNPARSEABLE),
        ("-1", Cause.UNPARSEABLE),
        ("1.0", Cause.UNPARSEABLE),
        ("0x10", Cause.UNPARSEABLE),
        ("²", Cause.UNPARSEABLE),
        ("0", Cause.UNPARSEABLE),
        ("9" * 19, Cause.UNPARSEABLE),
        ("101", Cause.TOO_LARGE),
    ],
)
def test_the_length_of_the_json_is_a_number_within_the_cap(text: str, cause: Cause) -> None:
    """0 would be a raw binary request, which is refused in words of its own."""
    with pytest.raises(GatewayError) as caught:
        oip_binary.header_length(text, 100)
    assert caught.value.cause is cause
    assert ("raw binary" in caught.value.detail) is (text == "0")
    assert oip_binary.header_length("100", 100) == 100


def test_an_answer_without_binary_outputs_is_plain_json() -> None:
    """And has no length to state."""
    tensor = Tensor("y", "FP32", np.array([1], np.float32))
    answer = oip_binary.encode_response(InferenceResponse("m", 1, (tensor,)), BinaryWishes(True, {"y": False}))
    assert answer.header_length is None
    assert orjson.loads(answer.body)["outputs"][0]["data"] == [1.0]


def test_outputs_mix_as_wished() -> None:
    """JSON first, then the binary ones in order; FP16 only travels as binary."""
    outputs = (
        Tensor("a", "FP16", np.array([1], np.float16)),
        Tensor("b", "FP32", np.array([2], np.float32)),
        Tensor("c", "BOOL", np.zeros((0, 2), np.bool_)),
    )
    response = InferenceResponse("m", 1, outputs, id="7")
    answer = oip_binary.encode_response(response, BinaryWishes(True, {"b": False}))
    assert answer.header_length is not None
    header = orjson.loads(answer.body[: answer.header_length])
    assert (header["model_name"], header["model_version"], header["id"]) == ("m", "1", "7")
    assert [output.get("parameters") for output in header["outputs"]] == [
        {"binary_data_size": 2},
        None,
        {"binary_data_size": 0},
    ]
    assert header["outputs"][1]["data"] == [2.0]
    assert answer.body[answer.header_length :] == outputs[0].array.tobytes()
    with pytest.raises(GatewayError, match="'binary_data': true") as caught:
        oip_binary.encode_response(response, BinaryWishes())
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_what_the_model_does_not_take_becomes_no_array() -> None:
    """Millions of elements of another model's input cost nothing."""
    header = json.dumps({"inputs": [binary_input(40, shape=[10], datatype="BYTES")]}).encode()
    with pytest.raises(GatewayError, match="input 'x' is BYTES; expected FP32") as caught:
        oip_binary.decode_request(header + bytes(40), len(header), ModelSpec("m"), lambda _: CONTRACT)
    assert caught.value.cause is Cause.INVALID_INPUT


@untimed
@given(pairs())
def test_outputs_of_an_answer_are_inputs_of_a_request(tensors: tuple[Tensor, ...]) -> None:
    """Every tensor of every datatype survives to the bit, wherever in the body it lies."""
    answer = oip_binary.encode_response(InferenceResponse("m", 1, tensors), BinaryWishes(True))
    header = orjson.loads(answer.body[: answer.header_length])
    back = decode({"inputs": header["outputs"]}, answer.body[answer.header_length :]).request.inputs
    for tensor, other in zip(tensors, back, strict=True):
        assert_same(tensor, other)
        assert bytes(to_raw(tensor)) == bytes(to_raw(other))


@untimed
@given(
    st.binary(max_size=40) | st.text('{}[]":,1.einputs', max_size=40).map(str.encode),
    st.none() | st.integers(1, 50),
)
def test_any_bytes_are_a_request_or_refused(body: bytes, length: int | None) -> None:
    """Nothing but a GatewayError is ever raised."""
    try:
        decoded = oip_binary.decode_request(body, length, ModelSpec("m"), lambda _: CONTRACT)
    except GatewayError:
        return
    assert decoded.request.model.name == "m"


@untimed
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["x", "z"]),
                "shape": st.lists(st.integers(-1, 4), max_size=3),
                "datatype": st.sampled_from(["FP32", "BYTES", "BOOL", "BF16", "NONE"]),
                "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-1, 20)),
            },
            optional={"data": st.lists(st.integers(0, 3), max_size=4)},
        ),
        max_size=3,
    ),
    st.binary(max_size=24),
)
def test_any_sizes_are_a_request_or_refused(inputs: list[dict[str, object]], data: bytes) -> None:
    """What is taken has used every byte."""
    try:
        decoded = decode({"inputs": inputs}, data)
    except GatewayError:
        return
    assert sum(item["parameters"].get("binary_data_size", 0) for item in inputs) == len(data)  # type: ignore[attr-defined]
    assert len(decoded.request.inputs) == len(inputs)
