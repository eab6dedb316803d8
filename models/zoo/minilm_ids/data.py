"""The texts of `minilm` as token ids."""

from __future__ import annotations

import numpy as np

from models.zoo.dataset import Dataset
from models.zoo.minilm import data, preprocess

# Of the test texts, those that are no longer: one of 256 tokens would fill up all the others to its length.
LONGEST = 64


def load(seed: int) -> Dataset:
    """Ids and mask INT64 [n, tokens]; the targets are the reference embeddings of those texts."""
    text = data.load(seed)
    lists = [encoding.ids for encoding in preprocess.tokenizer().encode_batch(data.texts("test"))]
    short = [row for row, ids in enumerate(lists) if len(ids) <= LONGEST]
    return Dataset(
        preprocess.network_rows({"text": text.train_inputs}),
        text.train_targets,
        preprocess.padded([lists[row] for row in short]),
        np.ascontiguousarray(text.test_targets[short]),
    )
