"""Whether an answer is the one that was expected: to the bit for an identity, within tolerance for a trained model."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gateway.core.tensor import FLOAT_DATATYPES, NUMPY_DTYPE, NDArray, Tensor
from tests.contract.wire_forms import flattened
from tests.matrix.cases import Case


def fault(
    case: Case, outputs: Mapping[str, Any], *, filtered: bool, direct: Mapping[str, NDArray] | None = None
) -> str | None:
    """What is wrong with the outputs, None where nothing is.

    `filtered`: there may be none that were not asked for. `direct` is the server's own answer of a trained model.
    """
    names = [tensor.name for tensor in case.outputs]
    if not set(names) <= outputs.keys() or (filtered and set(names) != outputs.keys()):
        return f"has outputs {sorted(outputs)}; expected {names}"
    try:
        answered = {tensor.name: array_of(outputs[tensor.name], tensor) for tensor in case.outputs}
    except (ValueError, TypeError, OverflowError) as exc:
        return str(exc)
    if case.golden is not None:
        rows = len(case.outputs[0].array)
        found = case.golden.fault(0, rows, answered)
        return found or (direct and replace(case.golden, outputs=direct).fault(0, rows, answered)) or None
    for tensor in case.outputs:
        if not same(answered[tensor.name], tensor.array):
            return f"output '{tensor.name}' is {answered[tensor.name].tolist()!r}; expected {tensor.array.tolist()!r}"
    return None


def array_of(value: Any, expected: Tensor) -> NDArray:
    """A nested list as an array of the expected datatype; raises ValueError where it has another shape or kind.

    JSON has no shape below an empty list: there, the expected one is taken.
    """
    shape = _shape(value)
    if shape != (expected.shape[: len(shape)] if 0 in shape else expected.shape):
        raise ValueError(f"output '{expected.name}' has shape {list(shape)}; expected {list(expected.shape)}")
    leaves = flattened(value)
    if expected.datatype == "BYTES":
        leaves = [_bytes(leaf) for leaf in leaves]
    elif expected.datatype not in FLOAT_DATATYPES and not all(isinstance(leaf, int) for leaf in leaves):
        raise ValueError(f"output '{expected.name}' holds other things than whole numbers")
    array = np.empty(len(leaves), NUMPY_DTYPE[expected.datatype])
    array[:] = leaves
    return array.reshape(expected.shape)


def same(one: NDArray, other: NDArray) -> bool:
    """Equal to the bit: the sign of zero and the bits of NaN included."""
    if one.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, dict):
        return base64.b64decode(leaf["b64"], validate=True)
    return leaf.encode() if isinstance(leaf, str) else leaf
