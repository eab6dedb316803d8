"""How far two answers are apart."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.tensor import Tensor
from gateway.routing.difference import NO_DIFFERENCE, difference
from tests.builders import contract, tensor

NAN = float("nan")
INF = float("inf")


def compare(a: object, b: object, datatype: str = "FP32") -> tuple[float, float, bool]:
    found = difference(contract(), (tensor("y", a, datatype),), (tensor("y", b, datatype),))
    return found.max_abs, found.max_scaled, found.agrees


def test_equal_answers_agree() -> None:
    """NaN and infinity on both sides included, and no output at all."""
    assert compare([1.0, NAN, INF], [1.0, NAN, INF]) == (0.0, 0.0, True)
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))) == (0.0, 0.0, True)
    assert difference(contract(), (), ()) == NO_DIFFERENCE


def test_distance_is_scaled_by_the_primary() -> None:
    """The contract's tolerance is 1e-5 + 1e-5 |b|."""
    assert compare([100.0], [99.0]) == pytest.approx((1.0, 0.01, False))
    assert compare([100.0005], [100.0])[2]


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0], [[1.0]]), ([NAN], [1.0]), ([1.0], [NAN]), ([INF], [1.0]), ([INF], [-INF])],
    ids=["shape", "NaN there", "NaN here", "infinity", "signs"],
)
def test_what_cannot_be_subtracted_is_infinitely_far(a: object, b: object) -> None:
    """And never agrees."""
    assert compare(a, b) == (INF, INF, False)


@pytest.mark.parametrize("datatype", ["INT64", "BOOL"])
def test_other_datatypes_must_be_equal(datatype: str) -> None:
    """There is no nearly."""
    assert compare([1, 0], [1, 0], datatype) == (0.0, 0.0, True)
    assert compare([1, 1], [1, 0], datatype) == (INF, INF, False)


def test_sixteen_bits_are_subtracted_in_sixty_four() -> None:
    """BF16 has no room for its own differences."""
    assert compare([1.0], [2.0], "BF16") == pytest.approx((1.0, 1 / 3, False))


def test_the_worst_output_is_named() -> None:
    """A missing one is the worst there is."""
    primary = (tensor("y", [1.0]), tensor("z", [5.0]))
    near: tuple[Tensor, ...] = (tensor("z", [6.0]), tensor("y", [1.0]))
    assert difference(contract(), near, primary).output == "z"
    assert difference(contract(), near[:1], primary).output == "y"
