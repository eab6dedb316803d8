"""Nested lists into tensors: kinds, ranges, raggedness; and tensors into what orjson writes."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.json_document import parse_object
from gateway.codecs.json_tensors import tensor_from_json, to_json_array
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from tests.unit.gateway.codecs.tensors import assert_same, tensors, untimed


def read(text: str, datatype: str, shape: tuple[int, ...] = (-1,)) -> Tensor:
    """The tensor `x` of a document, read the fast way where there is one, and the slow way: both must agree."""
    spec = TensorSpec("x", datatype, shape)
    fast = tensor_from_json(parse_object(f'{{"x": {text}}}'.encode())["x"], spec)
    # A bracket in a string makes the structure of the text unsure.
    slow = tensor_from_json(parse_object(f'{{"[": 0, "x": {text}}}'.encode())["x"], spec)
    assert_same(fast, slow)
    return fast


def refusal(text: str, datatype: str) -> GatewayError:
    """The error that both ways give."""
    spec = TensorSpec("x", datatype, (-1,))
    errors = []
    for body in (f'{{"x": {text}}}', f'{{"[": 0, "x": {text}}}'):
        with pytest.raises(GatewayError) as caught:
            tensor_from_json(parse_object(body.encode())["x"], spec)
        errors.append(caught.value)
    assert errors[0].detail == errors[1].detail
    assert "'x'" in errors[0].detail
    return errors[0]


@pytest.mark.parametrize(
    ("datatype", "text"),
    [
        ("FP32", "[[1, 2, 3], [4]]"),
        ("FP32", "[[1, 2], [3], [4, 5, 6]]"),
        ("FP32", "[1, [2]]"),
        ("FP32", "[[1], 2]"),
        ("FP32", "[[], [1]]"),
        ("FP32", "[[1], []]"),
        ("FP32", "[[[1]], [[2, 3]]]"),
        ("BYTES", '[["a"], ["b", "c"]]'),
        ("BOOL", "[[true], true]"),
        ("FP32", "[true]"),
        ("FP32", "[1.5, false]"),
        ("INT64", "[true]"),
        ("FP32", '["1.0"]'),
        ("INT32", '["1"]'),
        ("FP32", "[null]"),
        ("FP32", "[1, null]"),
        ("FP32", '[{"b64": "AA=="}]'),
        ("INT32", "[1.5]"),
        ("INT32", "[1.0]"),
        ("INT32", "[1, 1e3]"),
        ("BOOL", "[0, 1]"),
        ("BOOL", '["true"]'),
        ("BYTES", "[1]"),
        ("BYTES", '[{"b64": "AA=="}]'),
        ("INT64", "[9223372036854775808]"),
        ("INT64", "[-9223372036854775809]"),
        ("INT64", "[100000000000000000000000]"),
        ("UINT64", "[18446744073709551616]"),
        ("UINT64", "[-1]"),
        ("UINT8", "[256]"),
        ("UINT8", "[-1]"),
        ("INT8", "[128]"),
        ("INT8", "[-129]"),
        ("UINT16", "[65536]"),
        ("INT16", "[-32769]"),
        ("UINT32", "[4294967296]"),
        ("INT32", "[2147483648]"),
        ("FP32", "[1e39]"),
        ("FP32", "[1, -1e39]"),
        ("FP64", "[1e400]"),
        ("FP32", "[1e400]"),
        ("FP16", "[65520]"),
        ("BF16", "[3.4e38]"),
        ("FP64", "[1" + "0" * 400 + "]"),
    ],
)
def test_elements_of_the_wrong_kind_or_range_are_invalid_input(datatype: str, text: str) -> None:
    """Raggedness, foreign kinds and numbers out of range are refused, naming the input, on both ways."""
    assert refusal(text, datatype).cause is Cause.INVALID_INPUT


def test_messages_say_what_is_there_and_what_belongs_there() -> None:
    """An element's kind and the datatype's are both named, in JSON's words."""
    assert refusal("[1, true, null]", "FP32").detail == "input 'x' holds booleans and null; FP32 takes numbers"
    assert refusal("[1.5]", "INT32").detail == (
        "input 'x' holds numbers with a fraction or exponent; INT32 takes integers"
    )
    assert "dimension 1" in refusal("[[1, 2], [3]]", "FP32").detail


@pytest.mark.parametrize(
    ("datatype", "text", "expected"),
    [
        ("FP32", "[1, -2, 3.5]", [1.0, -2.0, 3.5]),
        ("FP32", "[18446744073709551615]", [1.8446744e19]),
        ("FP32", "[100000000000000000000]", [1e20]),
        ("FP64", "[100000000000000000000, 0.5]", [1e20, 0.5]),
        ("FP64", "[9007199254740993]", [9007199254740992.0]),
        ("FP32", "[3.4028235e38, 1e-50]", [3.4028235e38, 0.0]),
        ("INT64", "[-9223372036854775808, 9223372036854775807]", [-(2**63), 2**63 - 1]),
        ("UINT64", "[18446744073709551615, 0]", [2**64 - 1, 0]),
        ("UINT8", "[0, 255]", [0, 255]),
        ("INT8", "[-128, 127]", [-128, 127]),
        ("FP16", "[65504]", [65504.0]),
        ("BOOL", "[true, false]", [True, False]),
        ("BYTES", '["", "a\\u0000", "é"]', [b"", b"a\x00", "é".encode()]),
    ],
)
def test_elements_are_exact(datatype: str, text: str, expected: list[object]) -> None:
    """Values at the limits of their datatype arrive unchanged; integers do for floating-point numbers."""
    tensor = read(text, datatype)
    want = np.empty(len(expected), dtype=NUMPY_DTYPE[datatype])
    want[:] = expected
    assert_same(tensor, Tensor("x", datatype, want))


def test_minus_zero_keeps_its_sign() -> None:
    """-0.0 is not 0.0."""
    assert np.signbit(read("[-0.0]", "FP32").array).tolist() == [True]


@pytest.mark.parametrize(
    ("text", "spec", "shape"),
    [
        ("[]", (-1, 10), (0, 10)),
        ("[]", (-1,), (0,)),
        ("[]", (-1, -1, 3), (0, 0, 3)),
        ("[[], []]", (-1, -1, 3), (2, 0, 3)),
        ("[[]]", (-1, 10), (1, 0)),
        ("[[1], [2]]", (-1, 10), (2, 1)),
        ("5", (), ()),
        ("5", (-1, 10), ()),
    ],
)
def test_shapes_come_from_nesting_and_below_empty_lists_from_the_spec(
    text: str, spec: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """An empty batch has the contract's row shape; every other shape is as nested."""
    assert read(text, "FP32", spec).shape == shape


def test_a_list_nested_too_deep_is_unparseable_on_the_slow_way_too() -> None:
    """Depth is bounded where first elements do not show it."""
    value: object = 1
    for _ in range(40):
        value = [value]
    with pytest.raises(GatewayError) as caught:
        tensor_from_json(value, TensorSpec("x", "FP32", (-1,)))  # type: ignore[arg-type]
    assert caught.value.cause is Cause.UNPARSEABLE


@untimed
@given(tensors(finite=True, text=True))
def test_what_is_written_reads_back(tensor: Tensor) -> None:
    """Every finite tensor of every datatype survives JSON exactly, its shape included."""
    text = orjson.dumps(to_json_array(tensor), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    assert_same(tensor, read(text, tensor.datatype, tensor.shape))


@untimed
@given(tensors(finite=True, text=True))
def test_the_slow_and_the_fast_way_agree_with_python(tensor: Tensor) -> None:
    """The standard library's text of a tensor reads back as well."""
    value = to_json_array(tensor)
    text = json.dumps(value.tolist() if isinstance(value, np.ndarray | np.generic) else value)
    assert_same(tensor, read(text, tensor.datatype, tensor.shape))


def test_float32_is_written_in_its_shortest_form() -> None:
    """0.1 as FP32 is 0.1, not the double next to it."""
    array = np.array([0.1, 16777216], dtype=np.float32)
    assert (
        orjson.dumps(to_json_array(Tensor("y", "FP32", array)), option=orjson.OPT_SERIALIZE_NUMPY)
        == b"[0.1,16777216.0]"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_nan_and_infinity_have_no_json(datatype: str, bad: float) -> None:
    """They are UNSUPPORTED_DATATYPE, naming the output and the door that carries them."""
    array = np.array([1, bad]).astype(NUMPY_DTYPE[datatype])
    with pytest.raises(GatewayError, match=r"'y'.*gRPC") as caught:
        to_json_array(Tensor("y", datatype, array))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_bytes_that_are_no_text_have_no_json() -> None:
    """BYTES outside UTF-8 are UNSUPPORTED_DATATYPE."""
    array = np.array([b"ok", b"\xff"], dtype=object)
    with pytest.raises(GatewayError, match="UTF-8") as caught:
        to_json_array(Tensor("y", "BYTES", array))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE


def test_strided_arrays_are_written_too() -> None:
    """A view that is not contiguous is written as its values."""
    view = np.arange(8, dtype=np.int32).reshape(2, 4)[:, ::2]
    assert (
        orjson.dumps(to_json_array(Tensor("y", "INT32", view)), option=orjson.OPT_SERIALIZE_NUMPY) == b"[[0,2],[4,6]]"
    )


@untimed
@given(st.binary(max_size=40), st.sampled_from(sorted(NUMPY_DTYPE)))
def test_any_json_is_a_tensor_or_refused(body: bytes, datatype: str) -> None:
    """Whatever value an input has, the answer is a tensor or a GatewayError."""
    try:
        value = parse_object(b'{"x": ' + body + b"}").get("x")
        tensor = tensor_from_json(value, TensorSpec("x", datatype, (-1, 2)))
        assert tensor.array.dtype == NUMPY_DTYPE[datatype]
    except GatewayError:
        pass
