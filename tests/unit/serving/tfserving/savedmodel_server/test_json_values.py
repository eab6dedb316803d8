"""JSON values as tensors, dtype by dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2 as t

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.json_values import decimal, decimals, echo, tensor, uniform
from serving.tfserving.savedmodel_server.rapidjson import parse
from serving.tfserving.savedmodel_server.tensors import DATA_TYPES


@pytest.mark.parametrize(
    ("dtype", "body", "expected"),
    [
        (t.DT_FLOAT, b"[1, 2.5, 1e3, -0.1]", [1, 2.5, 1000, -0.1]),
        (t.DT_FLOAT, b"[NaN, Inf, -Infinity]", [math.nan, math.inf, -math.inf]),
        (t.DT_FLOAT, b"[16777215, 1e30]", [16777215, 1e30]),
        (t.DT_DOUBLE, b"[[9007199254740991], [1e300]]", [[9007199254740991], [1e300]]),
        (t.DT_DOUBLE, b"123456789012345678901234567890", 123456789012345678901234567890.0),
        (t.DT_INT32, b"[-2147483648, 2147483647]", [-(2**31), 2**31 - 1]),
        (t.DT_UINT8, b"[255, 300]", [255, 44]),
        (t.DT_INT8, b"[200]", [-56]),
        (t.DT_INT16, b"[-40000]", [25536]),
        (t.DT_INT64, b"[9223372036854775807]", [2**63 - 1]),
        (t.DT_UINT32, b"4294967295", 2**32 - 1),
        (t.DT_UINT64, b"[18446744073709551615]", [2**64 - 1]),
        (t.DT_BOOL, b"[[true], [false]]", [[True], [False]]),
        (t.DT_STRING, b'["a", {"b64": "/w=="}, {"b64": "/ w"}]', [b"a", b"\xff", b"\xff"]),
        (t.DT_FLOAT, b"[]", []),
        (t.DT_FLOAT, b"[[], []]", [[], []]),
        (t.DT_STRING, b"[[]]", [[]]),
    ],
)
def test_values_of_a_dtype(dtype: int, body: bytes, expected: Any) -> None:
    """The array has the signature's dtype and the nesting's shape."""
    array = tensor(parse(body), dtype)
    assert array.dtype == DATA_TYPES[dtype].dtype
    np.testing.assert_array_equal(array, np.array(expected, array.dtype))


@pytest.mark.parametrize(
    ("dtype", "body", "text"),
    [
        (t.DT_FLOAT, b'["x"]', 'JSON Value: "x" Type: String is not of expected type: float'),
        (t.DT_FLOAT, b"[true]", "JSON Value: true Type: True is not of expected type: float"),
        (t.DT_FLOAT, b"[null]", "JSON Value: null Type: Null is not of expected type: float"),
        (t.DT_FLOAT, b"[16777217]", "Cannot convert JSON value: 16777217 to float without loss of precision."),
        (t.DT_FLOAT, b"[1e39]", "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (t.DT_FLOAT, b"[NaN, 1e39]", "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        (t.DT_FLOAT, b"[1e999]", "JSON Parse error: Number too big to be stored in double."),
        (t.DT_DOUBLE, b"[9007199254740993]", "to double without loss of precision."),
        (t.DT_INT32, b"[1.0]", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (t.DT_INT32, b"[2147483648]", "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        (t.DT_INT32, b"[NaN]", "JSON Value: NaN Type: Number is not of expected type: int32"),
        (t.DT_UINT8, b"[1e1]", "is not of expected type: uint8"),
        (t.DT_UINT32, b"[-1]", "is not of expected type: uint32"),
        (t.DT_INT64, b"[9223372036854775808]", "is not of expected type: int64"),
        (t.DT_BOOL, b"[1]", "JSON Value: 1 Type: Number is not of expected type: bool"),
        (t.DT_STRING, b"[1]", "JSON Value: 1 Type: Number is not of expected type: string"),
        (t.DT_STRING, b'[{"b64": 1}]', "not formatted correctly for base64 data"),
        (t.DT_STRING, b'[{"b64": "*"}]', "Unable to base64 decode"),
        (t.DT_INT32, b'[{"b64": "/w=="}]', "Type: Object is not of expected type: int32"),
        (t.DT_FLOAT, b"[[1, 2], [3]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        (t.DT_FLOAT, b"[[], [1]]", "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        (t.DT_FLOAT, b"[1, [2]]", "Encountered list at unexpected level: 1 expected < 1"),
        (t.DT_FLOAT, b"[[1], 2]", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    ],
)
def test_what_is_refused(dtype: int, body: bytes, text: str) -> None:
    """TensorFlow Serving's texts, as INVALID_ARGUMENT."""
    with pytest.raises(ServingError) as caught:
        tensor(parse(body), dtype)
    assert caught.value.http_status == 400
    assert caught.value.message.endswith(text)


@pytest.mark.parametrize("dtype", [t.DT_HALF, t.DT_BFLOAT16, t.DT_UINT16, t.DT_COMPLEX64])
def test_dtypes_that_json_cannot_carry(dtype: int) -> None:
    """UNIMPLEMENTED, which is 501; a tensor without a value has nothing to refuse."""
    with pytest.raises(ServingError) as caught:
        tensor([1], dtype)
    assert caught.value.http_status == 501
    assert caught.value.message == f"Conversion of JSON Value: 1 to type: {DATA_TYPES[dtype].word}"
    assert tensor([], dtype).shape == (0,)


def test_too_many_dimensions_are_refused() -> None:
    """numpy and kernels have a limit."""
    value: Any = 1
    for _ in range(65):
        value = [value]
    with pytest.raises(ServingError, match="65 levels of lists"):
        tensor(value, t.DT_FLOAT)


@given(
    st.lists(
        st.lists(st.integers(-100, 100) | st.floats(width=32, allow_infinity=False), min_size=2, max_size=2), min_size=1
    )
)
def test_mixed_numbers_become_floats(rows: list[list[float]]) -> None:
    """Whole numbers and floats may be mixed, and nothing is lost."""
    np.testing.assert_array_equal(tensor(rows, t.DT_FLOAT), np.array(rows, np.float32))


def test_numbers_are_written_short_where_that_is_exact() -> None:
    """Six digits if they round-trip, else all; whole numbers end in .0; exponents as C writes them."""
    values = np.array([0.2, 1, -3, 1 / 3, 9e6, 1e-5, 123456789, 0, -0.0, np.nan, np.inf, -np.inf], np.float32)
    assert decimals(values) == [
        "0.2", "1.0", "-3.0", "0.333333343", "9e+06", "1e-05", "123456792.0", "0.0", "-0.0", "NaN", "Infinity",
        "-Infinity",
    ]  # fmt: skip
    assert decimal(1 / 3, t.DT_DOUBLE) == "0.33333333333333331"
    assert decimals(np.array([], np.float32)) == []


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_written_numbers_read_back(values: list[float]) -> None:
    """No digit that matters is lost."""
    flat = np.array(values, np.float32)
    texts = [text.replace("Infinity", "inf") for text in decimals(flat)]
    np.testing.assert_array_equal(np.array(texts, np.float64).astype(np.float32), flat)


def test_echoes_are_short() -> None:
    """A large value is cut, without being written out in full first."""
    assert echo({"a": [1]}) == '{\n    "a": [\n        1\n    ]\n}'
    assert len(echo(list(range(1_000_000)))) == 256
    assert len(echo("x" * 1_000_000)) == 256


@pytest.mark.parametrize("dtype", [t.DT_FLOAT, t.DT_STRING, t.DT_HALF])
def test_empty_lists_are_one_array(dtype: int) -> None:
    """Without a walk over them, of which there may be millions; whatever is irregular is looked at."""
    for value, shape in (([], (0,)), ([[], []], (2, 0)), ([[[]], [[]]], (2, 1, 0))):
        array = uniform(value, shape, dtype)
        assert array is not None
        assert (array.shape, array.dtype) == (shape, DATA_TYPES[dtype].dtype)
    assert uniform([[], [1]], (2, 0), dtype) is None
    with pytest.raises(ServingError, match="Encountered list at unexpected size: 1 at level: 1 expected size: 0"):
        tensor([[], [1]], dtype)
