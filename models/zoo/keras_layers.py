"""What both networks use in Keras."""

from __future__ import annotations

from typing import Any, Self

import keras
import numpy as np

from models.zoo.dataset import Array


@keras.saving.register_keras_serializable(package="twinserve")
class Affine(keras.layers.Layer):
    """y = x * scale + offset along the last dimension: the scaling that is part of a model."""

    def __init__(self, scale: Array, offset: Array, **options: Any) -> None:  # noqa: ANN401 - Keras's own
        super().__init__(trainable=False, **options)
        self._initial = (np.asarray(scale, np.float32), np.asarray(offset, np.float32))

    @classmethod
    def standardising(cls, rows: Array, **options: Any) -> Self:  # noqa: ANN401 - Keras's own
        """Takes `rows` [n, d] to mean 0 and deviation 1 in each column."""
        mean, deviation = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        return cls(1 / deviation, -mean / deviation, **options)

    @classmethod
    def restoring(cls, rows: Array, **options: Any) -> Self:  # noqa: ANN401 - Keras's own
        """The inverse of `standardising`."""
        return cls(rows.std(axis=0, ddof=1), rows.mean(axis=0), **options)

    def build(self, _: Any) -> None:  # noqa: ANN401 - Keras's own
        """Makes the two constants weights, so that they are converted and saved like the others."""
        for name, value in zip(("scale", "offset"), self._initial, strict=True):
            weight = self.add_weight(shape=value.shape, name=name, trainable=False)
            weight.assign(value)
            setattr(self, name, weight)

    def call(self, x: Any) -> Any:  # noqa: ANN401 - Keras's own
        """`x` scaled and moved."""
        return x * self.scale + self.offset
