"""How far two answers to one request are apart, by the contract's own tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.contract import ModelContract, Tolerance
from gateway.core.tensor import FLOAT_DATATYPES, Tensor


@dataclass(frozen=True, slots=True)
class Difference:
    """`max_abs` is max |a - b|, `max_scaled` max |a - b| / (1 + |b|), over all outputs; b is the primary's.

    Both are infinite where the answers cannot be subtracted: another name, datatype or shape, a NaN on one side only,
    or other values of a datatype that must be equal (integers, BOOL, BYTES). `agrees` is the contract's verdict, and
    `output` names where the largest difference is.
    """

    max_abs: float
    max_scaled: float
    agrees: bool
    output: str = ""


NO_DIFFERENCE = Difference(0.0, 0.0, True)


def difference(contract: ModelContract, outputs: Sequence[Tensor], primary: Sequence[Tensor]) -> Difference:
    """`outputs` against the `primary` ones, output by output; the worst of all."""
    by_name = {tensor.name: tensor for tensor in outputs}
    found = [_of_one(by_name.get(tensor.name), tensor, contract.tolerance) for tensor in primary]
    if not found:
        return NO_DIFFERENCE
    worst = max(found, key=lambda each: each.max_scaled)
    return Difference(
        max(each.max_abs for each in found), worst.max_scaled, all(each.agrees for each in found), worst.output
    )


def _of_one(tensor: Tensor | None, primary: Tensor, tolerance: Tolerance) -> Difference:
    apart = Difference(np.inf, np.inf, False, primary.name)
    if tensor is None or (tensor.datatype, tensor.shape) != (primary.datatype, primary.shape):
        return apart
    if primary.datatype not in FLOAT_DATATYPES:
        return Difference(0.0, 0.0, True, primary.name) if np.array_equal(tensor.array, primary.array) else apart
    a, b = tensor.array.astype(np.float64), primary.array.astype(np.float64)
    # Equal infinities and NaNs on both sides are no distance, and could not be subtracted.
    other = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    a, b = np.where(other, a, 0.0), np.where(other, b, 0.0)
    distance, size = np.abs(a - b), np.abs(b)
    if not np.isfinite(distance).all():
        return apart
    return Difference(
        float(distance.max(initial=0.0)),
        float((distance / (1 + size)).max(initial=0.0)),
        bool((distance <= tolerance.atol + tolerance.rtol * size).all()),
        primary.name,
    )
