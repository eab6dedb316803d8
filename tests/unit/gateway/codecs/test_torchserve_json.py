"""The bodies of TorchServe's clients: four JSON forms and the raw body, and answers in kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.torchserve_json import (
    JSON,
    OCTET_STREAM,
    Decoded,
    Form,
    decode_json,
    decode_raw,
    encode_response,
    model_spec,
    takes_raw,
)
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, Selection, TensorSpec
from gateway.core.tensor import DATATYPES, Tensor
from tests.builders import tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, tensors, untimed


def contract(
    name: str,
    inputs: list[tuple[str, str, tuple[int, ...]]],
    outputs: list[tuple[str, str, tuple[int, ...]]],
    **more: Any,
) -> ModelContract:
    sides = (tuple(TensorSpec(*spec) for spec in side) for side in (inputs, outputs))
    return ModelContract(name, 1, *sides, **{"batch_cap": 8, **more})


Y = ("y", "FP32", (-1, 2))
MODELS = {
    item.name: item
    for item in (
        contract("one", [("x", "FP32", (-1, 2))], [Y]),
        contract("two", [("a", "INT64", (-1,)), ("b", "BYTES", (-1,))], [Y, ("z", "INT64", (-1,))]),
        contract("text", [("t", "BYTES", (-1,))], [("u", "BYTES", (-1,))]),
        contract("single", [("t", "BYTES", ())], [("u", "FP32", (2,))], batch_cap=None),
        contract("scalar", [("s", "FP32", ())], [("u", "FP32", ())], batch_cap=None),
        contract("wide", [("t", "BYTES", (-1, 3))], [Y]),
    )
}


def contract_of(name: str) -> ModelContract:
    if name not in MODELS:
        raise GatewayError(Cause.MODEL_NOT_FOUND, f"unknown model '{name}'")
    return MODELS[name]


def decode(document: object, model: str = "one") -> Decoded:
    return decode_json(json.dumps(document).encode(), ModelSpec(model), contract_of)


def refusal(document: object, model: str = "one") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        decode(document, model)
    return caught.value


def inputs(decoded: Decoded) -> dict[str, Any]:
    return {item.name: item.array.tolist() for item in decoded.request.inputs}


def answer(form: Form, *outputs: Tensor, batched: bool = True, identity: str = "") -> Any:
    decoded = Decoded(InferenceRequest(ModelSpec("m"), ()), form, batched)
    encoded = encode_response(InferenceResponse("m", 1, outputs, id=identity), decoded)
    assert encoded.media_type == JSON
    return json.loads(encoded.body)


OIP = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


@pytest.mark.parametrize(
    ("document", "form"),
    [
        ({"inputs": {"x": [[1, 2]]}}, Form.INPUTS),
        ({"inputs": [[1, 2]]}, Form.INPUTS),
        ({"instances": [[1, 2]]}, Form.INSTANCES),
        ({"instances": [{"x": [1, 2]}]}, Form.INSTANCES),
        ([[1, 2]], Form.LIST),
        ([{"x": [1, 2]}], Form.LIST),
        ({"inputs": [OIP]}, Form.OIP),
    ],
)
def test_every_form_is_the_same_request(document: object, form: Form) -> None:
    """However it is put, the model gets one row of two numbers."""
    decoded = decode(document)
    assert (decoded.form, decoded.batched) == (form, True)
    assert_same(decoded.request.inputs[0], tensor("x", [[1, 2]]))


def test_instances_of_several_inputs_are_stacked() -> None:
    """The first dimension counts them, in the order they came."""
    rows = [{"a": 1, "b": "p"}, {"b": "q", "a": 2}]
    for document in (rows, {"instances": rows}):
        assert inputs(decode(document, "two")) == {"a": [1, 2], "b": [b"p", b"q"]}


def test_no_instance_is_an_empty_batch() -> None:
    """Of every input there is."""
    assert decode([]).request.inputs[0].shape == (0, 2)
    assert inputs(decode({"instances": []}, "two")) == {"a": [], "b": []}


def test_fields_beside_the_inputs_are_the_open_inference_protocols() -> None:
    """An id, the outputs wanted, and parameters that choose who answers."""
    more = {"id": "7", "outputs": ["y"], "parameters": {"stack": "tfserving", "label": "stable", "heat": 0.5}}
    for document in ({"inputs": {"x": [[1, 2]]}}, {"instances": [[1, 2]]}):
        request = decode({**document, **more}).request
        assert (request.id, request.wanted, request.parameters) == ("7", ("y",), {"heat": 0.5})
        assert (request.selection, request.model) == (Selection("tfserving"), ModelSpec("one", label="stable"))


@pytest.mark.parametrize(
    ("document", "model", "text"),
    [
        ({}, "one", "known forms"),
        (7, "one", "known forms"),
        ("x", "one", "known forms"),
        (None, "one", "known forms"),
        ({"data": [[1, 2]]}, "one", "known forms"),
        ({"inputs": [[1, 2]], "instances": [[1, 2]]}, "one", "known forms"),
        ({"inputs": [[1, 2]], "model": "one"}, "one", "unknown field 'model'"),
        ({"inputs": {"z": 1}}, "one", "no input 'z'"),
        ({"inputs": [[1, 2], [3]]}, "one", "ragged"),
        ({"inputs": None}, "one", "null"),
        ({"inputs": [1]}, "two", "each of 'a', 'b'"),
        ({"instances": 1}, "one", "expected a list"),
        ({"instances": [1]}, "two", "each of 'a', 'b'"),
        ([1], "two", "the list: expected objects"),
        ([{"x": [1, 2]}, [1, 2]], "one", "all have the same inputs"),
        ([[1, 2], {"x": [1, 2]}], "one", "ragged"),
        ([{"a": 1, "b": "p"}, {"a": 1}], "two", "all have the same inputs"),
        ([{"t": "p"}], "single", "takes no instances"),
        ([1], "scalar", "no dimension of instances"),
        ({"inputs": [[1, 2]], "outputs": "y"}, "one", "list of output names"),
        ({"inputs": [[1, 2]], "parameters": []}, "one", "'parameters': expected an object"),
        ({"inputs": [[1, 2]], "id": 7}, "one", "'id'"),
        ({"inputs": [{"x": [1, 2]}]}, "one", "usable name"),
    ],
)
def test_what_is_wrong_is_named(document: object, model: str, text: str) -> None:
    """With what was expected."""
    error = refusal(document, model)
    assert error.cause is Cause.INVALID_INPUT
    assert text in error.detail


def test_an_unknown_model_is_not_guessed_about() -> None:
    """Before its body is looked at."""
    assert refusal({}, "nope").cause is Cause.MODEL_NOT_FOUND


def test_what_is_no_json_is_unparseable() -> None:
    """As is nothing at all."""
    for body in (b"", b"{", b"[1,", b"\xff", b"[NaN]", b"[" * 100, b'[1],"x":1'):
        with pytest.raises(GatewayError) as caught:
            decode_json(body, ModelSpec("one"), contract_of)
        assert caught.value.cause is Cause.UNPARSEABLE


def test_answers_take_the_form_that_was_asked() -> None:
    """One output as bare values, several as objects; by name where inputs were by name."""
    y, z = tensor("y", [[1, 2], [3, 4]]), tensor("z", [5, 6], "INT64")
    objects = [{"y": [1, 2], "z": 5}, {"y": [3, 4], "z": 6}]
    assert answer(Form.INPUTS, y, z) == {"outputs": {"y": [[1, 2], [3, 4]], "z": [5, 6]}}
    assert answer(Form.INSTANCES, y) == {"predictions": [[1, 2], [3, 4]]}
    assert answer(Form.INSTANCES, y, z) == {"predictions": objects}
    assert answer(Form.LIST, y) == [[1, 2], [3, 4]]
    assert answer(Form.LIST, y, z) == objects
    assert answer(Form.OIP, z)["outputs"] == [{"name": "z", "shape": [2], "datatype": "INT64", "data": [5, 6]}]


def test_an_id_comes_back_where_there_is_a_place_for_it() -> None:
    """A list has none."""
    y = tensor("y", [[1, 2]])
    assert answer(Form.INPUTS, y, identity="7") == {"id": "7", "outputs": {"y": [[1, 2]]}}
    assert answer(Form.INSTANCES, y, identity="7") == {"id": "7", "predictions": [[1, 2]]}
    assert answer(Form.LIST, y, identity="7") == [[1, 2]]


def test_outputs_that_cannot_be_put_side_by_side_are_the_servers_fault() -> None:
    """A contract without a batch does not bind their sizes together."""
    with pytest.raises(GatewayError, match="number of instances") as caught:
        answer(Form.LIST, tensor("y", [1]), tensor("z", [1, 2]))
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    ("model", "raw"), [("one", False), ("two", False), ("text", True), ("single", True), ("wide", False)]
)
def test_only_one_element_of_bytes_can_be_a_body(model: str, raw: bool) -> None:
    """A model of two inputs, of numbers, or of three elements a row needs a form."""
    assert takes_raw(MODELS[model]) is raw


def test_a_raw_body_is_one_element() -> None:
    """Whatever it holds, in a row of its own where the model has rows."""
    for model, shape in (("text", (1,)), ("single", ())):
        decoded = decode_raw(b"\xff[1]", ModelSpec(model), MODELS[model])
        (only,) = decoded.request.inputs
        assert (decoded.form, only.name, only.datatype, only.shape) == (Form.RAW, "t", "BYTES", shape)
        assert only.array.reshape(-1)[0] == b"\xff[1]"


def test_one_element_of_bytes_is_a_raw_answer() -> None:
    """Any other answer is the one prediction as JSON."""
    decoded = decode_raw(b"", ModelSpec("text"), MODELS["text"])
    output = Tensor("u", "BYTES", np.array([b"\xff\0"], dtype=object))
    encoded = encode_response(InferenceResponse("text", 1, (output,)), decoded)
    assert (encoded.body, encoded.media_type) == (b"\xff\0", OCTET_STREAM)
    assert answer(Form.RAW, tensor("y", [[1, 2]])) == [1, 2]
    assert answer(Form.RAW, tensor("y", [1, 2]), batched=False) == [1, 2]
    assert answer(Form.RAW, tensor("y", [[1, 2]]), tensor("z", [5], "INT64")) == {"y": [1, 2], "z": 5}


@pytest.mark.parametrize(("text", "version"), [("1", 1), ("1.0", 1), ("0", 0), ("12.0", 12), ("", None)])
def test_versions_are_numbers_with_or_without_a_zero(text: str, version: int | None) -> None:
    """TorchServe's archiver writes 1.0 by itself."""
    assert model_spec("one", text, {}) == ModelSpec("one", version)


@pytest.mark.parametrize("text", ["1.1", "1.0.0", "01", "-1", "1.", "x", "9" * 19, "\u0661", "1\n"])
def test_other_versions_do_not_exist(text: str) -> None:
    """To TorchServe they would be other words."""
    with pytest.raises(GatewayError) as caught:
        model_spec("one", text, {"2024-05a": 3})
    assert caught.value.cause is Cause.VERSION_NOT_FOUND
    assert caught.value.detail.endswith("does not exist for model: one")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "a", "b", "t", "name", "shape", "datatype", "data", "id"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
BODIES = (
    JSON_VALUES
    | st.dictionaries(st.sampled_from(["inputs", "instances", "outputs", "parameters", "id"]), JSON_VALUES, min_size=1)
).map(lambda value: json.dumps(value).encode())


@untimed
@given(st.binary(max_size=64) | BODIES, st.sampled_from(sorted(MODELS)))
def test_whatever_comes_is_a_request_or_an_error_of_ours(body: bytes, model: str) -> None:
    """No bytes raise anything else, nor can what is accepted break the contract's own check."""
    cause = None
    try:
        decoded = decode_json(body, ModelSpec(model), contract_of)
        MODELS[model].check_request(decoded.request)
    except GatewayError as exc:
        cause = exc.cause
    assert cause in {
        None,
        Cause.UNPARSEABLE,
        Cause.INVALID_INPUT,
        Cause.UNSUPPORTED_DATATYPE,
        Cause.VERSION_NOT_FOUND,
    }


@untimed
@given(pairs(datatypes=DATATYPES - {"FP16", "BF16"}, finite=True, text=True))
def test_inputs_come_back_as_outputs(sent: tuple[Tensor, ...]) -> None:
    """What one form writes, it reads, to the bit; below an empty list a shape is the contract's to say."""
    specs = tuple(TensorSpec(item.name, item.datatype, item.shape) for item in sent)
    model = ModelContract("any", 1, specs, specs)
    body = encode_response(
        InferenceResponse("any", 1, sent), Decoded(InferenceRequest(ModelSpec("any"), ()), Form.INPUTS, False)
    ).body.replace(b'{"outputs":', b'{"inputs":', 1)
    for one, other in zip(decode_json(body, ModelSpec("any"), lambda _: model).request.inputs, sent, strict=True):
        if 0 not in other.shape:
            assert_same(one, other)


@untimed
@given(tensors(DATATYPES - {"FP16", "BF16"}, finite=True, text=True, shapes=st.sampled_from([(1,), (3,), (2, 2)])))
def test_a_list_comes_back_as_a_list(sent: Tensor) -> None:
    """And as predictions for instances."""
    specs = (TensorSpec(sent.name, sent.datatype, (-1, *sent.shape[1:])),)
    model = ModelContract("any", 1, specs, specs, batch_cap=8)
    for form, old, new in ((Form.LIST, b"", b""), (Form.INSTANCES, b'{"predictions":', b'{"instances":')):
        decoded = Decoded(InferenceRequest(ModelSpec("any"), ()), form, True)
        body = encode_response(InferenceResponse("any", 1, (sent,)), decoded).body.replace(old, new, 1)
        again = decode_json(body, ModelSpec("any"), lambda _: model)
        assert again.form is form
        assert_same(again.request.inputs[0], sent)


@untimed
@given(st.binary(max_size=64))
def test_any_bytes_go_to_a_model_and_come_back_as_they_are(body: bytes) -> None:
    """A raw body is one element, and one element is a raw body."""
    spec = (TensorSpec("t", "BYTES", (-1,)),)
    decoded = decode_raw(body, ModelSpec("any"), ModelContract("any", 1, spec, spec, batch_cap=8))
    assert encode_response(InferenceResponse("any", 1, decoded.request.inputs), decoded).body == body
