"""ResNet-50 in Keras, on images [n, 224, 224, 3]. Layers are called as in PyTorch."""

from __future__ import annotations

from typing import Any

import keras

from models.zoo.dataset import Dataset
from models.zoo.keras_layers import Affine
from models.zoo.resnet50.sizes import CLASSES, SIZE, STAGES, WIDER

layers = keras.layers


def build(data: Dataset) -> keras.Model:
    """The untrained network; one scale for all pixels, from the training rows."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    hidden = Affine.standardising(data.train_inputs.reshape(-1, 1), name="scale_in")(image)
    hidden = layers.ReLU()(_norm(_conv(hidden, 64, 7, 2, "conv"), "norm"))
    # Nothing is below zero behind a ReLU, so that zeros around it are never a maximum that PyTorch does not see.
    hidden = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(hidden))
    place = 0
    for stage, (count, inside) in enumerate(STAGES):
        for first in [True] + [False] * (count - 1):
            hidden = _block(hidden, inside, 2 if stage and first else 1, f"blocks.{place}")
            place += 1
    scores = layers.Dense(len(CLASSES), name="out")(layers.GlobalAveragePooling2D()(hidden))
    return keras.Model(image, layers.Softmax()(scores), name="resnet50")


def _block(given: Any, inside: int, stride: int, name: str) -> Any:  # noqa: ANN401 - Keras tensors
    hidden = layers.ReLU()(_norm(_conv(given, inside, 1, 1, f"{name}.conv1"), f"{name}.norm1"))
    hidden = layers.ReLU()(_norm(_conv(hidden, inside, 3, stride, f"{name}.conv2"), f"{name}.norm2"))
    # A block that begins as nothing but its shortcut makes a deep network learn within few steps.
    hidden = _conv(hidden, inside * WIDER, 1, 1, f"{name}.conv3")
    hidden = _norm(hidden, f"{name}.norm3", gamma_initializer="zeros")
    if given.shape[-1] != inside * WIDER:
        given = _norm(_conv(given, inside * WIDER, 1, stride, f"{name}.shortcut"), f"{name}.shortcut_norm")
    return layers.ReLU()(layers.Add()([hidden, given]))


def _conv(given: Any, channels: int, size: int, stride: int, name: str) -> Any:  # noqa: ANN401 - Keras tensors
    """A convolution with as many zeros on every side as PyTorch pads; "same" pads one side more with a stride."""
    padded = layers.ZeroPadding2D(size // 2)(given) if size > 1 else given
    return layers.Conv2D(channels, size, strides=stride, use_bias=False, name=name)(padded)


def _norm(given: Any, name: str, **options: Any) -> Any:  # noqa: ANN401 - Keras tensors
    # PyTorch's epsilon and momentum.
    return layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=name, **options)(given)
