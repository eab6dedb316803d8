"""The Open Inference Protocol over REST."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import oip_json
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelSpec,
    Selection,
    TensorSpec,
)
from gateway.core.tensor import DATATYPES, Tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

CONTRACT = ModelContract("m", 1, (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),), batch_cap=8)
INPUT: dict[str, Any] = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}


def decode(document: object, model: ModelSpec = ModelSpec("m")) -> InferenceRequest:  # noqa: B008
    return oip_json.decode_request(json.dumps(document).encode(), model, lambda _: CONTRACT)


def refusal(document: object, model: ModelSpec = ModelSpec("m")) -> GatewayError:  # noqa: B008
    with pytest.raises(GatewayError) as caught:
        decode(document, model)
    return caught.value


def with_input(**changes: object) -> dict[str, object]:
    tensor = {**INPUT, **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}


def test_the_body_may_name_the_paths_model_and_no_other() -> None:
    """KServe's client writes `model_name` into every body."""
    assert decode({"inputs": [INPUT], "model_name": "m"}).model == ModelSpec("m")
    assert decode({"inputs": [INPUT], "model_name": None}).model == ModelSpec("m")
    for stated, told in (("other", "'other'"), (7, "no name")):
        error = refusal({"inputs": [INPUT], "model_name": stated})
        assert error.cause is Cause.INVALID_INPUT
        assert error.detail == f"field 'model_name' is {told}, but the path asks for 'm'; leave it out"


def test_a_full_request_is_read_to_the_last_field() -> None:
    """Id, outputs, and parameters; those of the gateway go to model and selection."""
    request = decode(
        {
            "id": "7",
            "parameters": {"stack": "tfserving", "endpoint": "tf", "variant": "v", "version": 2, "k": 1.5, "b": True},
            "inputs": [{**INPUT, "parameters": {"content_type": "np"}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
        }
    )
    assert request.model == ModelSpec("m", version=2)
    assert request.selection == Selection("tfserving", "tf", "v")
    assert request.parameters == {"k": 1.5, "b": True}
    assert (request.id, request.wanted) == ("7", ("y",))
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], [1, 2, 3, 4]),
        ([2, 2], [[1, 2], [3, 4]]),
        ([2, 2, 1], [[[1], [2]], [[3], [4]]]),
        ([4], [1, 2, 3, 4]),
        ([], [1]),
        ([0], []),
        ([0, 5], []),
        ([2, 0], []),
        ([2, 0], [[], []]),
        ([2, 0, 3], [[], []]),
    ],
)
def test_data_comes_flat_or_nested(shape: list[int], data: list[object]) -> None:
    """Both forms give the shape that is stated."""
    assert decode(with_input(shape=shape, data=data)).inputs[0].shape == tuple(shape)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": [1, 2, 3]}, ["3 elements", "takes 4"]),
        ({"data": [[1, 2, 3, 4]]}, ["nested as [1, 4]", "[2, 2]"]),
        ({"data": [[1], [2], [3], [4]]}, ["nested as [4, 1]"]),
        ({"data": [[1, 2], [3]]}, ["ragged"]),
        ({"data": 1, "shape": []}, ["'data'", "list"]),
        ({"data": ...}, ["'data'", "list of 4"]),
        ({"data": {"b64": ""}}, ["'data'"]),
        ({"shape": ...}, ["shape"]),
        ({"shape": [2, True]}, ["shape"]),
        ({"shape": [2, 2.0]}, ["shape"]),
        ({"shape": [[2, 2]]}, ["shape"]),
        ({"shape": "22"}, ["shape"]),
        ({"shape": [-1, 2]}, ["negative"]),
        ({"shape": [1] * 40, "data": [1]}, ["40 dimensions"]),
        ({"shape": [2**32, 2**32]}, ["takes 18446744073709551616"]),
        ({"shape": [10**30]}, ["takes 1"]),
        ({"datatype": ...}, ["datatype"]),
        ({"datatype": 1}, ["datatype"]),
        ({"datatype": "fp32"}, ["unknown datatype 'fp32'", "FP32"]),
        ({"datatype": "STRING"}, ["unknown datatype 'STRING'", "BYTES"]),
        ({"datatype": "INT8", "data": [1, 2, 3, 128]}, ["range of INT8"]),
        ({"datatype": "BOOL"}, ["integers", "true and false"]),
        ({"datatype": "BYTES"}, ["strings"]),
        ({"data": [1, 2, 3, 1e39]}, ["range of FP32"]),
        ({"data": [1, 2, 3, True]}, ["booleans"]),
        ({"parameters": {"binary_data_size": 16}, "data": ...}, ["binary data", "'data'"]),
        ({"parameters": {"binary_data_size": "16"}}, ["'binary_data_size'"]),
        ({"parameters": {"binary_data_size": True}}, ["'binary_data_size'"]),
        ({"parameters": {"shared_memory_region": "r"}}, ["'shared_memory_region'", "extension"]),
        ({"parameters": {"p": []}}, ["'p'"]),
        ({"parameters": []}, ["'parameters'"]),
        ({"extra": 1}, ["'extra'", "datatype"]),
    ],
)
def test_inputs_that_do_not_fit_are_invalid_input_and_named(changes: dict[str, object], words: list[str]) -> None:
    """The message names the input and what was expected."""
    error = refusal(with_input(**changes))
    assert error.cause is Cause.INVALID_INPUT
    assert all(word in error.detail for word in words), error.detail


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"inputs": None},
        {"inputs": {"x": INPUT}},
        {"inputs": [1]},
        {"inputs": [INPUT, 1]},
        {"inputs": [{**INPUT, "name": ""}]},
        {"inputs": [{**INPUT, "name": 1}]},
        {"inputs": [{**INPUT, "name": "x" * 300}]},
        {"inputs": [INPUT], "outputs": ["y"]},
        {"inputs": [INPUT], "outputs": {"name": "y"}},
        {"inputs": [INPUT], "outputs": [{}]},
        {"inputs": [INPUT], "outputs": [{"name": "y"}, {"name": "y"}]},
        {"inputs": [INPUT], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"inputs": [INPUT], "ouputs": []},
        {"inputs": [INPUT], "parameters": {"k": None}},
        {"inputs": [INPUT], "parameters": {"k": {"nested": 1}}},
        {"inputs": [INPUT], "parameters": {"stack": 1}},
        {"inputs": [INPUT], "id": 7},
    ],
)
def test_requests_of_another_structure_are_invalid_input(document: object) -> None:
    """Missing, misnamed and mistyped fields are refused."""
    assert refusal(document).cause is Cause.INVALID_INPUT


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_sixteen_bit_floats_have_no_json_form(datatype: str) -> None:
    """In and out they are UNSUPPORTED_DATATYPE, in the words that Triton uses, with the door that takes them."""
    error = refusal(with_input(datatype=datatype))
    assert error.cause is Cause.UNSUPPORTED_DATATYPE
    assert f"receiving {datatype} data via JSON is not supported" in error.detail
    tensor = Tensor("y", datatype, np.zeros(1, dtype="f2"))
    with pytest.raises(GatewayError, match=rf"sending {datatype} data via JSON .* 'y' as binary data") as caught:
        oip_json.encode_response(InferenceResponse("m", 1, (tensor,)))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_a_version_in_path_and_parameter_must_agree() -> None:
    """The same is fine, another is INVALID_INPUT."""
    document = {"inputs": [INPUT], "parameters": {"version": "3"}}
    assert decode(document, ModelSpec("m", 3)).model.version == 3
    assert refusal(document, ModelSpec("m", 2)).cause is Cause.INVALID_INPUT


def test_bytes_are_the_utf8_of_strings() -> None:
    """JSON strings become bytes; there is no base64 convention."""
    tensor = decode(with_input(datatype="BYTES", shape=[2], data=["é", "AA=="])).inputs[0]
    assert tensor.array.tolist() == ["é".encode(), b"AA=="]


def test_no_outputs_means_all() -> None:
    """An empty list is as good as none."""
    assert decode({"inputs": [INPUT], "outputs": []}).wanted == ()


def test_an_unknown_model_is_what_the_caller_says() -> None:
    """The lookup's error passes, after the text was found to be JSON."""

    def contract_of(name: str) -> ModelContract:
        raise GatewayError(Cause.MODEL_NOT_FOUND, name)

    with pytest.raises(GatewayError) as caught:
        oip_json.decode_request(b"{}", ModelSpec("m"), contract_of)
    assert caught.value.cause is Cause.MODEL_NOT_FOUND
    with pytest.raises(GatewayError) as caught:
        oip_json.decode_request(b"{", ModelSpec("m"), contract_of)
    assert caught.value.cause is Cause.UNPARSEABLE


def test_the_answer_is_flat_and_repeats_the_id() -> None:
    """Version as a string, data flat, FP32 in its shortest form."""
    tensor = Tensor("y", "FP32", np.array([[0.1], [2]], dtype=np.float32))
    assert oip_json.encode_response(InferenceResponse("m", 1, (tensor,), {"k": 1}, "7")) == (
        b'{"model_name":"m","model_version":"1","id":"7","parameters":{"k":1},'
        b'"outputs":[{"name":"y","shape":[2,1],"datatype":"FP32","data":[0.1,2.0]}]}'
    )
    assert oip_json.encode_response(InferenceResponse("m", None, ())) == b'{"model_name":"m","outputs":[]}'


def test_server_metadata() -> None:
    """All three keys are always there."""
    assert orjson.loads(oip_json.encode_server_metadata("twinserve", "1.2.3")) == {
        "name": "twinserve",
        "version": "1.2.3",
        "extensions": [],
    }


def test_model_metadata() -> None:
    """Versions are strings, variable dimensions -1, properties only where there are some."""
    metadata = CONTRACT.metadata((2, 1))
    document = {
        "name": "m",
        "versions": ["2", "1"],
        "platform": "twinserve",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }
    assert orjson.loads(oip_json.encode_model_metadata(metadata)) == document
    described = ModelMetadata("m", (), "p", (), (), {"k": "v"})
    assert orjson.loads(oip_json.encode_model_metadata(described))["properties"] == {"k": "v"}


@untimed
@given(pairs(datatypes=DATATYPES - {"FP16", "BF16"}, finite=True, text=True), st.booleans())
def test_outputs_of_an_answer_are_inputs_of_a_request(tensors: tuple[Tensor, ...], nested: bool) -> None:
    """Every tensor that JSON can carry survives, flat and nested."""
    outputs = orjson.loads(oip_json.encode_response(InferenceResponse("m", 1, tensors)))["outputs"]
    for output, tensor in zip(outputs, tensors, strict=True):
        if nested and tensor.shape:
            values = np.empty(len(output["data"]), dtype=object)
            values[:] = output["data"]
            output["data"] = values.reshape(tensor.shape).tolist()
    for tensor, back in zip(tensors, decode({"inputs": outputs}).inputs, strict=True):
        assert_same(tensor, back)


@untimed
@given(st.binary(max_size=64) | st.text('{}[]":,1.einputs', max_size=60).map(str.encode))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    """Nothing but a GatewayError is ever raised."""
    try:
        request = oip_json.decode_request(body, ModelSpec("m"), lambda _: CONTRACT)
    except GatewayError:
        return
    assert request.model.name == "m"


@untimed
@given(
    st.dictionaries(
        st.sampled_from(["name", "shape", "datatype", "data", "parameters"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["x", "FP32", "INT8", "BYTES"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
            max_leaves=6,
        ),
    )
)
def test_any_input_is_a_tensor_or_refused(tensor: dict[str, object]) -> None:
    """Fields of any type and value raise nothing but a GatewayError."""
    try:
        request = decode({"inputs": [tensor]})
    except GatewayError:
        return
    assert request.inputs[0].shape == tuple(tensor["shape"])  # type: ignore[arg-type]
