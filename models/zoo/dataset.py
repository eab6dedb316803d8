"""A data set, split once and for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # this module is packed with the eager networks, which know nothing of the gateway
    from gateway.core.messages import TensorSpec

Array = npt.NDArray[Any]
# Tensors by the name of an input or output, rows in dimension 0; a BYTES tensor is an object array of `bytes`.
Rows = Mapping[str, Array]


class WeightsError(RuntimeError):
    """Raised where the package with a model's weights is missing, or not what is expected; says what to do."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training and test rows: inputs with rows in dimension 0, targets FP32 [n, d] or labels INT64 [n].

    The inputs of a model with several of them are `Rows`, in the definition's order; of the others one array. Where the
    training takes its rows in another shape than the contract's, `calibration_inputs` are such rows in the contract's.
    """

    train_inputs: Any
    train_targets: Array
    test_inputs: Any
    test_targets: Array
    calibration_inputs: Any = None


def split(inputs: Array, targets: Array, *, seed: int, test_share: float) -> Dataset:
    """Shuffles with `seed` and cuts off the test rows."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    cut = round(len(inputs) * test_share)
    test, train = order[:cut], order[cut:]
    return Dataset(inputs[train], targets[train], inputs[test], targets[test])


def named(inputs: Array | Rows, specs: Sequence[TensorSpec]) -> Rows:
    """A data set's inputs by name, in the order of `specs`."""
    if isinstance(inputs, Mapping):
        return {spec.name: inputs[spec.name] for spec in specs}
    (spec,) = specs
    return {spec.name: inputs}


def count(rows: Rows) -> int:
    """How many rows there are."""
    return len(next(iter(rows.values())))


def part(rows: Rows, first: int, last: int) -> Rows:
    """The rows from `first` up to, without, `last`."""
    return {name: array[first:last] for name, array in rows.items()}


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    """All rows in order, at most `size` at a time; of no rows, one part without any."""
    for first in range(0, max(count(rows), 1), size):
        yield part(rows, first, first + size)


def joined(parts: Sequence[Rows]) -> Rows:
    """The inverse of `batches`."""
    return {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}
