"""The matrix's own judgement: it would see an answer that is off by one bit, and a refusal of another kind."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from gateway.core.errors import Cause
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from tests.contract.frontend_doors import OipGrpc, OipRest
from tests.matrix import cases, compare
from tests.matrix.rules import Refusal, expected


def asked(datatype: str, values: Any) -> cases.Case:
    """A question whose answer is `values`."""
    array = np.array(values, NUMPY_DTYPE[datatype])
    its = cases.identity("m", TensorSpec("x", datatype, array.shape))
    return cases.case("s", "n", its, array)


@pytest.mark.parametrize(
    ("datatype", "values", "answer"),
    [
        ("FP32", [0.0], [-0.0]),
        ("FP32", [0.1], [0.10000001]),
        ("FP64", [0.1], [np.float64(np.float32(0.1))]),
        ("INT64", [2**63 - 1], [2**63 - 2]),
        ("INT64", [1], [1.0]),
        ("UINT8", [1], [257]),
        ("BOOL", [True], [False]),
        ("BYTES", [b"a"], ["b"]),
        ("FP32", [[1.0, 2.0]], [1.0, 2.0]),
        ("FP32", [1.0], 1.0),
        ("FP32", 1.0, [1.0]),
        ("FP32", [[1.0], [2.0]], [[1.0]]),
    ],
)
def test_another_answer_is_seen(datatype: str, values: Any, answer: Any) -> None:
    """Another bit, kind or shape."""
    case = asked(datatype, values)
    assert compare.fault(case, {"y": case.outputs[0].array.tolist()}, filtered=True) is None
    assert compare.fault(case, {"y": answer}, filtered=True) is not None


def test_names_must_be_the_expected_ones() -> None:
    """One missing is a fault; one more is, where the client could say which it wants."""
    case = asked("FP32", [1.0])
    assert compare.fault(case, {}, filtered=False) is not None
    assert compare.fault(case, {"y": [1.0], "z": [1.0]}, filtered=False) is None
    assert compare.fault(case, {"y": [1.0], "z": [1.0]}, filtered=True) is not None


def test_json_needs_no_shape_below_an_empty_list() -> None:
    """`[]` is [0, 2], and `[[]]` is not."""
    empty = Tensor("y", "FP32", np.zeros((0, 2), np.float32))
    assert compare.array_of([], empty).shape == (0, 2)
    with pytest.raises(ValueError, match="shape"):
        compare.array_of([[]], empty)


def test_a_refusal_is_its_status_and_its_words() -> None:
    """Another status or text is a fault."""
    refusal = Refusal(Cause.UNSUPPORTED_DATATYPE, "cannot .* carry", "")
    assert refusal.fault(OipRest(), 400, "JSON cannot really carry it") is None
    assert refusal.fault(OipRest(), 422, "JSON cannot really carry it") is not None
    assert refusal.fault(OipRest(), 400, "something else") is not None
    assert refusal.fault(OipGrpc(), grpc.StatusCode.UNIMPLEMENTED, "cannot and will not carry") is None


def test_the_door_refuses_before_the_backend() -> None:
    """What never leaves the door is told in its own words."""
    (half,) = [case for case in cases.identities() if case.key == (cases.VALUES, "FP16")]
    at_the_door, at_the_backend = expected("oip-rest", "tf-rest", half), expected("oip-grpc-raw", "tf-rest", half)
    assert at_the_door is not None
    assert at_the_backend is not None
    assert "binary tensor data" in at_the_door.says
    assert "TF Serving" in at_the_backend.says
    assert expected("oip-grpc-raw", "tf-grpc", half) is None
