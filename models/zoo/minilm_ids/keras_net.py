"""all-MiniLM-L6-v2 in Keras. Layers with weights are called as in PyTorch; those without are in `keras_parts`."""

from __future__ import annotations

from typing import Any

import keras

from models.zoo.dataset import Dataset
from models.zoo.minilm_ids.keras_parts import Attention, MeanAtLengthOne, Positions, Scores
from models.zoo.minilm_ids.sizes import EPSILON, HEADS, INNER, LAYERS, POSITIONS, VOCABULARY, WIDTH

layers = keras.layers


def build(_: Dataset | None = None) -> keras.Model:
    """The network with weights drawn at random: ids and mask INT64 [n, tokens] in, embeddings FP32 [n, 384] out."""
    ids = keras.Input((None,), dtype="int64", name="input_ids")
    mask = keras.Input((None,), dtype="int64", name="attention_mask")
    words = layers.Embedding(VOCABULARY, WIDTH, name="word")(ids)
    places = layers.Embedding(POSITIONS, WIDTH, name="position")(Positions()(ids))
    hidden = _norm("norm")(layers.Add()([words, places]))
    bias = Scores()(mask)
    for index in range(LAYERS):
        hidden = _layer(f"layers.{index}", hidden, bias)
    return keras.Model({"input_ids": ids, "attention_mask": mask}, MeanAtLengthOne()([hidden, mask]), name="minilm")


def _layer(name: str, hidden: Any, bias: Any) -> Any:  # noqa: ANN401 - Keras tensors
    made = [layers.Dense(WIDTH, name=f"{name}.{part}")(hidden) for part in ("query", "key", "value")]
    attended = layers.Dense(WIDTH, name=f"{name}.attended")(Attention(HEADS)([*made, bias]))
    hidden = _norm(f"{name}.attended_norm")(layers.Add()([attended, hidden]))
    # Keras's gelu is the exact one, as PyTorch's.
    inner = layers.Dense(INNER, activation="gelu", name=f"{name}.inner")(hidden)
    return _norm(f"{name}.norm")(layers.Add()([layers.Dense(WIDTH, name=f"{name}.outer")(inner), hidden]))


def _norm(name: str) -> Any:  # noqa: ANN401 - a Keras layer
    return layers.LayerNormalization(epsilon=EPSILON, name=name)
