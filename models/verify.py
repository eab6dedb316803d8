"""Parity: what is served answers the whole test set, and must agree within its contract's tolerance or quality."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gateway.core.contract import ModelContract, Parity, Tolerance
from models.train import score
from models.zoo import ModelDefinition
from models.zoo.dataset import Array, Rows

BOTH_EXPORTS = ("torchscript", "savedmodel")


class ParityError(RuntimeError):
    """Raised where a variant disagrees with its reference more than its contract allows; says where and by how much."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two outputs are apart, whether that is allowed or not; the fields are Parity's."""

    max_abs: float
    max_scaled: float
    argmax_agreement: float | None


def judge(
    definition: ModelDefinition, contract: ModelContract, tested: Rows, original: Rows, targets: Array
) -> ModelContract:
    """A variant's contract with what was measured; raises ParityError where the variant does not keep it.

    `tested` and `original` are the outputs of the variant and of the trained network for the whole test set, whose
    targets are `targets`.
    """
    name = definition.outputs[0].name
    ours, theirs = tested[name], original[name]
    labels = (next(iter(contract.variants or {}), "variant"), "original")
    if contract.quality is None:
        return replace(contract, parity=compare(definition, ours, theirs, contract.tolerance, labels))
    check_shape(definition, ours, theirs)
    apart, quality = distance(definition, ours, theirs), contract.quality
    measured = score(definition, ours, targets)
    if not measured >= quality.least:  # so that NaN fails
        raise ParityError(
            f"{definition.name}: {quality.metric} {measured:.4f}, where the original has {quality.original:.4f} and"
            f" at least {quality.least:.4f} is expected"
        )
    least = quality.argmax_agreement_least
    if least is not None and (apart.argmax_agreement is None or apart.argmax_agreement < least):
        raise ParityError(
            f"{definition.name}: the original's class on {apart.argmax_agreement:.1%} of the test inputs; at least"
            f" {least:.0%} is expected"
        )
    parity = Parity(True, apart.max_abs, apart.max_scaled, apart.argmax_agreement)
    return replace(contract, parity=parity, quality=replace(quality, measured=measured))


def check_shape(definition: ModelDefinition, tested: Array, reference: Array) -> None:
    """Raises ParityError where two outputs differ in shape."""
    if tested.shape != reference.shape:
        raise ParityError(f"{definition.name}: outputs of shape {tested.shape} against {reference.shape}")


def distance(definition: ModelDefinition, tested: Array, reference: Array) -> Distance:
    """How far two outputs of one shape are apart; NaN on one side only is an infinite distance."""
    theirs = reference.astype(np.float64)
    apart = np.nan_to_num(np.abs(tested.astype(np.float64) - theirs), nan=np.inf)
    same = None
    if definition.task == "classification":
        same = float((tested.argmax(axis=1) == reference.argmax(axis=1)).mean())
    scaled = apart / (1 + np.abs(theirs))
    return Distance(float(apart.max(initial=0.0)), float(scaled.max(initial=0.0)), same)


def compare(
    definition: ModelDefinition,
    tested: Array,
    reference: Array,
    tolerance: Tolerance,
    labels: tuple[str, str] = BOTH_EXPORTS,
) -> Parity:
    """|a - b| <= atol + rtol * |b| for every element, and for a classification the same argmax in every row.

    `tested` is a, `reference` is b, both [n, d] with the test rows in order; `labels` is what they are called. Raises
    ParityError.
    """
    check_shape(definition, tested, reference)
    ours, theirs = tested.astype(np.float64), reference.astype(np.float64)
    apart = np.abs(ours - theirs)
    # Written so that a NaN on either side counts as beyond the tolerance.
    within = apart <= tolerance.atol + tolerance.rtol * np.abs(theirs)
    if not within.all():
        excess = np.where(within, -1.0, np.nan_to_num(apart - tolerance.rtol * np.abs(theirs), nan=np.inf))
        row, column = np.unravel_index(int(excess.argmax()), excess.shape)
        raise ParityError(
            f"{definition.name}: the variants disagree on {int((~within).any(axis=1).sum())} of {len(ours)} test"
            " inputs;"
            f" the worst is test input {row}, output {column}: {labels[0]} {ours[row, column]:.9g},"
            f" {labels[1]} {theirs[row, column]:.9g}, apart by {apart[row, column]:.3g}; allowed is"
            f" {tolerance.atol:g} + {tolerance.rtol:g} * |b|"
        )
    if definition.task == "classification":
        same = tested.argmax(axis=1) == reference.argmax(axis=1)
        if not same.all():
            first = int((~same).argmax())
            raise ParityError(
                f"{definition.name}: the variants choose different classes for {int((~same).sum())} of {len(same)} test"
                f" inputs; the first is test input {first}: {tested[first].argmax()} and {reference[first].argmax()}"
            )
    measured = distance(definition, tested, reference)
    return Parity(True, measured.max_abs, measured.max_scaled, measured.argmax_agreement)
