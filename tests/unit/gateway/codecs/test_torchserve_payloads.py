"""Tests of gateway.codecs.torchserve_payloads: bodies in every payload, batches by rows, and answers joined again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.torchserve_payloads import Framed, Payload, payload_of
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec, TensorSpec
from gateway.core.tensor import Tensor
from tests.builders import contract, tensor
from tests.contract.worlds import sample

PICTURE = contract(inputs=(TensorSpec("picture", "BYTES", (-1,)),), outputs=(TensorSpec("text", "BYTES", (-1,)),))
X = contract()


def asked(*tensors: Tensor) -> InferenceRequest:
    """A request to version 2."""
    return InferenceRequest(ModelSpec("m", 2), tensors, id="mine")


def pictures(*items: bytes) -> Tensor:
    """A batch of encoded pictures."""
    return Tensor("picture", "BYTES", np.array(items, object))


def failure(call: Any, *arguments: Any) -> GatewayError:
    """The error of a call."""
    with pytest.raises(GatewayError) as caught:
        call(*arguments)
    return caught.value


def test_the_frame_is_the_default() -> None:
    """Our own handler needs no description."""
    assert isinstance(payload_of(X), Framed)
    assert (Framed().content_type, Framed().grpc_key) == ("application/octet-stream", "frame")


def test_a_json_batch_is_one_request_unless_it_shall_be_rows() -> None:
    """Whole: one body of two rows; by rows: two bodies, whose answers are joined in order."""
    request = asked(tensor("x", [[1, 2], [3, 4]]))
    whole = payload_of(X, payload="json")
    assert (whole.content_type, whole.grpc_key) == ("application/json", "data")
    assert [whole.encode(part) for part in whole.requests(request)] == [b'{"inputs":{"x":[[1.0,2.0],[3.0,4.0]]}}']
    rows = payload_of(X, payload="json", template={"data": "$row.x"}, batch="rows", grpc_key="body")
    parts = rows.requests(request)
    assert rows.grpc_key == "body"
    assert [rows.encode(part) for part in parts] == [b'{"data":[1.0,2.0]}', b'{"data":[3.0,4.0]}']
    answers = [rows.decode(reply, part) for reply, part in zip((b"[2, 4]", b"[[6, 8]]"), parts, strict=True)]
    joined = rows.joined(answers, request)
    assert (joined.version, joined.id) == (2, "mine")
    assert joined.outputs[0].array.tolist() == [[2, 4], [6, 8]]


def test_an_empty_batch_by_rows_asks_nobody() -> None:
    """Its outputs have no rows."""
    rows = payload_of(X, payload="json", batch="rows")
    request = asked(Tensor("x", "FP32", np.zeros((0, 2), np.float32)))
    assert rows.requests(request) == []
    (y,) = rows.joined([], request).outputs
    assert (y.shape, y.datatype) == ((0, 2), "FP32")


def test_rows_that_differ_in_shape_are_a_bad_reply() -> None:
    """What one row's answer has more than another's cannot be one tensor."""
    wide = contract(outputs=(TensorSpec("y", "FP32", (-1, -1)),))
    rows = payload_of(wide, payload="json", batch="rows")
    request = asked(tensor("x", [[1, 2], [3, 4]]))
    answers = [
        rows.decode(reply, part) for reply, part in zip((b"[2]", b"[6, 8]"), rows.requests(request), strict=True)
    ]
    assert failure(rows.joined, answers, request).cause is Cause.UPSTREAM_BAD_REPLY


def test_raw_sends_one_element_a_request() -> None:
    """An encoded picture is the body as it is, and the answer is the text as it is."""
    raw = payload_of(PICTURE, payload="raw", content_type="image/png")
    parts = raw.requests(asked(pictures(b"\x89PNG", b"\xff\xd8")))
    assert (raw.content_type, raw.grpc_key) == ("image/png", "data")
    assert [raw.encode(part) for part in parts] == [b"\x89PNG", b"\xff\xd8"]
    answers = [raw.decode(reply, part) for reply, part in zip((b"a cat", b'{"a": "dog"}'), parts, strict=True)]
    assert raw.joined(answers, asked()).outputs[0].array.tolist() == [b"a cat", b'{"a": "dog"}']


def test_raw_sends_numbers_in_their_own_width() -> None:
    """Each row's little-endian values, or all of them at once."""
    request = asked(tensor("x", [[1, 2], [3, 4]]))
    rows, whole = payload_of(X, payload="raw"), payload_of(X, payload="raw", batch="whole")
    values = np.array([[1, 2], [3, 4]], "<f4")
    assert [rows.encode(part) for part in rows.requests(request)] == [values[0].tobytes(), values[1].tobytes()]
    assert [whole.encode(part) for part in whole.requests(request)] == [values.tobytes()]
    assert whole.decode(b'{"predictions": [[2, 4], [6, 8]]}', request).outputs[0].array.tolist() == [[2, 4], [6, 8]]
    assert whole.decode(b"[[2, 4], [6, 8]]", request).version == 2


def test_raw_refuses_several_elements() -> None:
    """They would run into one another."""
    loose = contract(inputs=(TensorSpec("x", "BYTES", (-1, -1)),))
    raw = payload_of(loose, payload="raw")
    (part, *_) = raw.requests(asked(sample("BYTES")))
    error = failure(raw.encode, part)
    assert error.cause is Cause.UNSUPPORTED_DATATYPE
    assert "input 'x' has 2 elements" in error.detail


@pytest.mark.parametrize(
    ("its", "fields", "message"),
    [
        (contract(batch_cap=None), {"payload": "json", "batch": "rows"}, "needs a contract with batch_cap"),
        (
            contract(inputs=(*X.inputs, *PICTURE.inputs)),
            {"payload": "raw"},
            "sends one input, .* 'x', 'picture'; write payload: json",
        ),
        (contract(inputs=(TensorSpec("s", "BYTES", (-1, 2)),)), {"payload": "raw"}, "sends one BYTES element"),
        (X, {"payload": "json", "template": "$inputs.y"}, "there is no 'y'"),
        (X, {"payload": "json", "reply": "$outputs.z"}, "there is no 'z'"),
    ],
)
def test_what_does_not_fit_the_contract_says_what_to_write(its: Any, fields: dict[str, Any], message: str) -> None:
    """Before anything is served."""
    with pytest.raises(ValueError, match=message):
        payload_of(its, **fields)


def outcome(payload: Payload, reply: bytes, request: InferenceRequest) -> int | Cause:
    """How many outputs an answer has, or why it is none."""
    try:
        return len(payload.decode(reply, request).outputs)
    except GatewayError as exc:
        return exc.cause


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["y", "sum", "outputs", "predictions", "error"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=64) | JSON_VALUES.map(lambda value: json.dumps(value).encode()), st.integers(0, 3))
def test_no_answer_raises_anything_but_a_cause(reply: bytes, rows: int) -> None:
    """A handler can send what it likes."""
    request = asked(Tensor("x", "FP32", np.zeros((rows, 2), np.float32)))
    several = contract(outputs=(*X.outputs, TensorSpec("sum", "INT64", (-1,))), class_labels=("a", "b"))
    for its in (X, several, contract(outputs=PICTURE.outputs)):
        payload = payload_of(its, payload="json")
        assert outcome(payload, reply, request) in (
            len(its.outputs),
            Cause.UPSTREAM_BAD_REPLY,
            Cause.UPSTREAM_FAILED,
        )


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2), max_size=4)
)
def test_what_goes_out_in_json_can_come_back(values: list[list[float]]) -> None:
    """An identity handler's answer is the input, to the bit, by rows and whole."""
    x = Tensor("x", "FP32", np.array(values, np.float32).reshape(-1, 2))
    identity = contract(outputs=(TensorSpec("x", "FP32", (-1, 2)),))
    rows = [{"x": "$row.x"}]
    for template, reply in (({"a": "$inputs"}, {"a": "$outputs"}), ({"a": "$rows"}, {"a": "$rows"}), (rows, rows)):
        payload = payload_of(identity, payload="json", template=template, reply=reply)
        (output,) = payload.decode(payload.encode(asked(x)), asked(x)).outputs
        assert output.array.tobytes() == x.array.tobytes()
