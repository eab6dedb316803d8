"""TF Serving's REST bodies as its clients write them, and answers as they read them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import tfserving_json
from gateway.codecs.tfserving_json_in import UnsupportedOutputError, encode_response, parse
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, Tensor
from tests.builders import contract, tensor
from tests.unit.gateway.codecs.tensors import assert_same, pairs, untimed

ONE = contract()
TWO = contract(
    "pair",
    inputs=(TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "BYTES", (-1,))),
    outputs=(TensorSpec("c", "FP32", (-1,)),),
)
CARRIED = DATATYPES - {"FP16", "BF16", "UINT16"}


def read(document: Any, model: ModelContract = ONE) -> tuple[Tensor, ...]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse(body).tensors(model)


def refused(document: Any, model: ModelContract = ONE) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        read(document, model)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3.0, 4]}], "signature_name": "serving_default", "more": 1},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[1, 2], [3, 4]], "ignored": 1}},
        b'  {"inputs": [[1, 2], [3, 4]]} and what follows is not read',
    ],
)
def test_rows_and_columns_are_the_same_tensor(body: Any) -> None:
    """By name or bare; unknown keys and what follows the value are ignored, as TF Serving does."""
    (found,) = read(body)
    assert_same(found, tensor("x", [[1, 2], [3, 4]]))


def test_several_inputs_come_by_name() -> None:
    """Row by row or whole; strings are text or base64, with or without padding."""
    for body in (
        {"instances": [{"a": 1, "b": "p"}, {"b": {"b64": "/w"}, "a": 2}]},
        {"inputs": {"a": [1, 2], "b": ["p", {"b64": "/w=="}]}},
    ):
        a, b = read(body, TWO)
        assert_same(a, tensor("a", [1, 2], "INT64"))
        assert b.array.tolist() == [b"p", b"\xff"]


def test_a_scalar_is_a_column() -> None:
    """The column form keeps rank 0; a bare base64 object is a value, not an object of inputs."""
    model = contract(inputs=(TensorSpec("x", "BYTES", ()),), batch_cap=None)
    assert read({"inputs": {"b64": "aGk="}}, model)[0].array[()] == b"hi"
    assert read({"inputs": {"x": "hi"}}, model)[0].shape == ()


def test_bare_tokens_are_numbers() -> None:
    """All five spellings, outside of strings only, where the contract then decides."""
    (found,) = read(
        b'{"signature_name": "Inf NaN \\" Inf", "instances": [[NaN, Inf], [-Inf, Infinity], [-Infinity, 0]]}'
    )
    assert np.array_equal(
        found.array, np.array([[np.nan, np.inf], [-np.inf, np.inf], [-np.inf, 0]], np.float32), equal_nan=True
    )


@pytest.mark.parametrize(
    ("body", "cause", "text"),
    [
        (b"", Cause.UNPARSEABLE, "JSON Parse error: The document is empty"),
        (b" \n", Cause.UNPARSEABLE, "JSON Parse error: The document is empty"),
        (b"x", Cause.UNPARSEABLE, "JSON Parse error: Expecting value. at offset: 0"),
        (b"\xff", Cause.UNPARSEABLE, "JSON Parse error: Invalid encoding in string. at offset: 0"),
        (b'{"inputs": [[1e999, 1]], "x": NaN}', Cause.UNPARSEABLE, "JSON Parse error: Number too big to be stored"),
        (b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}", Cause.UNPARSEABLE, "JSON Parse error: nested deeper than 32"),
        (b'{"inputs":[' + b"[" * 900 + b"]" * 900 + b", 1]}", Cause.UNPARSEABLE, "JSON Parse error: nested deeper"),
        (b'{"inputs": 1, "inputs": 2}', Cause.UNPARSEABLE, "key 'inputs' is given twice"),
        ([1], Cause.INVALID_INPUT, "JSON Value: ... Is not object"),
        (b"[NaN]", Cause.INVALID_INPUT, "JSON Value: ... Is not object"),
        ({"signature_name": 5}, Cause.INVALID_INPUT, "'signature_name' key must be a string value."),
        ({}, Cause.INVALID_INPUT, "Missing 'inputs' or 'instances' key"),
        ({"inputs": 1, "instances": [1]}, Cause.INVALID_INPUT, "only one of 'inputs' or 'instances' keys to exist "),
        ({"instances": 5}, Cause.INVALID_INPUT, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, Cause.INVALID_INPUT, "No values in 'instances' array"),
        ({"instances": [["a", 1]]}, Cause.INVALID_INPUT, "0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value"),
        ({"instances": [{"x": [1, True]}]}, Cause.INVALID_INPUT, "0 key: x of 'instances' list. Error"),
        ({"inputs": [["a", 1]]}, Cause.INVALID_INPUT, "Type: String is not of expected type: float (input 'x'"),
        ({"inputs": [[1e39, 1]]}, Cause.INVALID_INPUT, "to float without loss of precision."),
        ({"inputs": [[1], [1, 2]]}, Cause.INVALID_INPUT, "unexpected size: 2 at level: 1 expected size: 1"),
        (
            {"inputs": [[1], 2]},
            Cause.INVALID_INPUT,
            "found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ({"inputs": [1, [2]]}, Cause.INVALID_INPUT, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[1, 2], [1, 2, 3]]}, Cause.INVALID_INPUT, "Expecting tensor size: 2 but got: 3"),
        ({"instances": [[1, 2], [[1, 2]]]}, Cause.INVALID_INPUT, "Expecting shape [2] but got: [1,2]"),
        ({"instances": [[1, 2], {"x": [1]}]}, Cause.INVALID_INPUT, "is not of expected type: float"),
        (
            {"instances": [{"x": [1]}, [1]]},
            Cause.INVALID_INPUT,
            "Expecting object but got list at item 1 of input list",
        ),
        ({"instances": [{"z": [1]}]}, Cause.INVALID_INPUT, "JSON object: does not have named input: z"),
        ({"instances": [{}]}, Cause.INVALID_INPUT, "keys must be equal to: x"),
        ({"inputs": {}}, Cause.INVALID_INPUT, "Missing named input: x in 'inputs' object."),
    ],
)
def test_refusals_are_in_tf_servings_words(body: Any, cause: Cause, text: str) -> None:
    """Without what was sent."""
    error = refused(body)
    assert error.cause is cause
    assert text in error.detail


def test_several_inputs_need_names() -> None:
    """In both forms; a row must have all of them."""
    assert "instances is a plain list" in refused({"instances": [1]}, TWO).detail
    assert "inputs is a plain value/list" in refused({"inputs": [1]}, TWO).detail
    assert "keys must be equal to: a,b" in refused({"instances": [{"a": 1}]}, TWO).detail
    assert (
        "Expecting value/list but got object at item 1"
        in refused(
            {"instances": [{"b64": "aGk="}, {"b": "p"}]}, contract(inputs=(TensorSpec("b", "BYTES", (-1,)),))
        ).detail
    )


@pytest.mark.parametrize(
    ("datatype", "values", "text"),
    [
        ("INT32", [1.0], "Type: Number is not of expected type: int32"),
        ("INT64", [2**64], "Type: Number is not of expected type: int64"),
        ("UINT8", [300], "Type: Number is not of expected type: uint8"),
        ("INT8", [None], "Type: Null is not of expected type: int8"),
        ("BOOL", [1], "Type: Number is not of expected type: bool"),
        ("FP64", [True], "Type: True is not of expected type: double"),
        ("BYTES", [1], "Type: Number is not of expected type: string"),
        ("BYTES", [{"a": 1}], "not formatted correctly for base64 data"),
        ("BYTES", [{"b64": "%"}], "Unable to base64 decode"),
    ],
)
def test_values_must_be_of_the_contracts_datatype(datatype: str, values: list[Any], text: str) -> None:
    """No fraction is cut off, and nothing wraps around."""
    assert text in refused({"inputs": {"x": values}}, contract(inputs=(TensorSpec("x", datatype, (-1,)),))).detail


@pytest.mark.parametrize(("datatype", "word"), [("FP16", "half"), ("BF16", "bfloat16"), ("UINT16", "uint16")])
def test_datatypes_that_its_json_lacks(datatype: str, word: str) -> None:
    """An input is unsupported; so is an output, but for an empty one."""
    error = refused({"inputs": [1]}, contract(inputs=(TensorSpec("x", datatype, (-1,)),)))
    assert error.cause is Cause.UNSUPPORTED_DATATYPE
    assert f"to type: {word}" in error.detail
    with pytest.raises(UnsupportedOutputError, match=f"Failed to write JSON value for tensor type: {word}"):
        answer(tensor("y", [1], datatype))
    assert answer(tensor("y", [], datatype)) == {"outputs": []}


def answer(*outputs: Tensor, row: bool = False) -> Any:
    return json.loads(encode_response(InferenceResponse("m", 1, outputs), row=row))


def test_answers_take_the_form_that_was_asked() -> None:
    """One output goes without its name; rows of several are objects."""
    y, z = tensor("y", [[1, 2], [3, 4]]), tensor("z", [b"a", b"b"], "BYTES")
    assert answer(y) == {"outputs": [[1.0, 2.0], [3.0, 4.0]]}
    assert answer(y, row=True) == {"predictions": [[1.0, 2.0], [3.0, 4.0]]}
    assert answer(y, z) == {"outputs": {"y": [[1.0, 2.0], [3.0, 4.0]], "z": ["a", "b"]}}
    assert answer(y, z, row=True) == {"predictions": [{"y": [1.0, 2.0], "z": "a"}, {"y": [3.0, 4.0], "z": "b"}]}
    assert answer(tensor("y", 5)) == {"outputs": 5.0}


def test_whole_floats_stay_floats_and_nan_is_a_bare_token() -> None:
    """Clients tell 1.0 from 1, and Python's json reads the tokens; the other output is not harmed."""
    assert encode_response(InferenceResponse("m", 1, (tensor("y", [1]),)), row=False) == b'{"outputs":[1.0]}'
    outputs = (tensor("y", [np.nan, np.inf]), tensor("z", [-np.inf, 1], "FP64"))
    assert encode_response(InferenceResponse("m", 1, outputs), row=True) == (
        b'{"predictions": [{"y": NaN, "z": -Infinity}, {"y": Infinity, "z": 1.0}]}'
    )


def test_bytes_are_base64_where_the_name_says_so() -> None:
    """Else they must be text."""
    assert answer(tensor("y_bytes", [b"\xff"], "BYTES")) == {"outputs": [{"b64": "/w=="}]}
    with pytest.raises(UnsupportedOutputError, match="gRPC"):
        answer(tensor("y", [b"\xff"], "BYTES"))


def test_rows_need_an_equal_first_dimension() -> None:
    """Columns do not."""
    for outputs, text in (
        ((tensor("y", 5),), "Tensor name: y has no shape information "),
        ((tensor("y", [1]), tensor("z", [1, 2])), "Tensor name: z has inconsistent batch size: 2 expecting: 1"),
    ):
        with pytest.raises(GatewayError, match=text) as caught:
            answer(*outputs, row=True)
        assert caught.value.cause is Cause.INVALID_INPUT
        answer(*outputs)


@untimed
@given(pairs(datatypes=CARRIED))
def test_what_our_client_writes_our_door_reads(tensors: tuple[Tensor, ...]) -> None:
    """To the bit, but for NaN's own bits, wherever the JSON can hold the shape."""
    if any(0 in item.shape[:-1] for item in tensors):
        return
    body = tfserving_json.encode_request(InferenceRequest(ModelSpec("m"), tensors))
    model = contract(inputs=tuple(TensorSpec(item.name, item.datatype, item.shape) for item in tensors))
    for found, sent in zip(parse(body).tensors(model), tensors, strict=True):
        assert_same(found, sent, bits=False)


@untimed
@given(pairs(datatypes=CARRIED, text=True))
def test_what_our_door_writes_our_client_reads(tensors: tuple[Tensor, ...]) -> None:
    """In column form."""
    if any(0 in item.shape[:-1] for item in tensors):
        return
    specs = tuple(TensorSpec(item.name, item.datatype, item.shape) for item in tensors)
    body = encode_response(InferenceResponse("m", 1, tensors), row=False)
    found = tfserving_json.decode_response(body, InferenceRequest(ModelSpec("m"), ()), specs)
    for one, other in zip(found.outputs, tensors, strict=True):
        assert_same(one, other, bits=False)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "a", "b", "b64", "instances", "inputs"]), inner, max_size=3)
    ),
    max_leaves=12,
)
BODIES = (
    st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.builds(
        lambda key, value: json.dumps({key: value}).encode(), st.sampled_from(["instances", "inputs"]), JSON_LIKE
    )
)


@untimed
@given(BODIES, st.sampled_from([ONE, TWO]))
def test_any_bytes_are_a_request_or_refused(body: bytes, model: ModelContract) -> None:
    """Nothing but a GatewayError, and one that blames the client."""
    cause: Cause | None = None
    try:
        parse(body).tensors(model)
    except GatewayError as exc:
        cause = exc.cause
    assert cause in (None, Cause.UNPARSEABLE, Cause.INVALID_INPUT)
