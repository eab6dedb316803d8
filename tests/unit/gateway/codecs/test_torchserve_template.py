"""Tests of gateway.codecs.torchserve_template: which JSON a template makes of a request, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gateway.codecs.torchserve_template import DEFAULT_BODY, BodyTemplate
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec, TensorSpec
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE, Tensor
from tests.builders import tensor
from tests.contract.worlds import sample

X = TensorSpec("x", "FP32", (-1, 2))
NAME = TensorSpec("name", "BYTES", (-1,))
TWO_ROWS = tensor("x", [[1, 2], [3, 4.5]])
NAMES = Tensor("name", "BYTES", np.array([b"a", b"b"], object))


def made(template: object, *tensors: Tensor, specs: tuple[TensorSpec, ...] = (X,), **options: Any) -> Any:
    """The body that a template makes of some inputs, parsed as a handler in Python parses it."""
    options.setdefault("batched", True)
    return json.loads(BodyTemplate(template, specs, **options).body(InferenceRequest(ModelSpec("m"), tensors)))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEFAULT_BODY, {"inputs": {"x": [[1, 2], [3, 4.5]]}}),
        ({"instances": "$rows"}, {"instances": [[1, 2], [3, 4.5]]}),
        ("$rows", [[1, 2], [3, 4.5]]),
        ({"data": "$inputs.x"}, {"data": [[1, 2], [3, 4.5]]}),
        (
            {"instances": [{"data": "$row.x", "top": 3}]},
            {"instances": [{"data": [1, 2], "top": 3}, {"data": [3, 4.5], "top": 3}]},
        ),
        (["$row"], [[1, 2], [3, 4.5]]),
        ([["$row"]], [[[1, 2], [3, 4.5]]]),
        (["$inputs.x", 7], [[[1, 2], [3, 4.5]], 7]),
        (
            {"x": "$inputs.x", "n": None, "f": 0.5, "t": True, "$$": "$$row", "s": "5 $"},
            {"x": [[1, 2], [3, 4.5]], "n": None, "f": 0.5, "t": True, "$$": "$row", "s": "5 $"},
        ),
    ],
)
def test_templates_of_one_input(template: object, expected: object) -> None:
    """Whole, by rows, and beside constants; the shapes that TorchServe's documentation lists are among them."""
    assert made(template, TWO_ROWS) == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ({"instances": "$rows"}, {"instances": [{"x": [1, 2], "name": "a"}, {"x": [3, 4.5], "name": "b"}]}),
        (["$row"], [{"x": [1, 2], "name": "a"}, {"x": [3, 4.5], "name": "b"}]),
        ([{"who": "$row.name", "v": "$row.x"}], [{"who": "a", "v": [1, 2]}, {"who": "b", "v": [3, 4.5]}]),
        ({"x": "$inputs.x", "name": "$inputs.name|b64"}, {"x": [[1, 2], [3, 4.5]], "name": ["YQ==", "Yg=="]}),
        (
            [{"v": "$row.x", "name": {"b64": "$row.name|b64"}}],
            [{"v": [1, 2], "name": {"b64": "YQ=="}}, {"v": [3, 4.5], "name": {"b64": "Yg=="}}],
        ),
    ],
)
def test_templates_of_two_inputs(template: object, expected: object) -> None:
    """Each input has its place in every row; BYTES are text or base64."""
    assert made(template, TWO_ROWS, NAMES, specs=(X, NAME)) == expected


def test_one_row_a_request_needs_no_list() -> None:
    """Where rows are sent one by one, a row may stand anywhere, and whole inputs keep their dimension of rows."""
    row = tensor("x", [[1, 2]])
    assert made({"data": "$row.x"}, row, one_row=True) == {"data": [1, 2]}
    assert made({"data": "$row"}, row, one_row=True) == {"data": [1, 2]}
    assert made(["$row"], row, one_row=True) == [[1, 2]]
    assert made("$rows", row, one_row=True) == [[1, 2]]
    assert made("$inputs", row, one_row=True) == {"x": [[1, 2]]}


def test_no_rows_are_empty_lists() -> None:
    """An empty batch is sent as one."""
    empty = Tensor("x", "FP32", np.zeros((0, 2), np.float32))
    assert made({"a": "$rows", "b": [{"x": "$row.x"}], "c": "$inputs.x"}, empty) == {"a": [], "b": [], "c": []}


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_has_its_values(datatype: str) -> None:
    """Numbers as numbers, BOOL as true and false, BYTES as text."""
    x = sample(datatype)
    values = made("$rows", x, specs=(TensorSpec("x", datatype, (-1, 2)),))
    if datatype == "BYTES":
        values = [[text.encode() for text in row] for row in values]
    assert np.array(values, NUMPY_DTYPE[datatype]).tolist() == x.array.tolist()


def test_scalars_are_bare_values() -> None:
    """Rank 0 has no list."""
    assert made("$inputs", tensor("x", 2.5), specs=(TensorSpec("x", "FP32", ()),), batched=False) == {"x": 2.5}


def test_what_is_not_finite_is_written_as_python_reads_it() -> None:
    """A contract that allows NaN gets it through, in every part of a template and in 16 bits."""
    values = np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)
    text = BodyTemplate([{"v": "$row.x"}], (X,), batched=True).body(
        InferenceRequest(ModelSpec("m"), (Tensor("x", "FP32", values),))
    )
    assert text == b'[{"v": [NaN, Infinity]}, {"v": [-Infinity, 1.0]}]'
    half = Tensor("x", "BF16", values.astype(NUMPY_DTYPE["BF16"]))
    body = BodyTemplate("$rows", (TensorSpec("x", "BF16", (-1, 2)),), batched=True).body
    assert body(InferenceRequest(ModelSpec("m"), (half,))) == b"[[NaN, Infinity], [-Infinity, 1.0]]"


def test_bytes_that_are_no_text_need_base64() -> None:
    """They are refused before anything is sent, naming the input."""
    picture = Tensor("name", "BYTES", np.array([b"\xff\xd8"], object))
    with pytest.raises(GatewayError) as caught:
        made(["$row"], picture, specs=(NAME,))
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE
    assert "input 'name'" in caught.value.detail
    assert made(["$row|b64"], picture, specs=(NAME,)) == ["/9g="]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": "$inputs.y"}, "there is no 'y'; the contract has 'x', 'name'"),
        ({"a": "$outputs"}, r"unknown placeholder '\$outputs'; there are \$inputs and \$inputs.NAME, \$rows, \$row"),
        ({"a": "$rows.x"}, r"unknown placeholder '\$rows.x'"),
        ({"a": "$inputs.x|hex"}, "unknown placeholder"),
        ({"a": "$"}, "unknown placeholder"),
        ({"a": "$inputs.x"}, r"leaves out 'name'; write \$inputs.name"),
        ({"a": 1}, r"leaves out 'x', 'name'; write \$inputs.x, \$inputs.name"),
        ({"a": "$row"}, r"one row: write it inside a list of one item, such as \[\"\$row\"\], or batch: rows"),
        (["$row", 1], "one row: write it inside a list of one item"),
        ({"a": "$inputs|b64"}, r"base64 is for BYTES; leave out \|b64"),
    ],
)
def test_a_template_that_does_not_fit_says_what_to_write(template: object, message: str) -> None:
    """The placeholder and the remedy are named."""
    with pytest.raises(ValueError, match=message):
        BodyTemplate(template, (X, NAME), batched=True)


@pytest.mark.parametrize("template", ["$rows", ["$row"]])
def test_rows_need_a_batch(template: object) -> None:
    """A contract without batch_cap has no rows."""
    with pytest.raises(ValueError, match=r"has no batch_cap; write \$inputs.NAME"):
        BodyTemplate(template, (X,), batched=False)
