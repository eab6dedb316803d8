"""TF Serving over gRPC."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import tensorflow_pb2, tfserving_pb2
from gateway.codecs import tfserving_proto
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelMetadata, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE, Tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, tensors, untimed

URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
AVAILABLE = tfserving_pb2.ModelVersionStatus.AVAILABLE


def reply(shape: tuple[int, ...] = (2,), **fields: object) -> bytes:
    """A response with output `y`."""
    message = tfserving_pb2.PredictResponse()
    output = message.outputs["y"]
    output.MergeFrom(tensorflow_pb2.TensorProto(**fields))  # type: ignore[arg-type]
    for size in shape:
        output.tensor_shape.dim.add(size=size)
    return message.SerializeToString()


def decode(data: bytes) -> Tensor:
    (tensor,) = tfserving_proto.decode_response(data).outputs
    return tensor


def refusal(data: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        tfserving_proto.decode_response(data)
    return caught.value


@pytest.mark.parametrize(
    ("spec", "version", "label", "signature"),
    [
        (ModelSpec("m"), None, "", ""),
        (ModelSpec("m", version=3), 3, "", ""),
        (ModelSpec("m", version=0, signature_name="s"), 0, "", "s"),
        (ModelSpec("m", label="stable"), None, "stable", ""),
    ],
)
def test_a_request_names_model_version_label_and_signature(
    spec: ModelSpec, version: int | None, label: str, signature: str
) -> None:
    """Version 0 is a version; without version and label the server's policy chooses."""
    message = tfserving_pb2.PredictRequest.FromString(
        tfserving_proto.encode_request(InferenceRequest(spec, (), ("b", "a")))
    )
    sent = message.model_spec
    assert (sent.name, sent.version_label, sent.signature_name) == ("m", label, signature)
    assert (sent.version.value if sent.HasField("version") else None) == version
    assert list(message.output_filter) == ["b", "a"]


@untimed
@given(pairs())
def test_tensors_survive_to_the_bit(inputs: tuple[Tensor, ...]) -> None:
    """Every datatype and shape, in the form that requests use, read back as a reply."""
    request = tfserving_pb2.PredictRequest.FromString(
        tfserving_proto.encode_request(InferenceRequest(ModelSpec("m", version=2), inputs))
    )
    assert all(tensor.HasField("tensor_shape") for tensor in request.inputs.values())
    response = tfserving_pb2.PredictResponse(model_spec=request.model_spec, outputs=request.inputs)
    decoded = tfserving_proto.decode_response(response.SerializeToString())
    assert (decoded.model, decoded.version) == ("m", 2)
    for tensor, back in zip(sorted(inputs, key=lambda item: item.name), decoded.outputs, strict=True):
        assert_same(tensor, back)


FIELDS = {
    "BOOL": ("DT_BOOL", "bool_val"),
    "UINT8": ("DT_UINT8", "int_val"),
    "UINT16": ("DT_UINT16", "int_val"),
    "UINT32": ("DT_UINT32", "uint32_val"),
    "UINT64": ("DT_UINT64", "uint64_val"),
    "INT8": ("DT_INT8", "int_val"),
    "INT16": ("DT_INT16", "int_val"),
    "INT32": ("DT_INT32", "int_val"),
    "INT64": ("DT_INT64", "int64_val"),
    "FP16": ("DT_HALF", "half_val"),
    "BF16": ("DT_BFLOAT16", "half_val"),
    "FP32": ("DT_FLOAT", "float_val"),
    "FP64": ("DT_DOUBLE", "double_val"),
    "BYTES": ("DT_STRING", "string_val"),
}


def typed_values(tensor: Tensor) -> list[object]:
    flat = tensor.array.reshape(-1)
    values: list[object] = (flat.view(np.uint16) if tensor.datatype in ("FP16", "BF16") else flat).tolist()
    return values


@untimed
@given(tensors(name="y"))
def test_typed_values_are_read(tensor: Tensor) -> None:
    """The form that TF Serving answers in, for every datatype."""
    dtype, field = FIELDS[tensor.datatype]
    back = decode(reply(tensor.shape, dtype=dtype, **{field: typed_values(tensor)}))
    assert_same(tensor, back, bits=tensor.datatype in ("FP16", "BF16", "BYTES"))


@untimed
@given(tensors(name="y", finite=True, shapes=st.just((3,))), st.integers(0, 3))
def test_the_last_value_stands_for_all_that_are_missing(tensor: Tensor, given_values: int) -> None:
    """Fewer values are repeated from the last, none are zeros or empty, more are ignored."""
    dtype, field = FIELDS[tensor.datatype]
    values = typed_values(tensor)
    back = decode(reply((3,), dtype=dtype, **{field: values[:given_values]}))
    if given_values:
        known = tensor.array[:given_values].tolist()
        assert back.array.tolist() == [*known, *[known[-1]] * (3 - given_values)]
    else:
        empty = b"" if tensor.datatype == "BYTES" else NUMPY_DTYPE[tensor.datatype].type(0)
        assert back.array.tolist() == [empty] * 3
    assert decode(reply((2,), dtype=dtype, **{field: values})).array.tolist() == tensor.array[:2].tolist()


def test_values_that_do_not_fit_wrap_around_as_they_do_in_tensorflow() -> None:
    """300 as UINT8 is 44."""
    assert decode(reply(dtype="DT_UINT8", int_val=[300, -1])).array.tolist() == [44, 255]


def test_strings_in_tensor_content_are_read() -> None:
    """All lengths as varints, then all bytes."""
    long = b"x" * 300
    tensor = decode(reply((3,), dtype="DT_STRING", tensor_content=b"\x01\xac\x02\x00a" + long))
    assert tensor.array.tolist() == [b"a", long, b""]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"<html>",
        reply((2,), dtype="DT_FLOAT", tensor_content=bytes(7)),
        reply((-1,), dtype="DT_FLOAT", float_val=[1]),
        reply((1,) * 40, dtype="DT_FLOAT", float_val=[1]),
        reply((2**40,), dtype="DT_FLOAT", float_val=[1]),
        reply((2**40,), dtype="DT_STRING"),
        reply((), dtype="DT_FLOAT", float_val=[1], tensor_shape={"unknown_rank": True}),
        reply((2,), dtype="DT_BOOL", tensor_content=b"\x01\x02"),
        reply((2,), dtype="DT_STRING", tensor_content=b"\x01\x05a"),
        reply((2,), dtype="DT_STRING", tensor_content=b"\x01"),
        reply((1,), dtype="DT_STRING", tensor_content=b"\xff" * 12),
        reply((2**40,), dtype="DT_STRING", tensor_content=b"\x01a"),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_replies_that_break_the_protocol_are_the_servers_fault(data: bytes) -> None:
    """They are UPSTREAM_BAD_REPLY, whatever is wrong, and claimed shapes allocate nothing."""
    assert refusal(data).cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize("dtype", ["DT_COMPLEX64", "DT_INVALID", 999])
def test_datatypes_without_a_word_are_unsupported(dtype: str | int) -> None:
    """The message names the tensor and TensorFlow's dtype."""
    error = refusal(reply((1,), dtype=dtype))
    assert error.cause is Cause.UNSUPPORTED_DATATYPE
    assert "'y'" in error.detail
    assert str(dtype) in error.detail


@untimed
@given(st.binary(max_size=60))
def test_any_bytes_are_a_reply_or_bad(data: bytes) -> None:
    """No decoder raises anything but a GatewayError, and none blames the client."""
    for decoder in (tfserving_proto.decode_response, tfserving_proto.decode_signatures, tfserving_proto.decode_status):
        try:
            decoder(data)
        except GatewayError as exc:
            causes = (Cause.UPSTREAM_BAD_REPLY, Cause.UNSUPPORTED_DATATYPE)
            assert exc.cause in causes  # noqa: PT017 - most bytes raise, some are an empty message


def metadata_reply(url: str = URL, odd: str = "complex") -> bytes:
    tensor = tensorflow_pb2.TensorInfo
    shape = tensorflow_pb2.TensorShapeProto
    dims = [shape.Dim(size=-1), shape.Dim(size=10)]
    signatures = tfserving_pb2.SignatureDefMap()
    served = signatures.signature_def["serving_default"]
    served.inputs["x"].CopyFrom(tensor(name="x:0", dtype="DT_FLOAT", tensor_shape=shape(dim=dims)))
    served.outputs["b"].CopyFrom(tensor(dtype="DT_STRING", tensor_shape=shape(unknown_rank=True)))
    served.outputs["a"].CopyFrom(tensor(dtype="DT_BFLOAT16", tensor_shape=shape()))
    signatures.signature_def["another"].CopyFrom(served)
    signatures.signature_def[odd].inputs["z"].dtype = tensorflow_pb2.DT_COMPLEX64
    signatures.signature_def["__saved_model_init_op"].outputs["op"].dtype = tensorflow_pb2.DT_INVALID
    message = tfserving_pb2.GetModelMetadataResponse()
    message.model_spec.name = "m"
    message.model_spec.version.value = 4
    message.metadata["signature_def"].type_url = url
    message.metadata["signature_def"].value = signatures.SerializeToString()
    return message.SerializeToString()


def test_metadata_is_each_signatures_tensors() -> None:
    """By name, with Open Inference Protocol datatypes; TensorFlow's own signatures and odd ones are left out."""
    expected = ModelMetadata(
        "m",
        (4,),
        "tensorflow_savedmodel",
        (TensorSpec("x", "FP32", (-1, 10)),),
        (TensorSpec("a", "BF16", ()), TensorSpec("b", "BYTES", (-1,), ranked=False)),
    )
    found = tfserving_proto.decode_signatures(metadata_reply())
    assert list(found.items()) == [("serving_default", expected), ("another", expected)]


def test_metadata_of_another_kind_is_a_bad_reply() -> None:
    """The Any must name the map of signatures; a dtype without a word is unsupported."""
    for data in (metadata_reply("type.googleapis.com/other"), b""):
        with pytest.raises(GatewayError) as caught:
            tfserving_proto.decode_signatures(data)
        assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY
    with pytest.raises(GatewayError, match="DT_COMPLEX64") as caught:
        tfserving_proto.decode_signatures(metadata_reply(odd="serving_default"))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_metadata_and_status_requests_name_the_model() -> None:
    """Metadata is asked for by its one field, without a signature, which TF Serving has no use for there."""
    spec = ModelSpec("m", version=3, signature_name="s")
    metadata = tfserving_pb2.GetModelMetadataRequest.FromString(tfserving_proto.encode_metadata_request(spec))
    assert list(metadata.metadata_field) == ["signature_def"]
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("m", 3)
    assert metadata.model_spec.signature_name == ""
    status = tfserving_pb2.GetModelStatusRequest.FromString(tfserving_proto.encode_status_request(ModelSpec("m")))
    assert status.model_spec.name == "m"
    assert not status.model_spec.HasField("version")


def test_status_is_the_available_versions_newest_first() -> None:
    """Loading, unloading and ended versions cannot answer."""
    message = tfserving_pb2.GetModelStatusResponse()
    for version, state in ((2, AVAILABLE), (10, AVAILABLE), (11, 20), (1, 50)):
        message.model_version_status.add(version=version, state=state)  # type: ignore[arg-type]
    assert tfserving_proto.decode_status(message.SerializeToString()) == (10, 2)
    assert tfserving_proto.decode_status(b"") == ()


def test_every_datatype_has_its_tensorflow_name() -> None:
    """No datatype of the core is missing."""
    assert set(tfserving_proto.DATATYPE_OF_NAME.values()) == DATATYPES == set(FIELDS)
