"""A data set, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training and test rows: inputs FP32 with rows in dimension 0, targets FP32 [n, 1] or labels INT64 [n]."""

    train_inputs: Array
    train_targets: Array
    test_inputs: Array
    test_targets: Array


def split(inputs: Array, targets: Array, *, seed: int, test_share: float) -> Dataset:
    """Shuffles with `seed` and cuts off the test rows."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    cut = round(len(inputs) * test_share)
    test, train = order[:cut], order[cut:]
    return Dataset(inputs[train], targets[train], inputs[test], targets[test])
