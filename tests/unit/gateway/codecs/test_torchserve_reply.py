"""Tests of gateway.codecs.torchserve_reply: handlers' answers in all their forms, as the contract's outputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gateway.codecs.torchserve_reply import ReplyReader
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import DATATYPES
from tests.builders import contract
from tests.contract.worlds import sample

Y = TensorSpec("y", "FP32", (-1, 2))
SUM = TensorSpec("sum", "INT64", (-1,))
ONE = contract("one", outputs=(Y,))
TWO = contract("two", outputs=(Y, SUM))
Y_ROWS = [[1, 2], [3, 4.5]]
BOTH = {"y": Y_ROWS, "sum": [3, 7]}
ROWS = [{"y": [1, 2], "sum": 3}, {"y": [3, 4.5], "sum": 7}]


def read(its: ModelContract, answer: object, rows: int | None = 2, template: object = None) -> dict[str, Any]:
    """The outputs that an answer holds, as lists."""
    reply = answer if isinstance(answer, bytes) else json.dumps(answer, indent=2).encode()
    tensors = ReplyReader(template, its).read(reply, rows)
    assert [(tensor.name, tensor.datatype) for tensor in tensors] == [(s.name, s.datatype) for s in its.outputs]
    return {tensor.name: tensor.array.tolist() for tensor in tensors}


def failure(its: ModelContract, answer: object, template: object = None) -> GatewayError:
    """The error that an answer to two rows ends in."""
    with pytest.raises(GatewayError) as caught:
        read(its, answer, 2, template)
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        Y_ROWS,
        {"outputs": {"y": Y_ROWS}},
        {"outputs": Y_ROWS},
        {"predictions": Y_ROWS},
        {"y": Y_ROWS},
        [{"y": row} for row in Y_ROWS],
        {"predictions": [{"y": row} for row in Y_ROWS]},
        {"y": Y_ROWS, "took": 3},
    ],
    ids=str,
)
def test_the_usual_forms_of_one_output(answer: object) -> None:
    """With and without its name, whole and by rows."""
    assert read(ONE, answer) == {"y": Y_ROWS}


@pytest.mark.parametrize(
    "answer", [BOTH, {"outputs": BOTH}, {"predictions": ROWS}, ROWS, {"outputs": ROWS}, {"predictions": BOTH}], ids=str
)
def test_the_usual_forms_of_several_outputs(answer: object) -> None:
    """By name, and by rows of names."""
    assert read(TWO, answer) == BOTH


def test_one_row_may_come_without_its_dimension() -> None:
    """A handler that answers one item answers one row."""
    assert read(ONE, [1, 2], rows=1) == {"y": [[1, 2]]}
    assert read(ONE, [[1, 2]], rows=1) == {"y": [[1, 2]]}
    assert read(TWO, {"y": [1, 2], "sum": 3}, rows=1) == {"y": [[1, 2]], "sum": [3]}
    assert read(contract(outputs=(SUM,)), 7, rows=1) == {"sum": [7]}


def test_no_rows_and_no_batch() -> None:
    """An empty answer has the contract's other dimensions; a model without rows is read as it is."""
    for answer in ([], {"predictions": []}, {"outputs": {"y": [], "sum": []}}):
        assert read(TWO, answer, rows=0) == {"y": [], "sum": []}
    (y, _) = ReplyReader(None, TWO).read(b"[]", 0)
    assert y.shape == (0, 2)
    scalar = contract(outputs=(TensorSpec("s", "FP64", ()),), batch_cap=None)
    assert read(scalar, 2.5, rows=None) == {"s": 2.5}
    assert read(scalar, {"s": 2.5}, rows=None) == {"s": 2.5}


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_is_the_contracts(datatype: str) -> None:
    """JSON's numbers become what the contract says."""
    x = sample(datatype).array
    listed = [[item.decode() for item in row] for row in x] if datatype == "BYTES" else x.astype("f8").tolist()
    if datatype == "BOOL":
        listed = x.tolist()
    elif "INT" in datatype:
        listed = x.astype("i8").tolist()
    its = contract(outputs=(TensorSpec("y", datatype, (-1, 2)),))
    (y,) = ReplyReader(None, its).read(json.dumps(listed).encode(), 3)
    assert y.array.dtype == x.dtype
    assert y.array.tolist() == x.tolist()


def test_tokens_of_pythons_json_are_read() -> None:
    """Whether NaN is allowed is the contract's question, asked later."""
    (y,) = ReplyReader(None, ONE).read(b"[[NaN, Infinity], [1, 2]]", 2)
    np.testing.assert_array_equal(y.array, [[np.nan, np.inf], [1, 2]])


LABELLED = contract(outputs=(TensorSpec("p", "FP32", (-1, 2)),), class_labels=("cat", "dog"))
BEST = contract(outputs=(TensorSpec("class", "BYTES", (-1, 2)), TensorSpec("p", "FP32", (-1, 2))))


def test_classes_with_probabilities() -> None:
    """As TorchServe's own classifiers answer: all classes in the contract's order, or names and values side by side."""
    assert read(LABELLED, {"dog": 0.25, "cat": 0.75}, rows=1) == {"p": [[0.75, 0.25]]}
    assert read(LABELLED, [{"dog": 0.25, "cat": 0.75}, {"cat": 1, "dog": 0}]) == {"p": [[0.75, 0.25], [1, 0]]}
    found = read(BEST, {"tabby": 0.5, "lynx": 0.25}, rows=1)
    assert found == {"class": [[b"tabby", b"lynx"]], "p": [[0.5, 0.25]]}
    found = read(BEST, {"predictions": [{"a": 0.5, "b": 0.25}, {"c": 1, "d": 0}]})
    assert found == {"class": [[b"a", b"b"], [b"c", b"d"]], "p": [[0.5, 0.25], [1, 0]]}


def test_classes_that_are_left_out_are_not_invented() -> None:
    """The best five of a thousand are not the thousand; the message says which contract fits."""
    error = failure(LABELLED, [{"cat": 0.75}, {"cat": 1}])
    assert error.cause is Cause.UPSTREAM_BAD_REPLY
    assert "needs a contract with two outputs" in error.detail
    assert failure(BEST, [{"a": 0.5, "b": 0.25}, {"c": 1}]).cause is Cause.UPSTREAM_BAD_REPLY


TEXT = contract(outputs=(TensorSpec("text", "BYTES", (-1,)),))


@pytest.mark.parametrize(
    ("answer", "text"),
    [(b"a cat", b"a cat"), (b"42", b"42"), (b"\xff\xd8", b"\xff\xd8"), (b'"cat"', b"cat"), (b'["cat"]', b"cat")],
)
def test_a_text_is_the_one_element(answer: bytes, text: bytes) -> None:
    """A handler that returns str or bytes sends no JSON."""
    assert read(TEXT, answer, rows=1) == {"text": [text]}


def test_a_text_is_no_number() -> None:
    """Where the contract wants tensors, what is no JSON is no answer."""
    for answer in (b"a cat", b"", b"\xff\xd8"):
        assert failure(ONE, answer).cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    "answer",
    [
        {"y": Y_ROWS},
        Y_ROWS,
        {"outputs": Y_ROWS},
        {"predictions": Y_ROWS},
        [1, {"y": [1, 2], "sum": 3}],
        5,
        "text",
        None,
        {},
        [{}],
        {"outputs": 7},
        {"y": [[1], [2, 3]], "sum": [1, 2]},
        {"y": [["a", "b"]], "sum": [1]},
        {"y": Y_ROWS, "sum": [0.5, 1]},
        {"y": None, "sum": None},
        [{"y": [1, 2], "sum": 3}, {"y": [1, 2]}],
    ],
    ids=str,
)
def test_anything_else_is_a_bad_reply(answer: object) -> None:
    """Whatever a handler sends, it is the server's fault, and says what was expected."""
    error = failure(TWO, answer)
    assert error.cause is Cause.UPSTREAM_BAD_REPLY
    assert len(error.detail) <= 512


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ({"code": 400, "type": "BadRequestException", "message": "no"}, Cause.UPSTREAM_REJECTED),
        ({"code": 503, "type": "InternalServerException", "message": "no"}, Cause.UPSTREAM_FAILED),
        ({"error": "no"}, Cause.UPSTREAM_FAILED),
    ],
)
def test_an_error_in_the_body_is_one(answer: object, cause: Cause) -> None:
    """Over gRPC nothing else is left of a handler's status."""
    error = failure(TWO, answer)
    assert (error.cause, error.detail) == (cause, "no")


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (
            {"result": {"scores": "$outputs.y", "total": "$outputs.sum"}},
            {"result": {"scores": Y_ROWS, "total": [3, 7], "ms": 4}},
        ),
        ({"result": "$outputs"}, {"result": BOTH}),
        ({"result": "$rows"}, {"result": ROWS}),
        (
            {"ok": True, "items": [{"a": "$row.y", "b": {"c": "$row.sum"}}]},
            {"ok": True, "items": [{"a": row["y"], "b": {"c": row["sum"]}} for row in ROWS]},
        ),
        (["$outputs.y", "$outputs.sum"], [Y_ROWS, [3, 7]]),
    ],
    ids=str,
)
def test_templates_say_where_outputs_stand(template: object, answer: object) -> None:
    """Names may differ, and whatever else an answer holds is left aside."""
    assert read(TWO, answer, template=template) == BOTH


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": False, "items": ROWS},
        {"items": ROWS},
        {"ok": True, "items": 5},
        {"ok": True, "items": [5]},
        [],
        {"ok": True, "items": [{"y": [1, 2]}]},
    ],
    ids=str,
)
def test_an_answer_that_does_not_fit_its_template(answer: object) -> None:
    """It is a bad reply that names what `reply` expects."""
    template = {"ok": True, "items": [{"y": "$row.y", "sum": "$row.sum"}]}
    assert failure(TWO, answer, template).cause is Cause.UPSTREAM_BAD_REPLY


def test_rows_of_templates_may_be_none() -> None:
    """An empty batch fits a list of rows."""
    assert read(TWO, {"items": []}, 0, {"items": [{"y": "$row.y", "sum": "$row.sum"}]}) == {"y": [], "sum": []}
    assert read(ONE, {"items": [[1, 2], [3, 4.5]]}, 2, {"items": ["$row"]}) == {"y": Y_ROWS}


def test_base64_and_whole_bodies() -> None:
    """Bytes come in base64, or are the answer itself; fixed widths in their raw values."""
    assert read(TEXT, {"t": ["/9g="]}, 1, {"t": "$outputs.text|b64"}) == {"text": [b"\xff\xd8"]}
    assert failure(TEXT, {"t": ["?"]}, {"t": "$outputs.text|b64"}).cause is Cause.UPSTREAM_BAD_REPLY
    assert read(TEXT, b'{"a": 1}', 1, "$body") == {"text": [b'{"a": 1}']}
    raw = np.array(Y_ROWS, "<f4").tobytes()
    assert read(ONE, raw, 2, "$body") == {"y": Y_ROWS}
    wide = contract(outputs=(TensorSpec("y", "FP32", (-1, -1)),))
    assert read(wide, raw, 2, "$body") == {"y": Y_ROWS}
    assert failure(ONE, raw[:-1], "$body").cause is Cause.UPSTREAM_BAD_REPLY


@pytest.mark.parametrize(
    ("its", "template", "message"),
    [
        (TWO, {"a": "$outputs.z"}, "there is no 'z'; the contract has 'y', 'sum'"),
        (TWO, {"a": "$inputs"}, r"unknown placeholder '\$inputs'"),
        (TWO, {"a": "$outputs.y"}, r"leaves out 'sum'; write \$outputs.sum"),
        (TWO, {"a": "$row"}, "one row: write it inside a list of one item"),
        (TWO, {"a": "$body"}, "the whole answer: write it alone"),
        (TWO, "$body", "is one output, and the contract has 'y', 'sum'"),
        (TWO, "$outputs|b64", "base64 is for BYTES"),
        (contract(outputs=(TensorSpec("t", "BYTES", (-1, 2)),)), "$body", "is one element"),
        (contract(outputs=(TensorSpec("t", "FP32", (-1, -1, -1)),)), "$body", "does not tell the shape"),
    ],
)
def test_a_template_that_does_not_fit_says_what_to_write(its: ModelContract, template: object, message: str) -> None:
    """The placeholder and the remedy are named."""
    with pytest.raises(ValueError, match=message):
        ReplyReader(template, its)
