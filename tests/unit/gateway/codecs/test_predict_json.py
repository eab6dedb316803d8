"""`POST /predict`: fields, inputs by name or bare, and the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import predict_json
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    Compared,
    InferenceRequest,
    InferenceResponse,
    ModelSpec,
    Selection,
    ServedBy,
    TensorSpec,
)
from gateway.core.tensor import Tensor
from tests.builders import tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

ONE = ModelContract(
    "one", 1, (TensorSpec("features", "FP32", (-1, 10)),), (TensorSpec("y", "FP32", (-1, 1)),), batch_cap=256
)
TWO = ModelContract(
    "two",
    1,
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))),
    (TensorSpec("y", "FP32", (-1, 1)),),
    batch_cap=8,
)
ROW = [float(number) for number in range(10)]


def contract_of(name: str) -> ModelContract:
    for contract in (ONE, TWO):
        if contract.name == name:
            return contract
    raise GatewayError(Cause.MODEL_NOT_FOUND, f"there is no model '{name}'")


def decode(document: object, path: str | None = None) -> InferenceRequest:
    return predict_json.decode_request(json.dumps(document).encode(), contract_of, path)


def refusal(document: object, path: str | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        decode(document, path)
    return caught.value


def test_a_full_request_is_read_to_the_last_field() -> None:
    """Every field arrives at its place."""
    request = decode(
        {
            "model": "two",
            "inputs": {"b": [1], "a": [[1, 2]]},
            "outputs": ["y"],
            "stack": "tfserving",
            "endpoint": "tf",
            "variant": "savedmodel",
            "version": 3,
            "id": "7",
        }
    )
    assert request.model == ModelSpec("two", version=3)
    assert request.selection == Selection("tfserving", "tf", "savedmodel")
    assert request.wanted == ("y",)
    assert request.id == "7"
    assert {tensor.name: (tensor.datatype, tensor.shape) for tensor in request.inputs} == {
        "a": ("FP32", (1, 2)),
        "b": ("INT64", (1,)),
    }


def test_a_model_with_one_input_takes_a_bare_list() -> None:
    """`inputs` is then the input itself; the name is the contract's."""
    (tensor,) = decode({"model": "one", "inputs": [ROW, ROW]}).inputs
    assert (tensor.name, tensor.shape) == ("features", (2, 10))


def test_the_path_may_name_the_model() -> None:
    """Name in the path, in the body, or the same in both."""
    assert decode({"inputs": [ROW]}, "one").model.name == "one"
    assert decode({"model": "one", "inputs": [ROW]}, "one").model.name == "one"
    assert "path" in refusal({"model": "two", "inputs": [ROW]}, "one").detail


def test_null_is_as_good_as_absent() -> None:
    """A client that fills a template may leave optional fields null."""
    fields = dict.fromkeys(["outputs", "stack", "endpoint", "variant", "version", "label", "id"])
    request = decode({"model": "one", "inputs": [ROW], **fields})
    assert (request.model, request.selection, request.wanted, request.id) == (ModelSpec("one"), Selection(), (), "")


def test_an_empty_batch_has_the_models_row_shape() -> None:
    """[] is a batch of no rows."""
    assert decode({"model": "one", "inputs": []}).inputs[0].shape == (0, 10)
    assert decode({"model": "one", "inputs": {"features": []}}).inputs[0].shape == (0, 10)


def test_a_label_chooses_a_version_by_name() -> None:
    """`label` is part of the model spec."""
    assert decode({"model": "one", "inputs": [ROW], "label": "stable"}).model == ModelSpec("one", label="stable")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"inputs": [ROW]}, ["'model'", "missing"]),
        ({"model": 1, "inputs": [ROW]}, ["'model'", "string"]),
        ({"model": "", "inputs": [ROW]}, ["'model'"]),
        ({"model": "one"}, ["'inputs'", "missing", "'features' (FP32 [-1, 10])"]),
        ({"model": "two", "inputs": [[1]]}, ["'a' (FP32 [-1, 2])", "'b' (INT64 [-1])"]),
        ({"model": "one", "inputs": {"features": None}}, ["'features'", "null", "FP32 [-1, 10]"]),
        ({"model": "one", "inputs": {"image": [ROW]}}, ["no input 'image'", "'features'"]),
        ({"model": "one", "inputs": [ROW], "instances": [], "__proto__": 1}, ["'__proto__', 'instances'", "stack"]),
        ({"model": "one", "inputs": ROW}, ["'features'", "[10]", "wrap a single instance in a list"]),
        ({"model": "one", "inputs": [[1, 2], [3]]}, ["'features'", "ragged"]),
        ({"model": "one", "inputs": [ROW], "version": "1"}, ["'version'", "integer"]),
        ({"model": "one", "inputs": [ROW], "version": True}, ["'version'", "integer"]),
        ({"model": "one", "inputs": [ROW], "version": 1, "label": "x"}, ["'version'", "'label'"]),
        ({"model": "one", "inputs": [ROW], "outputs": "y"}, ["'outputs'", "list"]),
        ({"model": "one", "inputs": [ROW], "outputs": {"y": 1}}, ["'outputs'", "list"]),
        ({"model": "one", "inputs": [ROW], "outputs": ["y", "y"]}, ["'outputs'", "twice"]),
        ({"model": "one", "inputs": [ROW], "outputs": [{"name": "y"}]}, ["'outputs'", "names"]),
        ({"model": "one", "inputs": [ROW], "stack": ["tfserving"]}, ["'stack'", "string"]),
        ({"model": "one", "inputs": [ROW], "endpoint": ""}, ["'endpoint'"]),
        ({"model": "one", "inputs": [ROW], "id": 7}, ["'id'", "string"]),
        ([], ["object"]),
    ],
)
def test_what_does_not_fit_is_invalid_input_and_named(document: object, words: list[str]) -> None:
    """The message names the field or input and what was expected."""
    error = refusal(document)
    assert error.cause is Cause.INVALID_INPUT
    assert all(word in error.detail for word in words), error.detail


def test_a_model_without_batch_dimension_takes_any_rank_to_the_contract_check() -> None:
    """Only where dimension 0 is a batch is a missing one pointed at."""
    single = ModelContract("s", 1, (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (1,)),))
    request = predict_json.decode_request(b'{"model": "s", "inputs": [1, 2]}', lambda _: single)
    assert request.inputs[0].shape == (2,)


@pytest.mark.parametrize("version", [-1, 2**63, 10**30])
def test_versions_out_of_range_are_not_found(version: int) -> None:
    """An integer that can be no version is VERSION_NOT_FOUND."""
    assert refusal({"model": "one", "inputs": [ROW], "version": version}).cause is Cause.VERSION_NOT_FOUND


def test_an_unknown_model_is_what_the_caller_says() -> None:
    """The cause comes from the contract lookup."""
    assert refusal({"model": "three", "inputs": [ROW]}).cause is Cause.MODEL_NOT_FOUND


def test_text_that_is_not_json_is_unparseable() -> None:
    """Before anything else."""
    with pytest.raises(GatewayError) as caught:
        predict_json.decode_request(b"{", contract_of)
    assert caught.value.cause is Cause.UNPARSEABLE


def test_the_answer_names_model_version_stack_and_id() -> None:
    """Exactly the documented keys; FP32 in its shortest form."""
    response = InferenceResponse(
        "one",
        1,
        (Tensor("y", "FP32", np.array([[0.1], [152.25]], dtype=np.float32)),),
        id="7",
        served_by=ServedBy("ts", "torchserve", "TorchServe 0.12.0", 1, "onnx"),
    )
    assert predict_json.encode_response(response) == (
        b'{"model":"one","version":1,"stack":"torchserve","variant":"onnx","outputs":{"y":[[0.1],[152.25]]},"id":"7"}'
    )


def test_what_is_not_known_is_null() -> None:
    """Without a version of its own the answer takes the server's; without an id, null."""
    served_by = ServedBy("ts", "torchserve", "TorchServe 0.12.0", 4)
    answer: dict[str, Any] = json.loads(
        predict_json.encode_response(InferenceResponse("m", None, (), served_by=served_by))
    )
    assert answer == {
        "model": "m",
        "version": 4,
        "stack": "torchserve",
        "variant": None,
        "outputs": {},
        "id": None,
    }
    answer = json.loads(predict_json.encode_response(InferenceResponse("m", None, ())))
    assert (answer["version"], answer["stack"]) == (None, None)


def test_a_comparison_is_told_target_by_target() -> None:
    """Outputs with their distance, or an error; JSON has no infinity, and one target's NaN is its own trouble."""
    served_by = ServedBy("ts", "torchserve", "TorchServe 0.12.0", 1)
    answer = InferenceResponse("m", 1, (tensor("y", [1.5]),), served_by=served_by)
    apart = Compared("tf", "tfserving", 0.0021, answer, max_abs=inf, max_scaled=inf, agrees=False)
    nan = Compared("tf2", "tfserving", 0.001, InferenceResponse("m", 2, (tensor("y", [float("nan")]),)))
    lost = Compared("x", "oip", 0.5, None, Cause.UPSTREAM_LOST, "gone")
    told = orjson.loads(
        predict_json.encode_response(
            replace(
                answer, comparison=(Compared("ts", "torchserve", 0.001, answer, served_by=served_by), apart, nan, lost)
            )
        )
    )["comparison"]
    assert told[0] == {
        "endpoint": "ts",
        "stack": "torchserve",
        "server": "TorchServe 0.12.0",
        "version": 1,
        "ms": 1.0,
        "outputs": {"y": [1.5]},
        "difference": {"max_abs": 0.0, "max_scaled": 0.0, "agrees": True},
    }
    assert told[1]["difference"] == {"max_abs": None, "max_scaled": None, "agrees": False}
    assert told[2]["error"]["cause"] == "unsupported_datatype"
    assert told[3]["error"] == {"cause": "upstream_lost", "detail": "gone"}


@untimed
@given(pairs(finite=True, text=True))
def test_outputs_of_an_answer_are_inputs_of_a_request(tensors: tuple[Tensor, ...]) -> None:
    """Every finite tensor of every datatype and shape survives the answer's and the request's JSON."""
    contract = ModelContract(
        "m", 1, tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors), ()
    )
    outputs = orjson.loads(predict_json.encode_response(InferenceResponse("m", 1, tensors)))["outputs"]
    body = json.dumps({"model": "m", "inputs": outputs}).encode()
    for sent, back in zip(tensors, predict_json.decode_request(body, lambda _: contract).inputs, strict=True):
        assert_same(sent, back)


@untimed
@given(st.binary(max_size=64) | st.text('{}[]":,1.emodlinputs', max_size=60).map(str.encode))
def test_any_bytes_are_a_request_or_refused(body: bytes) -> None:
    """Nothing but a GatewayError is ever raised."""
    try:
        request = predict_json.decode_request(body, contract_of, "one")
    except GatewayError:
        return
    assert request.model.name == "one"
