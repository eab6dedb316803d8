"""TF Serving's PredictRequest as its clients send it, and PredictResponse as they read it."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import tensorflow_pb2, tfserving_pb2
from gateway.codecs import tfserving_proto
from gateway.codecs.tfserving_proto_in import decode_request, encode_response, model_spec
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import Tensor
from tests.builders import contract, tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

SPEC = ModelSpec("doubler")


def message(*inputs: Tensor, wanted: tuple[str, ...] = ()) -> tfserving_pb2.PredictRequest:
    data = tfserving_proto.encode_request(InferenceRequest(SPEC, inputs, wanted))
    return tfserving_pb2.PredictRequest.FromString(data)


def refused(asked: tfserving_pb2.PredictRequest, model: ModelContract | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        decode_request(asked, SPEC, model or contract())
    return caught.value


def test_a_model_is_named_with_version_label_and_signature() -> None:
    """An empty label is a label; an empty signature is none."""
    sent = tfserving_pb2.ModelSpec(name="m", version_label="", signature_name="")
    assert model_spec(sent) == ModelSpec("m", label="")
    sent.version.value = 0
    assert model_spec(sent) == ModelSpec("m", version=0)
    with pytest.raises(GatewayError, match="ModelSpec has no name specified."):
        model_spec(tfserving_pb2.ModelSpec())


def test_typed_values_and_content_are_the_same_tensor() -> None:
    """The last typed value stands for all that are missing."""
    typed = tfserving_pb2.PredictRequest()
    typed.inputs["x"].dtype = tensorflow_pb2.DT_FLOAT
    for size in (2, 2):
        typed.inputs["x"].tensor_shape.dim.add(size=size)
    typed.inputs["x"].float_val.extend([1, 2])
    for asked in (typed, message(tensor("x", [[1, 2], [2, 2]]))):
        assert_same(decode_request(asked, SPEC, contract()).inputs[0], tensor("x", [[1, 2], [2, 2]]))


def test_the_output_filter_is_what_is_wanted() -> None:
    """Unknown and repeated names are refused."""
    x = tensor("x", [[1, 2]])
    assert decode_request(message(x, wanted=("y",)), SPEC, contract()).wanted == ("y",)
    assert refused(message(x, wanted=("z",))).detail.startswith("output tensor alias not found in signature: z ")
    assert refused(message(x, wanted=("y", "y"))).detail == "duplicate output tensor alias: y"


def test_names_must_be_the_signatures() -> None:
    """Both sides are named."""
    assert refused(message()).detail == (
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."
    )
    assert "Inputs contains invalid name." in refused(message(tensor("z", [[1, 2]]))).detail


def test_a_shape_is_refused_before_it_is_filled() -> None:
    """A few bytes may ask for any size."""
    for shape in ((1 << 40, 2), (9, 2), (2,), (1, 2, 1), (-1, 2)):
        asked = tfserving_pb2.PredictRequest()
        asked.inputs["x"].dtype = tensorflow_pb2.DT_FLOAT
        asked.inputs["x"].float_val.append(1)
        for size in shape:
            asked.inputs["x"].tensor_shape.dim.add(size=size)
        error = refused(asked)
        assert error.cause is Cause.INVALID_INPUT
        assert "expected [-1, 2]" in error.detail or "tensor parsing error: x" in error.detail


def test_wrong_datatypes_and_broken_tensors_are_the_clients() -> None:
    """In TF Serving's words; a dtype that nothing here can carry is unsupported."""
    assert "Expects arg[0] to be float but int64 is provided" in refused(message(tensor("x", [[1, 2]], "INT64"))).detail
    broken = message(tensor("x", [[1, 2]]))
    broken.inputs["x"].tensor_content = b"123"
    assert refused(broken).detail == "tensor parsing error: x"
    broken.inputs["x"].dtype = tensorflow_pb2.DT_INVALID
    assert refused(broken).detail == "tensor parsing error: x"
    broken.inputs["x"].dtype = tensorflow_pb2.DT_COMPLEX64
    assert refused(broken).cause is Cause.UNSUPPORTED_DATATYPE


def test_answers_are_typed_and_name_the_version() -> None:
    """Clients of TF Serving read `float_val`, which its own answers fill."""
    data = encode_response(InferenceResponse("m", 3, (tensor("y", [[1, 2]]),)), None)
    answer = tfserving_pb2.PredictResponse.FromString(data)
    assert list(answer.outputs["y"].float_val) == [1, 2]
    assert not answer.outputs["y"].tensor_content
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "serving_default")


@untimed
@given(pairs())
def test_requests_and_answers_keep_every_tensor(tensors: tuple[Tensor, ...]) -> None:
    """Every datatype and shape, both ways, to the bit."""
    model = contract(inputs=tuple(TensorSpec(item.name, item.datatype, item.shape) for item in tensors), batch_cap=None)
    for found, sent in zip(decode_request(message(*tensors), SPEC, model).inputs, tensors, strict=True):
        assert_same(found, sent)
    found_outputs = tfserving_proto.decode_response(encode_response(InferenceResponse("m", 1, tensors), "s")).outputs
    for one, other in zip(found_outputs, sorted(tensors, key=lambda item: item.name), strict=True):
        assert_same(one, other)


@st.composite
def requests(draw: st.DrawFn) -> tfserving_pb2.PredictRequest:
    """Messages that are nearly requests."""
    asked = tfserving_pb2.PredictRequest()
    for name in draw(st.lists(st.sampled_from(["x", "z"]), max_size=2)):
        item = asked.inputs[name]
        item.dtype = draw(st.integers(-1, 25))
        for size in draw(st.lists(st.integers(-2, 3) | st.integers(-(2**63), 2**63 - 1), max_size=3)):
            item.tensor_shape.dim.add(size=size)
        item.tensor_shape.unknown_rank = draw(st.booleans())
        item.tensor_content = draw(st.binary(max_size=16))
        item.float_val.extend(draw(st.lists(st.floats(width=32), max_size=3)))
        item.half_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2)))
    return asked


@untimed
@given(requests(), st.sampled_from(["FP32", "FP16", "BYTES", "UINT8", "BOOL"]))
def test_any_message_is_a_request_or_refused(asked: tfserving_pb2.PredictRequest, datatype: str) -> None:
    """Nothing but a GatewayError, and one that blames the client."""
    model = contract(inputs=(TensorSpec("x", datatype, (-1, 2)),))
    cause: Cause | None = None
    try:
        decode_request(asked, SPEC, model)
    except GatewayError as exc:
        cause = exc.cause
    assert cause in (None, Cause.INVALID_INPUT, Cause.UNSUPPORTED_DATATYPE)


@untimed
@given(st.binary())
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """What protobuf reads goes on to the contract."""
    try:
        asked = tfserving_pb2.PredictRequest.FromString(data)
    except DecodeError:
        return
    with pytest.raises(GatewayError):
        decode_request(asked, SPEC, contract())
