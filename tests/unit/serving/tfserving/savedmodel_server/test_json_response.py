"""Bodies of REST answers, to the byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2 as t

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.json_response import Output, error_body, render


def floats(values: Any) -> Output:
    """A DT_FLOAT output."""
    return Output(np.array(values, np.float32), t.DT_FLOAT)


def strings(*values: bytes) -> Output:
    """A DT_STRING output with one dimension."""
    return Output(np.array(values, object), t.DT_STRING)


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ({"y": floats([2.5, 3])}, b'{\n    "predictions": [2.5, 3.0\n    ]\n}'),
        ({"y": floats([[1, 2], [3, 4]])}, b'{\n    "predictions": [[1.0, 2.0], [3.0, 4.0]\n    ]\n}'),
        ({"y": floats([[[1]], [[2]]])}, b'{\n    "predictions": [[[1.0]], [[2.0]]\n    ]\n}'),
        ({"y": floats(np.zeros((2, 0)))}, b'{\n    "predictions": [[], []\n    ]\n}'),
        ({"y": floats([])}, b'{\n    "predictions": []\n}'),
        (
            {"a": floats([1, 2]), "b": floats([[3], [4]])},
            b'{\n    "predictions": [\n        {\n            "a": 1.0,\n            "b": [3.0]\n        },\n'
            b'        {\n            "a": 2.0,\n            "b": [4.0]\n        }\n    ]\n}',
        ),
        (
            {"y_bytes": strings(b"a", b"\xff")},
            b'{\n    "predictions": [{\n            "b64": "YQ=="\n        }, {\n            "b64": "/w=="\n        }\n'
            b"    ]\n}",
        ),
    ],
)
def test_rows(outputs: dict[str, Output], body: bytes) -> None:
    """Arrays on one line; names only where there are several outputs."""
    assert render(outputs, row=True) == body


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ({"y": floats(5)}, b'{\n    "outputs": 5.0\n}'),
        (
            {"y": floats([[1], [2]])},
            b'{\n    "outputs": [\n        [\n            1.0\n        ],\n        [\n            2.0\n'
            b"        ]\n    ]\n}",
        ),
        (
            {"y": floats([np.nan, np.inf, -np.inf])},
            b'{\n    "outputs": [\n        NaN,\n        Infinity,\n        -Infinity\n    ]\n}',
        ),
        (
            {"a": floats([1]), "b": Output(np.array([True, False]), t.DT_BOOL)},
            b'{\n    "outputs": {\n        "a": [\n            1.0\n        ],\n        "b": [\n            true,\n'
            b"            false\n        ]\n    }\n}",
        ),
        (
            {"y": strings(b'"\xc3\xa4\n', b"\xff")},
            b'{\n    "outputs": [\n        "\\"\xc3\xa4\\n",\n        "\xff"\n    ]\n}',
        ),
        ({"y": Output(np.array(2**64 - 1, np.uint64), t.DT_UINT64)}, b'{\n    "outputs": 18446744073709551615\n}'),
        ({"y": floats(np.zeros((0, 3)))}, b'{\n    "outputs": []\n}'),
        (
            {"x_bytes": Output(np.array(b"a", object), t.DT_STRING)},
            b'{\n    "outputs": {\n        "b64": "YQ=="\n    }\n}',
        ),
    ],
)
def test_columns(outputs: dict[str, Output], body: bytes) -> None:
    """One value a line; a string that is not UTF-8 goes out as it is."""
    assert render(outputs, row=False) == body


@pytest.mark.parametrize(
    ("outputs", "row", "text"),
    [
        ({}, False, "Cannot convert empty tensor map to JSON"),
        ({"y": floats(1)}, True, "Tensor name: y has no shape information "),
        (
            {"x": floats([1, 2, 3]), "y": floats([1, 2])},
            True,
            "Tensor name: y has inconsistent batch size: 2 expecting: 3",
        ),
        (
            {"y": Output(np.ones(1, np.float16), t.DT_HALF)},
            False,
            "Failed to write JSON value for tensor type: half",
        ),
    ],
)
def test_what_json_cannot_carry(outputs: dict[str, Output], row: bool, text: str) -> None:
    """INVALID_ARGUMENT with TensorFlow Serving's texts."""
    with pytest.raises(ServingError) as caught:
        render(outputs, row=row)
    assert (caught.value.http_status, caught.value.message) == (400, text)


def test_an_error_is_one_member() -> None:
    """Whatever the text holds, the body is JSON."""
    assert error_body(invalid('no "x"\n')) == b'{\n    "error": "no \\"x\\"\\n"\n}'
