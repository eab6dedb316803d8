"""What all-MiniLM-L6-v2 computes without weights, as Keras layers; shapes are taken from the tensors as they come."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from models.zoo.minilm_ids.sizes import MASKED


@keras.saving.register_keras_serializable(package="twinserve")
class Positions(keras.layers.Layer):
    """Ids [n, tokens] in, their places 0, 1, ... out: INT32 [1, tokens]."""

    def call(self, ids: Any) -> Any:  # noqa: ANN401 - Keras tensors
        """The places."""
        return ops.expand_dims(ops.arange(ops.shape(ids)[1], dtype="int32"), 0)

    def compute_output_spec(self, ids: Any) -> Any:  # noqa: ANN401 - Keras tensors
        """What Keras is told of the output before there are tensors."""
        return keras.KerasTensor((1, ids.shape[1]), "int32")


@keras.saving.register_keras_serializable(package="twinserve")
class Scores(keras.layers.Layer):
    """Mask [n, tokens] in, what is added to each token's scores out: FP32 [n, 1, 1, tokens]."""

    def call(self, mask: Any) -> Any:  # noqa: ANN401 - Keras tensors
        """0 for a token, a very low score for what fills up the row."""
        return ops.expand_dims((1 - ops.cast(mask, "float32")) * MASKED, (1, 2))


@keras.saving.register_keras_serializable(package="twinserve")
class Attention(keras.layers.Layer):
    """Query, key, value [n, tokens, width] and the scores' bias in, what each token takes from the others out."""

    def __init__(self, heads: int, **options: Any) -> None:  # noqa: ANN401 - Keras's own
        super().__init__(**options)
        self.heads = heads

    def call(self, parts: Any) -> Any:  # noqa: ANN401 - Keras tensors
        """[n, tokens, width]."""
        *made, bias = parts
        width = made[0].shape[-1]
        count, tokens = ops.shape(made[0])[0], ops.shape(made[0])[1]
        query, key, value = (
            ops.transpose(ops.reshape(part, (count, tokens, self.heads, width // self.heads)), (0, 2, 1, 3))
            for part in made
        )
        query = query * (width // self.heads) ** -0.5
        shares = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) + bias)
        return ops.reshape(ops.transpose(ops.matmul(shares, value), (0, 2, 1, 3)), (count, tokens, width))

    def compute_output_spec(self, parts: Any) -> Any:  # noqa: ANN401 - Keras tensors
        """What Keras is told of the output before there are tensors."""
        return keras.KerasTensor(parts[0].shape, parts[0].dtype)


@keras.saving.register_keras_serializable(package="twinserve")
class MeanAtLengthOne(keras.layers.Layer):
    """Tokens [n, tokens, width] and mask in, the mean over the tokens at length 1 out: [n, width]."""

    def call(self, parts: Any) -> Any:  # noqa: ANN401 - Keras tensors
        """Zeros for a row that is all masked."""
        hidden, mask = parts
        weight = ops.expand_dims(ops.cast(mask, hidden.dtype), -1)
        mean = ops.sum(hidden * weight, 1) / ops.maximum(ops.sum(weight, 1), 1)
        return mean / ops.maximum(ops.sqrt(ops.sum(mean * mean, 1, keepdims=True)), 1e-12)
