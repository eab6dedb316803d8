"""Rows in, rows out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import pytest

from gateway.batching.coalesce import batch_key, bytes_of, joined, rows_of, split
from gateway.core.digest import digest
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.core.tensor import DATATYPES
from tests.builders import request, tensor
from tests.contract.worlds import sample

ONE = request([[1.0, 2.0]], id="1")


def test_rows_are_joined_in_order_and_split_back() -> None:
    """Each answer has its own rows."""
    asked = [request([[1, 2]], id="1"), request([[3, 4], [5, 6]], id="2"), request([[7, 8]], id="3")]
    whole = joined(asked)
    assert whole.inputs[0].array.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    parts = split(InferenceResponse("m", 1, (whole.inputs[0],)), [rows_of(each) for each in asked])
    assert [part.outputs[0].array.tolist() for part in parts] == [each.inputs[0].array.tolist() for each in asked]


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_comes_back_to_the_bit(datatype: str) -> None:
    """Joining and splitting changes neither type nor value."""
    item = sample(datatype)
    asked = InferenceRequest(ModelSpec("m"), (item,))
    whole = joined([asked, asked])
    assert (whole.inputs[0].array.dtype, whole.inputs[0].shape) == (item.array.dtype, (6, 2))
    for part in split(InferenceResponse("m", 1, whole.inputs), [3, 3]):
        assert part.outputs[0].array.tolist() == item.array.tolist()


@pytest.mark.parametrize(
    "other",
    [
        replace(ONE, model=ModelSpec("doubler", version=2)),
        replace(ONE, model=ModelSpec("doubler", signature_name="s")),
        replace(ONE, wanted=("y",)),
        replace(ONE, parameters={"temperature": 1}),
        replace(ONE, inputs=(tensor("x", [[1, 2, 3]]),)),
        replace(ONE, inputs=(tensor("x", [[1, 2]], "FP64"),)),
        replace(ONE, inputs=(tensor("z", [[1, 2]]),)),
    ],
    ids=["version", "signature", "outputs", "parameters", "trailing shape", "datatype", "name"],
)
def test_what_shapes_the_answer_keeps_requests_apart(other: InferenceRequest) -> None:
    """Each of these is a key of its own."""
    assert batch_key(other) != batch_key(ONE)


def test_parameters_that_python_takes_for_equal_keep_requests_apart() -> None:
    """A model may tell true, 1 and 1.0 from each other, where they stand for different things."""
    keys = {batch_key(replace(ONE, parameters={"t": value})) for value in (True, 1, 1.0, "1")}
    assert len(keys) == 4


def test_what_does_not_shape_the_answer_is_no_difference() -> None:
    """Ids, values and the number of rows."""
    keys: list[Hashable] = [batch_key(ONE), batch_key(request([[5, 6], [7, 8]], id="other"))]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("output", [tensor("y", [[1.0]]), tensor("y", 1.0)], ids=["too few rows", "a scalar"])
def test_an_answer_of_other_length_is_not_shared_out(output: object) -> None:
    """Nobody gets somebody else's row."""
    with pytest.raises(GatewayError) as raised:
        split(InferenceResponse("m", 1, (output,)), [1, 1])  # type: ignore[arg-type]
    assert raised.value.cause is Cause.UPSTREAM_BAD_REPLY


def test_digests_tell_inputs_apart() -> None:
    """By model, name, datatype, shape and content; ids do not matter."""
    different = [ONE, request([[1.0, 2.5]]), request([[1.0], [2.0]]), request(model="other")]
    assert len({digest(each) for each in different}) == len(different)
    assert digest(replace(ONE, id="another")) == digest(ONE)
    assert bytes_of(request(np.zeros((3, 2)))) == 24
