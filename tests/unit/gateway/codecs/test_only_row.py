"""Documents that are but one row: read and written in one step, with nothing told but what the general way tells."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import predict_json, tfserving_json
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, ServedBy, TensorSpec
from gateway.core.tensor import Tensor
from tests.builders import tensor
from tests.unit.gateway.codecs.tensors import assert_same

Y = TensorSpec("y", "FP32", (-1, 2))
VALUES = ("1", "0.1", "-2.5e3", "1e39", "1e999", "NaN", "true", "null", '"1"', "[1]", "{}", "9" * 20, "-0.0", "1.", "")
ROWS = [f"[[{first}, 2]]" for first in VALUES]
BODIES = [
    *(f'{{"inputs": {row}}}' for row in ROWS),
    *(f'{{"inputs": {{"x": {row}}}}}' for row in ROWS),
    *(f'{{"inputs":{{"x":{row}}}}}' for row in ROWS),
    '{"inputs": [[1, 2]], "inputs": [[3, 4]]}',
    '{"inputs": [[1, 2]], "id": "7"}',
    '{"inputs": {"x": [[1, 2]], "x": [[3, 4]]}}',
    '{"inputs": {"x": [[1, 2]]}, "id": "7"}',
    '{"inputs": {"x": [[1, 2]]}, "other": {}}',
    '{"inputs": {"y": [[1, 2]]}}',
    '{"inputs": [[1, 2], [3, 4]]}',
    '{"inputs": [1, 2]}',
    '{"inputs": [[1, 2, 3]]}',
    '{"inputs": [[]]}',
    '{"inputs": []}',
    '{"inputs": [[1, 2]]}}',
    '{"inputs": [[1, 2]]',
    '{"inputs": }',
    '{"inputs":}',
    '{"inputs": {"x": }}',
    '{"inputs": [[1, 2]]} ',
    '{"inputs":\n[[1, 2]]\n}',
    '{"inputs": [[1, 2]]\x00}',
]


def told(read: Callable[[], InferenceRequest | InferenceResponse]) -> tuple[Any, ...]:
    """What reading gives, or is refused for."""
    try:
        found = read()
    except GatewayError as exc:
        # Where the text breaks off is one further with a space in front of it.
        return exc.cause, re.sub(r"\d+", "", exc.detail)
    tensors = found.inputs if isinstance(found, InferenceRequest) else found.outputs
    return found.model, found.id, [(item.name, item.datatype, item.shape, item.array.tobytes()) for item in tensors]


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT32", "UINT64", "FP16", "BOOL", "BYTES"])
@pytest.mark.parametrize("shape", [(-1, 2), (-1,), (-1, 1, 2)])
def test_a_request_of_one_row_is_read_as_any_other(datatype: str, shape: tuple[int, ...]) -> None:
    """A space in front is read the general way; that comes first, and makes the row's length one that was seen."""
    contract = ModelContract("m", 1, (TensorSpec("x", datatype, shape),), (Y,), batch_cap=8)

    def read(text: bytes) -> tuple[Any, ...]:
        return told(lambda: predict_json.decode_request(text, lambda _: contract, "m"))

    for body in BODIES:
        general = read(b" " + body.encode())
        assert read(body.encode()) == general, body


def test_an_unknown_model_is_told_where_the_body_is_in_order() -> None:
    """And what is wrong with the body where it is not, as ever."""

    def unknown(_: str) -> ModelContract:
        raise GatewayError(Cause.MODEL_NOT_FOUND, "no such model")

    for body, cause in ((b'{"inputs": [[1, 2]]}', Cause.MODEL_NOT_FOUND), (b'{"inputs": [[1, 2}', Cause.UNPARSEABLE)):
        with pytest.raises(GatewayError) as caught:
            predict_json.decode_request(body, unknown, "m")
        assert caught.value.cause is cause


@pytest.mark.parametrize("begin", ['{"outputs":', '{\n    "outputs": '])
@pytest.mark.parametrize("row", ROWS)
def test_a_reply_of_one_row_is_read_as_any_other(row: str, begin: str) -> None:
    """TensorFlow Serving's own layout, and the shortest one."""
    request = InferenceRequest(ModelSpec("m", version=2), (), id="7")

    def read(text: str) -> tuple[Any, ...]:
        return told(lambda: tfserving_json.decode_response(text.encode(), request, (Y,)))

    general = read(f' {{"outputs": {row}}}')
    assert read(f"{begin}{row}}}") == general


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
    name=st.text(string.printable + "äß\u2028", min_size=1, max_size=8),
)
def test_a_request_of_one_input_reaches_tensorflow_serving_as_written(values: list[float], name: str) -> None:
    """Whatever its name holds; the numbers are the same FP32."""
    sent = Tensor(name, "FP32", np.array([values], np.float32))
    body = json.loads(tfserving_json.encode_request(InferenceRequest(ModelSpec("m"), (sent,))))
    assert list(body) == ["inputs"]
    assert list(body["inputs"]) == [name]
    assert_same(Tensor(name, "FP32", np.array(body["inputs"][name], np.float32)), sent)


@pytest.mark.parametrize("identity", ["", "7", 'a "quoted" ä'])
@pytest.mark.parametrize("variant", [None, "int8"])
@pytest.mark.parametrize("name", ["y", 'a "quoted" ä'])
def test_an_answer_of_one_output_is_written_as_any_other(name: str, variant: str | None, identity: str) -> None:
    """Field for field."""
    output = tensor(name, [[0.1, -2.5]])
    served_by = ServedBy("e", "tfserving", "TensorFlow Serving", 3, variant)
    body = predict_json.encode_response(InferenceResponse("m", None, (output,), {}, identity, served_by))
    assert body == orjson.dumps(
        {
            "model": "m",
            "version": 3,
            "stack": "tfserving",
            "variant": variant,
            "outputs": {name: output.array},
            "id": identity or None,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def test_an_answer_of_one_output_holds_no_nan() -> None:
    """JSON has no form for it."""
    response = InferenceResponse("m", 1, (tensor("y", [[np.nan]]),), {}, "", ServedBy("e", "tfserving", "s", 1))
    with pytest.raises(GatewayError, match="NaN or infinity") as caught:
        predict_json.encode_response(response)
    assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE
