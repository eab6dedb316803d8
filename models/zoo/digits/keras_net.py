"""Two convolutions and two dense layers in Keras, on images [n, 8, 8, 1]."""

from __future__ import annotations

import keras

from models.zoo.dataset import Dataset
from models.zoo.keras_layers import Affine


def build(data: Dataset) -> keras.Model:
    """The untrained network; one scale for all pixels, from the training rows."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            Affine.standardising(data.train_inputs.reshape(-1, 1), name="scale_in"),
            layers.Conv2D(16, 3, padding="same", name="conv1"),
            # PyTorch's epsilon; Keras's own default is 1e-3.
            layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="norm1"),
            layers.ReLU(),
            # With a stride, Keras's "same" pads on one side only; PyTorch pads on both.
            layers.ZeroPadding2D(1),
            layers.Conv2D(32, 3, strides=2, padding="valid", name="conv2"),
            layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="norm2"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="out"),
            layers.Softmax(),
        ],
        name="digits",
    )
