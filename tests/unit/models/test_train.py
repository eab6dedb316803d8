"""Training: seeded, measured, and refused where nothing was learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.train import Framework, TrainingError, score, train
from models.zoo import MODELS


@pytest.mark.parametrize("framework", ["pytorch", "keras"])
def test_training_is_reproducible(framework: Framework) -> None:
    """The same seed gives the same metric, to the bit."""
    short = replace(MODELS["simplenn"], epochs=3, least=-9.0)
    first, second = (train(short, framework, 7).metric for _ in range(2))
    assert first == second


def test_another_seed_is_another_split_and_another_network() -> None:
    """The seed reaches the data too."""
    short = replace(MODELS["simplenn"], epochs=1, least=-9.0)
    first, second = (train(short, "pytorch", seed) for seed in (7, 8))
    assert not np.array_equal(first.data.test_inputs, second.data.test_inputs)
    assert first.metric != second.metric


def test_test_rows_are_not_trained_on() -> None:
    """Every row is on exactly one side of the split."""
    data = MODELS["digits"].module("data").load(7)
    assert len(data.train_inputs) + len(data.test_inputs) == 1797
    train_rows = {row.tobytes() for row in data.train_inputs}
    assert not any(row.tobytes() in train_rows for row in data.test_inputs)


def test_digits_reach_their_accuracy() -> None:
    """Trained as for use, in PyTorch."""
    assert train(MODELS["digits"], "pytorch", 7).metric >= 0.97


def test_a_network_that_learned_nothing_is_refused() -> None:
    """The metric and what was expected are in the message."""
    with pytest.raises(TrainingError, match=r"test r2 -?\d.* at least 0.3 is expected"):
        train(replace(MODELS["simplenn"], epochs=0), "pytorch", 7)


def test_a_network_whose_weights_ran_away_is_refused() -> None:
    """A metric of NaN compares false with everything and must not pass for that."""
    with pytest.raises(TrainingError, match="test r2 nan"):
        train(replace(MODELS["simplenn"], epochs=1, learning_rate=float("inf")), "pytorch", 7)


def test_scores_are_r2_and_the_share_of_right_labels() -> None:
    """Known values: the mean as a guess has R2 0, two right labels of four are a half."""
    targets = np.asarray([[1.0], [2.0], [3.0]], np.float32)
    assert score(MODELS["simplenn"], targets, targets) == 1.0
    assert score(MODELS["simplenn"], np.full_like(targets, 2.0), targets) == 0.0
    outputs = np.eye(10, dtype=np.float32)[[1, 2, 3, 4]]
    assert score(MODELS["digits"], outputs, np.asarray([1, 2, 0, 0])) == 0.5
