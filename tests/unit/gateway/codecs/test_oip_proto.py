"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import oip_pb2
from gateway.codecs import oip_proto
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata, ModelSpec, Selection, TensorSpec
from gateway.core.tensor import DATATYPES, Tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

TYPED = DATATYPES - {"FP16", "BF16"}


def message(**fields: Any) -> oip_pb2.ModelInferRequest:
    """A request with input `x` FP32 [2], typed, unless `fields` say otherwise."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1, 2]}}
    return oip_pb2.ModelInferRequest(**{"model_name": "m", "inputs": [tensor], **fields})


def with_input(**changes: Any) -> oip_pb2.ModelInferRequest:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1, 2]}, **changes}
    return message(inputs=[tensor])


def raw(*contents: bytes, **changes: Any) -> oip_pb2.ModelInferRequest:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], **changes}
    return message(inputs=[tensor], raw_input_contents=contents)


def decode(sent: oip_pb2.ModelInferRequest) -> InferenceRequest:
    return oip_proto.decode_request(sent.SerializeToString()).request


def refusal(data: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        oip_proto.decode_request(data)
    return caught.value


def test_a_full_request_is_read_to_the_last_field() -> None:
    """Version, id, outputs, and parameters of every type; those of the gateway go to model and selection."""
    request = decode(
        message(
            model_version="3",
            id="7",
            outputs=[{"name": "b"}, {"name": "a"}],
            parameters={
                "stack": {"string_param": "tfserving"},
                "version": {"int64_param": 3},
                "signature_name": {"string_param": "s"},
                "bool": {"bool_param": False},
                "int": {"int64_param": -1},
                "string": {"string_param": ""},
                "double": {"double_param": 0.5},
                "uint": {"uint64_param": 2**64 - 1},
            },
        )
    )
    assert request.model == ModelSpec("m", version=3, signature_name="s")
    assert request.selection == Selection(stack="tfserving")
    assert (request.id, request.wanted) == ("7", ("b", "a"))
    assert request.parameters == {"bool": False, "int": -1, "string": "", "double": 0.5, "uint": 2**64 - 1}
    assert request.inputs[0].array.tolist() == [1, 2]


def test_the_decoded_request_knows_its_form() -> None:
    """Raw in means raw out."""
    assert not oip_proto.decode_request(message().SerializeToString()).raw
    assert oip_proto.decode_request(raw(bytes(8)).SerializeToString()).raw


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (message(model_name=""), ["'model_name'"]),
        (message(outputs=[{"name": "y"}, {"name": "y"}]), ["'outputs'", "twice"]),
        (message(outputs=[{}]), ["'outputs'"]),
        (message(parameters={"k": {}}), ["'k'"]),
        (message(parameters={"k": {"double_param": float("nan")}}), ["'k'", "finite"]),
        (message(parameters={"stack": {"int64_param": 1}}), ["'stack'"]),
        (message(model_version="2", parameters={"version": {"string_param": "3"}}), ["'2'", "'3'"]),
        (message(model_version="2", parameters={"label": {"string_param": "stable"}}), ["label", "version"]),
        (with_input(name=""), ["name"]),
        (with_input(datatype="FP99"), ["'x'", "'FP99'"]),
        (with_input(datatype="fp32"), ["'x'", "'fp32'"]),
        (with_input(shape=[3]), ["'x'", "2 elements", "takes 3"]),
        (with_input(shape=[-1, 2]), ["'x'", "negative"]),
        (with_input(shape=[1] * 40), ["'x'", "40 dimensions"]),
        (with_input(shape=[2**62, 2**62]), ["'x'", "2 elements"]),
        (with_input(datatype="FP64"), ["'x'", "fp64_contents", "fp32_contents"]),
        (with_input(contents={"fp32_contents": [1, 2], "int_contents": [1]}), ["'x'", "int_contents"]),
        (with_input(contents={}), ["'x'", "0 elements"]),
        (with_input(datatype="INT8", contents={"int_contents": [1, 128]}), ["'x'", "INT8"]),
        (with_input(datatype="INT16", contents={"int_contents": [1, -32769]}), ["'x'", "INT16"]),
        (with_input(datatype="UINT8", contents={"uint_contents": [1, 256]}), ["'x'", "UINT8"]),
        (with_input(datatype="UINT16", contents={"uint_contents": [1, 65536]}), ["'x'", "UINT16"]),
        (raw(bytes(8), bytes(8)), ["(1)", "(2)"]),
        (message(inputs=[], raw_input_contents=[b""]), ["(0)", "(1)"]),
        (raw(bytes(8), contents={"fp32_contents": [1, 2]}), ["'x'", "contents field must not be specified"]),
        (raw(bytes(7)), ["'x'", "7 bytes", "takes 8"]),
        (raw(bytes(8), shape=[2**40]), ["'x'", "8 bytes"]),
        (raw(b"\x02\x00", datatype="BOOL"), ["'x'", "BOOL"]),
        (raw(struct.pack("<I", 0xFFFFFFFF) * 2, datatype="BYTES"), ["'x'", "4294967295"]),
        (raw(b"\0", datatype="BYTES"), ["'x'"]),
        (raw(b"", datatype="X", shape=[0]), ["'x'", "'X'"]),
    ],
)
def test_what_does_not_fit_is_invalid_input_and_named(sent: oip_pb2.ModelInferRequest, words: list[str]) -> None:
    """The message names the input and what was expected."""
    error = refusal(sent.SerializeToString())
    assert error.cause is Cause.INVALID_INPUT
    assert all(word in error.detail for word in words), error.detail


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_sixteen_bit_floats_are_raw_only(datatype: str) -> None:
    """Typed they are UNSUPPORTED_DATATYPE, even empty; raw they are as good as any."""
    error = refusal(with_input(datatype=datatype, shape=[0], contents={}).SerializeToString())
    assert error.cause is Cause.UNSUPPORTED_DATATYPE
    assert "raw_input_contents" in error.detail
    assert decode(raw(bytes(4), datatype=datatype)).inputs[0].datatype == datatype


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xff", b"\x2b" * 200], ids=repr)
def test_garbage_is_unparseable(data: bytes) -> None:
    """What protobuf cannot read is the client's fault."""
    assert refusal(data).cause is Cause.UNPARSEABLE


def test_millions_of_empty_messages_are_refused() -> None:
    """A count that no model has is refused before each is looked at."""
    error = refusal(message().SerializeToString() + b"\x2a\x00" * 1_000_000)
    assert error.cause is Cause.INVALID_INPUT


def test_a_version_that_is_no_number_is_not_found() -> None:
    """As in a path."""
    assert refusal(message(model_version="latest").SerializeToString()).cause is Cause.VERSION_NOT_FOUND


def test_empty_contents_beside_raw_ones_are_nothing() -> None:
    """A client library that sets the field without content is not mixing forms."""
    assert decode(raw(bytes(8), contents={})).inputs[0].array.tolist() == [0, 0]


def test_a_tensor_without_elements_needs_no_contents() -> None:
    """Typed without the field, and raw with an empty entry."""
    tensor = {"name": "x", "datatype": "INT64", "shape": [0, 3]}
    assert decode(message(inputs=[tensor])).inputs[0].shape == (0, 3)
    assert decode(raw(b"", datatype="INT64", shape=[0, 3])).inputs[0].shape == (0, 3)


def as_request(data: bytes) -> bytes:
    """A response turned into the request that holds its outputs as inputs."""
    response = oip_pb2.ModelInferResponse.FromString(data)
    request = oip_pb2.ModelInferRequest(model_name=response.model_name, raw_input_contents=response.raw_output_contents)
    for output in response.outputs:
        request.inputs.add().MergeFromString(output.SerializeToString())
    return request.SerializeToString()


@untimed
@given(pairs())
def test_raw_tensors_survive_to_the_bit(tensors: tuple[Tensor, ...]) -> None:
    """Every datatype and shape, through raw contents."""
    data = oip_proto.encode_response(InferenceResponse("m", 1, tensors), raw=True)
    decoded = oip_proto.decode_request(as_request(data))
    assert decoded.raw
    for tensor, back in zip(tensors, decoded.request.inputs, strict=True):
        assert_same(tensor, back)


@untimed
@given(pairs(datatypes=TYPED))
def test_typed_tensors_survive(tensors: tuple[Tensor, ...]) -> None:
    """Every datatype that has a field, through typed contents."""
    data = oip_proto.encode_response(InferenceResponse("m", 1, tensors), raw=False)
    response = oip_pb2.ModelInferResponse.FromString(data)
    assert not response.raw_output_contents
    assert all(output.HasField("contents") for output in response.outputs)
    for tensor, back in zip(tensors, oip_proto.decode_request(as_request(data)).request.inputs, strict=True):
        assert_same(tensor, back, bits=False)


def test_one_sixteen_bit_output_makes_the_answer_raw() -> None:
    """FP16 has no typed form, so that no tensor of its message may have one."""
    outputs = (Tensor("a", "FP16", np.zeros(1, "<f2")), Tensor("b", "FP32", np.zeros(1, "<f4")))
    response = oip_pb2.ModelInferResponse.FromString(
        oip_proto.encode_response(InferenceResponse("m", 1, outputs), raw=False)
    )
    assert [bytes(raw) for raw in response.raw_output_contents] == [bytes(2), bytes(4)]
    assert not any(output.HasField("contents") for output in response.outputs)


def test_the_answer_carries_version_id_and_parameters() -> None:
    """The version as a string; each parameter in the field of its type."""
    parameters = {"b": True, "i": -5, "u": 2**63, "d": 0.5, "s": "t"}
    response = oip_pb2.ModelInferResponse.FromString(
        oip_proto.encode_response(InferenceResponse("m", 3, (), parameters, "7"), raw=False)
    )
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "7")
    assert {name: value.WhichOneof("parameter_choice") for name, value in response.parameters.items()} == {
        "b": "bool_param",
        "i": "int64_param",
        "u": "uint64_param",
        "d": "double_param",
        "s": "string_param",
    }
    unversioned = oip_proto.encode_response(InferenceResponse("m", None, ()), raw=True)
    assert oip_pb2.ModelInferResponse.FromString(unversioned).model_version == ""


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_parameters_of_extensions_that_are_not_spoken_are_refused(side: str) -> None:
    """They would change the answer; others of a tensor pass."""
    sent = message(outputs=[{"name": "y"}])
    getattr(sent, side)[0].parameters["content_type"].string_param = "np"
    assert decode(sent).inputs[0].name == "x"
    getattr(sent, side)[0].parameters["shared_memory_region"].string_param = "r"
    assert refusal(sent.SerializeToString()).cause is Cause.INVALID_INPUT


def test_model_metadata() -> None:
    """Versions as strings, variable dimensions -1."""
    specs = (TensorSpec("x", "FP32", (-1, 2)),)
    metadata = ModelMetadata("m", (2, 1), "p", specs, specs, {"k": "v"})
    answer = oip_pb2.ModelMetadataResponse.FromString(oip_proto.encode_model_metadata(metadata))
    assert (answer.name, list(answer.versions), answer.platform) == ("m", ["2", "1"], "p")
    assert (answer.inputs[0].name, answer.inputs[0].datatype, list(answer.inputs[0].shape)) == ("x", "FP32", [-1, 2])
    assert answer.outputs[0] == answer.inputs[0]
    assert dict(answer.properties) == {"k": "v"}


@untimed
@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    """Nothing but a GatewayError is ever raised."""
    try:
        request = oip_proto.decode_request(data).request
    except GatewayError:
        return
    assert request.model.name


@untimed
@given(st.data())
def test_damaged_requests_are_read_or_refused(data: st.DataObject) -> None:
    """One changed byte anywhere raises nothing but a GatewayError."""
    sent = bytearray(message(id="7", raw_input_contents=[bytes(8)]).SerializeToString())
    sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        oip_proto.decode_request(bytes(sent))
    except GatewayError:
        return
