"""Parity and its failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.core.contract import ModelContract, Quality, Tolerance
from models.train import score
from models.verify import ParityError, compare, judge
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


def contract(**quality: float) -> ModelContract:
    definition = CLASSES
    return ModelContract(
        name="digits-int8",
        version=1,
        inputs=definition.inputs,
        outputs=definition.outputs,
        variants={"int8": "tfserving"},
        quality=Quality("accuracy", **quality) if quality else None,
    )


# Of four rows, the original gets the first three right; the variant below another three.
ORIGINAL = {"probabilities": np.asarray([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.6, 0.4]], np.float32)}
OTHER = {"probabilities": np.asarray([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.4, 0.6]], np.float32)}
LABELS = np.asarray([0, 1, 0, 1])


def test_a_quantized_variant_is_judged_by_its_metric_and_its_distance_is_told() -> None:
    """Outputs far beyond any tolerance pass where the contract speaks of accuracy; how far is measured all the same."""
    its = contract(original=0.75, least=0.7, argmax_agreement_least=0.5)
    judged = judge(CLASSES, its, OTHER, ORIGINAL, LABELS)
    assert judged.quality is not None
    assert judged.quality.measured == 0.75
    assert judged.parity is not None
    assert judged.parity.argmax_agreement == 0.5
    assert judged.parity.max_abs == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ({"original": 0.9, "least": 0.88}, r"accuracy 0\.7500, where the original has 0\.9000 and at least 0\.8800"),
        (
            {"original": 0.75, "least": 0.7, "argmax_agreement_least": 0.97},
            r"the original's class on 50\.0% of the test inputs; at least 97% is expected",
        ),
    ],
)
def test_a_variant_that_falls_too_far_fails_with_the_figures(quality: dict[str, float], said: str) -> None:
    """The reason names the metric, what it was and what it is."""
    with pytest.raises(ParityError, match=said):
        judge(CLASSES, contract(**quality), OTHER, ORIGINAL, LABELS)


def test_an_exact_variant_is_held_to_the_tolerance() -> None:
    """By its own name, against the original."""
    assert judge(CLASSES, contract(), ORIGINAL, ORIGINAL, LABELS).parity is not None
    with pytest.raises(ParityError, match=r"int8 0\.6\d*, original 0\.2\d*, apart by 0\.4"):
        judge(CLASSES, contract(), OTHER, ORIGINAL, LABELS)


def test_embeddings_are_scored_by_their_angle_to_the_reference() -> None:
    """Length does not count: the mean cosine."""
    embedding = replace(REGRESSION, task="embedding", metric="cosine")
    reference = np.asarray([[1.0, 0.0], [0.0, 2.0]])
    assert score(embedding, reference * 3, reference) == pytest.approx(1.0)
    assert score(embedding, np.asarray([[1.0, 1.0], [0.0, 1.0]]), reference) == pytest.approx((0.5**0.5 + 1) / 2)
