"""The fast reading of short texts: whatever it does not leave to the strict reading is the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import parse_value, read_object
from gateway.codecs.json_small import MAX_BYTES, SmallArray, small_value
from gateway.codecs.json_tensors import elements, tensor_from_json
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE
from tests.unit.gateway.codecs.tensors import untimed

NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=4)
ARRAYS = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=4) | st.lists(NUMBERS, max_size=5)
JSON = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
# Fragments that make documents which are nearly right: repeated keys, odd numbers, half strings, other brackets.
PIECES = st.sampled_from(
    [
        r"{",
        r"}",
        r"[",
        r"]",
        r",",
        r":",
        r'"a"',
        r'"b"',
        r'"',
        r"1",
        r"-0",
        r"-0.0",
        r"2.5",
        r"1e400",
        r"1e39",
        r"1e-400",
        r"01",
        r"true",
        r"false",
        r"null",
        r"NaN",
        r"18446744073709551616",
        r"9223372036854775808",
        r'{"a":',
        r'{"a":1,',
        r"[1,2]",
        r"[[1],[2]]",
        r"\u0000",
        r"\ud800",
        r"{}",
        r"[]",
        r'"\"',
        r'"x:y"',
        r'"{"',
        r'{"a":{},"a":[1]}',
        " ",
        "\x00",
        "\xff",
        "\ufeff",
    ]
)
TEXTS = JSON.map(json.dumps) | JSON.map(lambda value: json.dumps(value, ensure_ascii=False))
BODIES = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.lists(PIECES, max_size=14).map(
    lambda pieces: "".join(pieces).encode()
)


def seen(value: Any) -> Any:
    """A document with its arrays by their kind, and everything by its type."""
    if isinstance(value, JsonArray):
        return JsonArray, value.shape, seen(value.as_list())
    if isinstance(value, list):
        return [seen(item) for item in value]
    if isinstance(value, dict):
        return [(key, seen(item)) for key, item in value.items()]
    return type(value), repr(value)


def arrays(value: Any) -> list[JsonArray]:
    """All arrays of a document in order."""
    if isinstance(value, JsonArray):
        return [value]
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [array for item in below for array in arrays(item)]


def taken(value: Any, datatype: str) -> Any:
    """The elements and shape of an array, or None where they are refused."""
    try:
        flat, shape = elements(value, "x", datatype)
    except GatewayError:
        return None
    return flat.dtype, flat.tolist(), [np.signbit(item) for item in flat if isinstance(item, np.floating)], shape


@untimed
@given(BODIES)
@example(b'{"a": [[1, 2], [3]], "b": [{"c": [[], [1]]}]}')
@example(b'{"a": [1, 18446744073709551616, -1]}')
@example(b'{"a": [[{}]], "b": [[], {}]}')
@example(b'{"a": 1, "a": 2}')
@example(b'{"a": {"b": 1, "b": [2]}, "c": "::"}')
@example(b'[{"a": [1]}, {"a": [1], "a": [2]}]')
def test_what_is_read_fast_is_what_the_strict_reading_finds(body: bytes) -> None:
    """Any text, JSON or not: the same objects, members and values, and of each array the same tensor, if one at all.

    Only an integer beyond 64 bits may be a float in an array, which makes the same numbers and no other tensor.
    """
    fast = small_value(body)
    if fast is None:
        return
    strict = parse_value(body)
    if not any(abs(number) >= 2**63 for number in _numbers(fast)):
        assert seen(fast) == seen(strict)
    found, expected = arrays(fast), arrays_like(fast, strict)
    for array, other in zip(found, expected, strict=True):
        for datatype in NUMPY_DTYPE:
            assert taken(array, datatype) == taken(other, datatype)


def arrays_like(fast: Any, strict: Any) -> list[Any]:
    """What the strict reading has in the places of the fast one's arrays: an array, or a list by Python's parser."""
    if isinstance(fast, JsonArray):
        return [strict]
    if isinstance(fast, dict):
        return [array for key, item in fast.items() for array in arrays_like(item, strict[key])]
    if isinstance(fast, list):
        return [array for item, other in zip(fast, strict, strict=True) for array in arrays_like(item, other)]
    return []


def _numbers(value: Any) -> list[float]:
    if isinstance(value, JsonArray):
        value = value.as_list()
    if isinstance(value, int | float):
        return [value]
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for item in below for number in _numbers(item)]


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": {"x": [[0.5, 1, -2e3]]}}',
        '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]}], "id": "7"}',
        '{"instances": [[1.5], [2.5]], "signature_name": null}',
        '{"instances": [{"x": [1.5]}, {"x": [2.5]}]}',
        "[[1.5, 2], [3, 4]]",
        "[]",
    ],
)
def test_ordinary_requests_are_read_fast(text: str) -> None:
    """Every protocol's usual small body; otherwise the fast reading would be of no use."""
    assert small_value(text.encode()) is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": [1, 2], "x": [3]}',
        b'{"x": "\\u0041"}',
        b'{"x": 1.5}',
        b'{"x": [[{"y": 1}]]}',
        b'{"x": [{"y": 1}, [2]]}',
        b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}",
        b'{"x": "' + b"y" * MAX_BYTES + b'"}',
        b"1",
        b"",
    ],
)
def test_what_is_uncertain_is_left_to_the_strict_reading(body: bytes) -> None:
    """Repeated keys, escapes, floats outside arrays, mixtures, depth, size, and everything that is no container."""
    assert small_value(body) is None


@pytest.mark.parametrize(("datatype", "text"), [("INT64", "[18446744073709551616]"), ("FP32", "[true, 1.5]")])
def test_refusals_are_worded_by_the_strict_reading(datatype: str, text: str) -> None:
    """The message of a short text is that of the same text at any length."""
    spec = TensorSpec("x", datatype, (-1,))
    details = []
    for filling in (b"", b" " * MAX_BYTES):
        body = b'{"x": ' + text.encode() + b"}" + filling
        with pytest.raises(GatewayError) as caught:
            read_object(body, lambda document: tensor_from_json(document["x"], spec))
        assert caught.value.cause is Cause.INVALID_INPUT
        details.append(caught.value.detail)
    assert details[0] == details[1]


def test_booleans_are_no_numbers() -> None:
    """numpy would count them among others."""
    document = small_value(b'{"x": [1.5, 2.5], "flag": true}')
    assert isinstance(document["x"], SmallArray)
    assert document["x"].numbers(np.dtype(np.float64)) is None
    assert elements(document["x"], "x", "FP64")[0].tolist() == [1.5, 2.5]
