"""Parity: both exports answer the whole test set, and must agree within the contract's tolerance."""

from __future__ import annotations

import numpy as np

from gateway.core.contract import Parity, Tolerance
from models.zoo import ModelDefinition
from models.zoo.dataset import Array


class ParityError(RuntimeError):
    """Raised where two variants disagree; names the worst input, both values and the tolerance."""


def compare(definition: ModelDefinition, tested: Array, reference: Array, tolerance: Tolerance) -> Parity:
    """|a - b| <= atol + rtol * |b| for every element, and for a classification the same argmax in every row.

    `tested` is a, `reference` is b, both [n, d] with the test rows in order. Raises ParityError.
    """
    if tested.shape != reference.shape:
        raise ParityError(f"{definition.name}: outputs of shape {tested.shape} against {reference.shape}")
    ours, theirs = tested.astype(np.float64), reference.astype(np.float64)
    distance = np.abs(ours - theirs)
    # Written so that a NaN on either side counts as beyond the tolerance.
    within = distance <= tolerance.atol + tolerance.rtol * np.abs(theirs)
    if not within.all():
        excess = np.where(within, -1.0, np.nan_to_num(distance - tolerance.rtol * np.abs(theirs), nan=np.inf))
        row, column = np.unravel_index(int(excess.argmax()), excess.shape)
        raise ParityError(
            f"{definition.name}: the variants disagree on {int((~within).any(axis=1).sum())} of {len(ours)} test"
            " inputs;"
            f" the worst is test input {row}, output {column}: torchscript {ours[row, column]:.9g},"
            f" savedmodel {theirs[row, column]:.9g}, apart by {distance[row, column]:.3g}; allowed is"
            f" {tolerance.atol:g} + {tolerance.rtol:g} * |b|"
        )
    agreement = None
    if definition.task == "classification":
        same = tested.argmax(axis=1) == reference.argmax(axis=1)
        agreement = float(same.mean())
        if not same.all():
            first = int((~same).argmax())
            raise ParityError(
                f"{definition.name}: the variants choose different classes for {int((~same).sum())} of {len(same)} test"
                f" inputs; the first is test input {first}: {tested[first].argmax()} and {reference[first].argmax()}"
            )
    return Parity(
        passed=True,
        max_abs=float(distance.max(initial=0.0)),
        max_scaled=float((distance / (1 + np.abs(theirs))).max(initial=0.0)),
        argmax_agreement=agreement,
    )
