"""The client's side of the Open Inference Protocol over gRPC."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway._generated import oip_pb2
from gateway.codecs import oip_proto, oip_proto_client
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata, ModelSpec, TensorSpec
from gateway.core.tensor import Tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed


def response(**fields: object) -> oip_pb2.ModelInferResponse:
    """One output, FP32 [2], without contents."""
    message = oip_pb2.ModelInferResponse(**{"model_name": "m", "model_version": "3", **fields})
    message.outputs.add(name="y", datatype="FP32", shape=[2])
    return message


def bad(data: bytes) -> str:
    with pytest.raises(GatewayError) as caught:
        oip_proto_client.decode_response(data)
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY
    return caught.value.detail


@untimed
@given(pairs())
def test_a_request_is_what_a_server_reads(tensors: tuple[Tensor, ...]) -> None:
    """Raw contents carry every datatype; the version is in the server's own spelling."""
    parameters = {"b": True, "i": -1, "u": 2**63, "d": 0.5, "s": "t"}
    request = InferenceRequest(ModelSpec("m", version=1), tensors, ("y",), parameters, "id")
    data = oip_proto_client.encode_request(request, "01")
    assert oip_pb2.ModelInferRequest.FromString(data).model_version == "01"
    read = oip_proto.decode_request(data)
    assert read.raw
    assert (read.request.model, read.request.wanted, read.request.id) == (ModelSpec("m", version=1), ("y",), "id")
    assert read.request.parameters == parameters
    for one, other in zip(tensors, read.request.inputs, strict=True):
        assert_same(one, other)


@untimed
@given(pairs(), st.booleans())
def test_an_answer_is_read_raw_and_typed(tensors: tuple[Tensor, ...], raw: bool) -> None:
    """Servers answer in either form, whatever was sent."""
    data = oip_proto.encode_response(InferenceResponse("m", 3, tensors, {"k": "v"}), raw=raw)
    read = oip_proto_client.decode_response(data)
    assert (read.model, read.version, dict(read.parameters)) == ("m", 3, {"k": "v"})
    for one, other in zip(tensors, read.outputs, strict=True):
        assert_same(one, other, bits=raw)


@pytest.mark.parametrize("version", ["", "blue"])
def test_a_version_that_is_no_whole_number_is_none(version: str) -> None:
    """The protocol's versions are free strings, and may be left out."""
    message = response(model_version=version, raw_output_contents=[bytes(8)])
    assert oip_proto_client.decode_response(message.SerializeToString()).version is None


def test_an_answer_that_is_none_is_the_servers_fault() -> None:
    """Sizes, counts and names must add up; what does not is UPSTREAM_BAD_REPLY."""
    assert "no outputs" in bad(b"")
    assert "not a ModelInferResponse" in bad(b"\xff\xff")
    assert "output 'y'" in bad(response().SerializeToString())
    assert "output 'y'" in bad(response(raw_output_contents=[bytes(7)]).SerializeToString())
    assert "2 raw contents for 1 outputs" in bad(response(raw_output_contents=[bytes(8)] * 2).SerializeToString())
    twice = response(raw_output_contents=[bytes(8)] * 2)
    twice.outputs.append(twice.outputs[0])
    assert "twice" in bad(twice.SerializeToString())
    wrong = response()
    wrong.outputs[0].contents.int_contents.extend([1, 2])
    assert "output 'y'" in bad(wrong.SerializeToString())
    both = response(raw_output_contents=[bytes(8)])
    both.outputs[0].contents.fp32_contents.extend([1, 2])
    assert "output 'y'" in bad(both.SerializeToString())


@untimed
@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    """An answer is read, or it is UPSTREAM_BAD_REPLY."""
    for decode in (
        oip_proto_client.decode_response,
        oip_proto_client.decode_model_metadata,
        oip_proto_client.decode_server_metadata,
        oip_proto_client.decode_ready,
    ):
        causes = []
        try:
            decode(data)
        except GatewayError as exc:
            causes.append(exc.cause)
        assert causes in ([], [Cause.UPSTREAM_BAD_REPLY])


def test_metadata_is_read() -> None:
    """A model's versions and tensors, as this gateway's own door writes them."""
    specs = (TensorSpec("x", "FP32", (-1, 2)),)
    data = oip_proto.encode_model_metadata(ModelMetadata("m", (2,), "p", specs, specs))
    model = oip_proto_client.decode_model_metadata(data)
    assert model.versions == {2: "2"}
    assert model.metadata == ModelMetadata("m", (2,), "p", specs, specs)
    server = oip_pb2.ServerMetadataResponse(name="n", version="1", extensions=["e"]).SerializeToString()
    assert oip_proto_client.decode_server_metadata(server).extensions == {"e"}


def test_questions_name_model_and_version() -> None:
    """Metadata is asked of a model, readiness of a version in the server's spelling."""
    ready = oip_pb2.ModelReadyRequest.FromString(oip_proto_client.encode_ready_request("m", "1.0"))
    assert (ready.name, ready.version) == ("m", "1.0")
    assert oip_pb2.ModelMetadataRequest.FromString(oip_proto_client.encode_model_request("m")).name == "m"
    assert oip_proto_client.encode_server_metadata_request() == b""
    assert oip_proto_client.decode_ready(oip_pb2.ModelReadyResponse(ready=True).SerializeToString())


def test_a_scalar_is_sent_whole() -> None:
    """Rank 0 has one element and no dimension."""
    tensor = Tensor("x", "FP64", np.array(2.5))
    data = oip_proto_client.encode_request(InferenceRequest(ModelSpec("m"), (tensor,)), "")
    (read,) = oip_proto.decode_request(data).request.inputs
    assert_same(tensor, read)
