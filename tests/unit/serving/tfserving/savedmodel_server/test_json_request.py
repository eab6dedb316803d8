"""Bodies of REST predict calls: row form, column form, and the order of the checks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2 as t

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.json_request import parse

ONE = {"x": t.DT_FLOAT}
TWO = {"a": t.DT_FLOAT, "b": t.DT_INT64}
WORDS = {"words": t.DT_STRING}


def tensors(body: Any, dtypes: dict[str, int]) -> dict[str, Any]:
    """The inputs of a body as nested lists."""
    return {name: array.tolist() for name, array in parse(json.dumps(body).encode()).tensors(dtypes).items()}


@pytest.mark.parametrize(
    ("body", "dtypes", "expected"),
    [
        ({"instances": [1, 2]}, ONE, {"x": [1, 2]}),
        ({"instances": [[1, 2], [3, 4]]}, ONE, {"x": [[1, 2], [3, 4]]}),
        ({"instances": [{"x": [1]}, {"x": [2]}]}, ONE, {"x": [[1], [2]]}),
        ({"instances": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]}, TWO, {"a": [1, 3], "b": [2, 4]}),
        ({"instances": [{"b64": "YQ=="}, "b"]}, WORDS, {"words": [b"a", b"b"]}),
        ({"instances": [{"words": {"b64": "YQ=="}}]}, WORDS, {"words": [b"a"]}),
        ({"instances": [["a"], ["b"]]}, WORDS, {"words": [[b"a"], [b"b"]]}),
        ({"inputs": 5}, ONE, {"x": 5}),
        ({"inputs": {"x": [[1]]}}, ONE, {"x": [[1]]}),
        ({"inputs": [[1, 2]]}, ONE, {"x": [[1, 2]]}),
        ({"inputs": {"b64": "YQ=="}}, WORDS, {"words": b"a"}),
        ({"inputs": {"a": [1, 2], "b": 3, "extra": "ignored"}}, TWO, {"a": [1, 2], "b": 3}),
        ({"inputs": [1], "unknown": 1, "signature_name": "s"}, ONE, {"x": [1]}),
    ],
)
def test_both_forms(body: Any, dtypes: dict[str, int], expected: dict[str, Any]) -> None:
    """Rows are stacked; columns keep the shape they are nested in."""
    assert tensors(body, dtypes) == expected


def test_the_form_of_the_request_is_the_form_of_the_answer() -> None:
    """`instances` asks for rows."""
    assert parse(b'{"instances": [1]}').row
    assert not parse(b'{"inputs": [1]}').row
    assert parse(b'{"signature_name": "s"}').signature_name == "s"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([1], "JSON Value: [\n    1\n] Is not object"),
        (
            {"signature_name": 1},
            'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
    ],
)
def test_what_is_refused_before_the_model_is_looked_at(body: Any, text: str) -> None:
    """Neither needs the signature."""
    with pytest.raises(ServingError) as caught:
        parse(json.dumps(body).encode())
    assert caught.value.message == text


ROW = "Failed to process element: "


@pytest.mark.parametrize(
    ("body", "dtypes", "text"),
    [
        ({}, ONE, "Missing 'inputs' or 'instances' key"),
        ({}, {}, "Failed to get input map for signature: DEFAULT"),
        (
            {"inputs": 1, "instances": [1]},
            ONE,
            "} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        ({"instances": 1}, ONE, "} Expecting 'instances' to be an list/array"),
        ({"instances": []}, ONE, "} No values in 'instances' array"),
        (
            {"instances": [1]},
            TWO,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (
            {"inputs": [1]},
            TWO,
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        ({"inputs": {"a": 1}}, TWO, "Missing named input: b in 'inputs' object."),
        ({"inputs": {"y": 1}}, ONE, "Missing named input: x in 'inputs' object."),
        (
            {"instances": [1, "x"]},
            ONE,
            f"{ROW}1 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "x" Type: String is not of expected type: float',
        ),
        (
            {"instances": [{"x": "y"}]},
            ONE,
            f"{ROW}0 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "y" Type: String is not of expected type: float',
        ),
        (
            {"instances": [{"x": 1, "z": 1}]},
            ONE,
            f"{ROW}0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
        (
            {"instances": [{"a": 1}]},
            TWO,
            f"{ROW}0 of 'instances' list. JSON object: {{\n    \"a\": 1\n}} keys must be equal to: a,b",
        ),
        (
            {"instances": [[1, 2], [1, 2, 3]]},
            ONE,
            f"{ROW}1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 3",
        ),
        (
            {"instances": [[1, 2], [[1, 2]]]},
            ONE,
            f"{ROW}1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]",
        ),
        ({"instances": [1, {"x": 1}]}, ONE, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"x": 1}, 1]}, ONE, "Expecting object but got list at item 1 of input list"),
    ],
)
def test_what_is_refused(body: Any, dtypes: dict[str, int], text: str) -> None:
    """TensorFlow Serving's texts."""
    with pytest.raises(ServingError) as caught:
        tensors(body, dtypes)
    assert caught.value.http_status == 400
    assert caught.value.message.endswith(text)


def test_a_dtype_that_json_cannot_carry_is_501_in_columns_only() -> None:
    """Rows wrap every error into INVALID_ARGUMENT."""
    for body, status in (({"inputs": [1]}, 501), ({"instances": [1]}, 400)):
        with pytest.raises(ServingError) as caught:
            tensors(body, {"x": t.DT_HALF})
        assert caught.value.http_status == status


def test_odd_rows_give_the_same_tensor_as_plain_ones() -> None:
    """The row by row way and the way at once agree."""
    plain = parse(b'{"instances": [[1, 2], [3, 4]]}').tensors(ONE)["x"]
    odd = parse(b'{"instances": [[1, 2], [3, NaN]]}').tensors(ONE)["x"]
    assert (odd.shape, odd.dtype) == (plain.shape, plain.dtype)
    np.testing.assert_array_equal(odd[0], plain[0])
