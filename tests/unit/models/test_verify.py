"""Parity and its failures."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.contract import Tolerance
from models.verify import ParityError, compare
from models.zoo import MODELS

REGRESSION, CLASSES = MODELS["simplenn"], MODELS["digits"]


def test_outputs_within_the_tolerance_pass_with_their_distance() -> None:
    """The distances that the report shows are the largest ones."""
    reference = np.asarray([[100.0], [200.0]], np.float32)
    parity = compare(REGRESSION, reference + np.float32(1e-3), reference, Tolerance())
    assert parity.passed
    assert parity.max_abs == pytest.approx(1e-3, rel=0.05)
    assert parity.max_scaled == pytest.approx(1e-3 / 101, rel=0.05)
    assert parity.argmax_agreement is None


def test_the_worst_input_is_named() -> None:
    """Its number, both values, their distance and the tolerance are in the message."""
    reference = np.asarray([[1.0], [2.0], [3.0]], np.float32)
    tested = reference + np.asarray([[0], [0.25], [0.5]], np.float32)
    with pytest.raises(
        ParityError, match="disagree on 2 of 3 test inputs; the worst is test input 2, output 0"
    ) as caught:
        compare(REGRESSION, tested, reference, Tolerance())
    assert "torchscript 3.5, savedmodel 3, apart by 0.5; allowed is 1e-05 + 1e-05 * |b|" in str(caught.value)


def test_a_nan_is_a_disagreement() -> None:
    """NaN compares false with everything and must not pass for that."""
    reference = np.asarray([[1.0], [2.0]], np.float32)
    with pytest.raises(ParityError, match="test input 1"):
        compare(REGRESSION, np.asarray([[1.0], [np.nan]], np.float32), reference, Tolerance())


def test_another_class_fails_even_within_the_tolerance() -> None:
    """Two nearly equal probabilities may not change places."""
    reference = np.asarray([[0.5, 0.500001]], np.float32)
    with pytest.raises(ParityError, match="choose different classes for 1 of 1 test inputs; .*: 0 and 1"):
        compare(CLASSES, reference[:, ::-1].copy(), reference, Tolerance())


def test_outputs_of_another_shape_fail() -> None:
    """A missing row is not overlooked."""
    with pytest.raises(ParityError, match="shape"):
        compare(REGRESSION, np.zeros((2, 1)), np.zeros((3, 1)), Tolerance())
