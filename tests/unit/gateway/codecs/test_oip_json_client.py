"""The client's side of the Open Inference Protocol over REST."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import oip_json, oip_json_client
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, Tensor, from_raw
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

SHORT = frozenset({"FP16", "BF16"})
SPEC = TensorSpec("x", "FP32", (-1,))
CONTRACT = ModelContract("m", 1, (SPEC,), (SPEC,))
X = Tensor("x", "FP32", np.array([[1, 2]], np.float32))


def output(**changes: object) -> dict[str, object]:
    tensor = {"name": "y", "shape": [2], "datatype": "FP32", "data": [1, 2.5], **changes}
    return {key: value for key, value in tensor.items() if value is not ...}


def reply(*outputs: object, **changes: object) -> bytes:
    return json.dumps({"model_name": "m", "model_version": "3", "outputs": list(outputs), **changes}).encode()


def bad(body: bytes, length: str | None = None) -> str:
    with pytest.raises(GatewayError) as caught:
        oip_json_client.decode_response(body, length)
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY
    return caught.value.detail


def test_a_binary_request_asks_for_binary_answers() -> None:
    """JSON header, then the buffers in order; sizes in the header, and every output wished for as binary."""
    text = Tensor("s", "BYTES", np.array([b"ab"], dtype=object))
    request = InferenceRequest(ModelSpec("m"), (X, text), ("y",), {"k": 0.5}, "7")
    body = oip_json_client.encode_request(request, binary=True)
    assert body.json_length is not None
    assert json.loads(body.data[: body.json_length]) == {
        "id": "7",
        "parameters": {"k": 0.5, "binary_data_output": True},
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    assert body.data[body.json_length :] == X.array.tobytes() + b"\x02\0\0\0ab"


def test_the_form_of_the_answer_is_ours_to_choose() -> None:
    """A client's own wish for binary data is about its answer, and does not reach the model server."""
    request = InferenceRequest(ModelSpec("m"), (X,), parameters={"binary_data_output": True})
    body = oip_json_client.encode_request(request, binary=False)
    assert body.json_length is None
    assert "parameters" not in json.loads(body.data)


@untimed
@given(pairs(datatypes=DATATYPES - SHORT, finite=True, text=True))
def test_a_json_request_is_what_a_server_reads(tensors: tuple[Tensor, ...]) -> None:
    """The server's decoder gives back every tensor that JSON can carry."""
    request = InferenceRequest(ModelSpec("m"), tensors, ("y",), {"k": True}, "id")
    body = oip_json_client.encode_request(request, binary=False)
    read = oip_json.decode_request(body.data, ModelSpec("m"), lambda _: CONTRACT)
    assert (read.wanted, dict(read.parameters), read.id) == (("y",), {"k": True}, "id")
    for one, other in zip(tensors, read.inputs, strict=True):
        assert_same(one, other)


@untimed
@given(pairs())
def test_a_binary_request_carries_everything(tensors: tuple[Tensor, ...]) -> None:
    """Every datatype and bit pattern comes back from the buffers by the header's sizes."""
    body = oip_json_client.encode_request(InferenceRequest(ModelSpec("m"), tensors), binary=True)
    header = json.loads(body.data[: body.json_length])
    offset = body.json_length or 0
    for tensor, entry in zip(tensors, header["inputs"], strict=True):
        size = entry["parameters"]["binary_data_size"]
        raw = body.data[offset : offset + size]
        assert_same(tensor, from_raw(entry["name"], entry["datatype"], entry["shape"], raw))
        offset += size
    assert offset == len(body.data)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (Tensor("x", "FP16", np.ones(2, np.float16)), "is FP16"),
        (Tensor("x", "FP32", np.array([np.nan], np.float32)), "holds NaN or infinity"),
        (Tensor("x", "BYTES", np.array([b"\xff"], dtype=object)), "holds bytes that are not UTF-8"),
    ],
    ids=["fp16", "nan", "bytes"],
)
def test_what_json_cannot_carry_is_refused(tensor: Tensor, what: str) -> None:
    """Nothing is rounded or replaced on its way to a server without the binary extension."""
    with pytest.raises(GatewayError, match=f"input 'x' {what}.*transport grpc") as caught:
        oip_json_client.encode_request(InferenceRequest(ModelSpec("m"), (tensor,)), binary=False)
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


@untimed
@given(pairs(datatypes=DATATYPES - SHORT, finite=True, text=True))
def test_a_json_answer_is_read(tensors: tuple[Tensor, ...]) -> None:
    """What a server of the protocol writes comes back unchanged."""
    response = InferenceResponse("m", 3, tensors, {"k": 1.5})
    read = oip_json_client.decode_response(oip_json.encode_response(response), None)
    assert (read.model, read.version, dict(read.parameters)) == ("m", 3, {"k": 1.5})
    for one, other in zip(tensors, read.outputs, strict=True):
        assert_same(one, other)


def test_binary_and_json_outputs_may_be_mixed() -> None:
    """Outputs with a size take their bytes in order; the others keep their data in the JSON."""
    sized = {"data": ..., "shape": [1], "parameters": {"binary_data_size": 4}}
    header = reply(output(**sized), output(name="z"), output(name="w", **sized))
    body = header + np.array([7, 8], np.float32).tobytes()
    read = oip_json_client.decode_response(body, str(len(header)))
    assert [(tensor.name, tensor.array.tolist()) for tensor in read.outputs] == [
        ("y", [7.0]),
        ("z", [1.0, 2.5]),
        ("w", [8.0]),
    ]


def test_infinities_and_nested_parameters_are_taken() -> None:
    """Servers written in Python write bare NaN, and MLServer puts objects among the parameters."""
    body = reply(output(data=[float("nan"), float("inf")]), parameters={"headers": {"a": "b"}, "k": 1})
    read = oip_json_client.decode_response(body, None)
    assert np.isnan(read.outputs[0].array[0])
    assert np.isinf(read.outputs[0].array[1])
    assert read.parameters == {"k": 1}


@pytest.mark.parametrize("version", [None, "", "blue", 3])
def test_a_version_that_is_no_whole_number_is_none(version: object) -> None:
    """The protocol's versions are free strings, and may be left out."""
    assert oip_json_client.decode_response(reply(output(), model_version=version), None).version is None


SIZED: dict[str, Any] = {"data": ..., "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        reply(),
        reply(1),
        reply(output(), output()),
        reply(output(), model_name=None),
        reply(output(name=None)),
        reply(output(shape=None)),
        reply(output(shape=[2.0])),
        reply(output(shape=[-2])),
        reply(output(shape=[3])),
        reply(output(datatype="FP99")),
        reply(output(datatype="FP16")),
        reply(output(datatype="INT8", data=[1, 300])),
        reply(output(data=["1", "2"])),
        reply(output(data=...)),
        reply(output(data=[[1], [2, 3]])),
        reply(output(data=[[1, 2]])),
        reply(output(**SIZED)),
        reply(output(parameters={"binary_data_size": -1})),
        reply(output(parameters={"binary_data_size": "8"})),
    ],
    ids=range(22),
)
def test_an_answer_that_is_none_is_the_servers_fault(body: bytes) -> None:
    """Whatever does not decode is UPSTREAM_BAD_REPLY, never the client's fault."""
    assert "OIP server" in bad(body)


@pytest.mark.parametrize("extra", [-8, -1, 1])
def test_buffers_must_add_up(extra: int) -> None:
    """Neither a missing byte nor one too many is overlooked."""
    header = reply(output(**SIZED))
    bad(header + bytes(8 + extra), str(len(header)))


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 30, "²", "100000"])
def test_the_length_must_be_one(length: str) -> None:
    """The header's length is digits, and within the body."""
    bad(reply(output()), length)


@untimed
@given(st.binary(max_size=60), st.sampled_from([None, "0", "5", "60"]))
def test_arbitrary_bytes_are_a_bad_reply(body: bytes, length: str | None) -> None:
    """Nothing else is ever raised."""
    bad(body, length)
    for decode in (oip_json_client.decode_server_metadata, oip_json_client.decode_model_metadata):
        with pytest.raises(GatewayError) as caught:
            decode(body)
        assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


def test_metadata_is_read() -> None:
    """A server's name, version and extensions; a model's versions and tensors, open dimensions as -1."""
    server = oip_json_client.decode_server_metadata(b'{"name":"triton","version":"2.5","extensions":["a","b"]}')
    assert (server.name, server.version, server.extensions) == ("triton", "2.5", {"a", "b"})
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2], "parameters": {}}
    text = json.dumps({"name": "m", "versions": ["2"], "platform": "p", "inputs": [tensor], "outputs": [tensor]})
    model = oip_json_client.decode_model_metadata(text.encode())
    assert model.versions == {2: "2"}
    assert model.metadata is not None
    assert model.metadata.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    # All but name and platform may be left out.
    assert oip_json_client.decode_model_metadata(b'{"name":"m","platform":""}').metadata is None


@pytest.mark.parametrize(
    "text",
    ['{"platform":""}', '{"name":"m","inputs":[{"name":"x"}]}', '{"name":"m","inputs":1}', '{"name":"m","versions":1}'],
)
def test_model_metadata_of_another_form_is_refused(text: str) -> None:
    """A tensor without its shape, or what is no list, is UPSTREAM_BAD_REPLY."""
    with pytest.raises(GatewayError) as caught:
        oip_json_client.decode_model_metadata(text.encode())
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    ("body", "no"),
    [(b"", False), (b'{"ready": false}', True), (b'{"ready": true}', False), (b'{"live": true}', False)],
)
def test_readiness_is_the_status_unless_the_body_denies_it(body: bytes, no: bool) -> None:
    """Triton sends no body, the specification's example another key."""
    assert oip_json_client.says_not_ready(body) is no


def test_error_texts_never_repeat_what_was_sent() -> None:
    """`error` as it is; of FastAPI's validation errors the place and the message, without the input they quote."""
    assert oip_json_client.error_text(b'{"error": " no such thing "}') == "no such thing"
    detail = [{"type": "missing", "loc": ["body", "inputs", 0], "msg": "Field required", "input": {"secret": 1}}]
    text = oip_json_client.error_text(json.dumps({"detail": detail}).encode())
    assert text == "body.inputs.0: Field required"
    assert oip_json_client.error_text(b"Internal Server Error") == "Internal Server Error"
    assert oip_json_client.error_text(b'{"unknown": 1}') == ""
    assert oip_json_client.error_text(b"[1]") == ""
