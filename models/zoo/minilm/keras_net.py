"""The network of `minilm` is that of `minilm_ids`: the text is made into ids before it."""

from __future__ import annotations

from models.zoo.minilm_ids.keras_net import build

__all__ = ["build"]
