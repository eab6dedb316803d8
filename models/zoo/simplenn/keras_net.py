"""10 -> Dense 20 -> ReLU -> Dense 1 in Keras, with the scaling of its inputs and output inside."""

from __future__ import annotations

import keras

from models.zoo.dataset import Dataset
from models.zoo.keras_layers import Affine


def build(data: Dataset) -> keras.Model:
    """The untrained network; its scaling comes from the training rows."""
    return keras.Sequential(
        [
            keras.Input((10,), name="features"),
            Affine.standardising(data.train_inputs, name="scale_in"),
            keras.layers.Dense(20, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="out"),
            Affine.restoring(data.train_targets, name="scale_out"),
        ],
        name="simplenn",
    )
