"""Text to token ids, by the tokenizer that the weights were trained with; the handler does the same when it serves."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from models.zoo.dataset import Array, Rows
from models.zoo.minilm_ids import weights

# What the reference cuts a text to, with the tokens that begin and end it (its sentence_bert_config.json).
MAX_TOKENS = 256


def tokenizer_file() -> Path:
    """The tokenizer, in the format of the `tokenizers` package; raises WeightsError where it is not installed."""
    return weights.file("tokenizer.json")


def packed() -> tuple[list[Path], dict[str, Any]]:
    """The files that the handler needs to do the same, and `preprocess` of its model-config.yaml."""
    file = tokenizer_file()
    return [file], {"tokenizer": file.name, "max_tokens": MAX_TOKENS}


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer as the reference uses it: the file itself asks for padding and truncation to 128."""
    loaded = Tokenizer.from_file(str(tokenizer_file()))
    loaded.no_padding()
    loaded.enable_truncation(MAX_TOKENS)
    return loaded


def network_rows(rows: Rows) -> Rows:
    """`input_ids` and `attention_mask` INT64 [n, tokens] of `text` BYTES [n], filled up to the longest with zeros.

    Raises UnicodeDecodeError where one is not UTF-8, as the handler does.
    """
    texts = [bytes(text).decode() for text in rows["text"].reshape(-1)]
    return padded([encoding.ids for encoding in tokenizer().encode_batch(texts)])


def padded(lists: list[list[int]]) -> Rows:
    """Ids and mask of lists that differ in length; at least one token wide."""
    width = max(map(len, lists), default=1)
    ids: Array = np.zeros((len(lists), width), np.int64)
    mask = np.zeros_like(ids)
    for row, found in enumerate(lists):
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return {"input_ids": ids, "attention_mask": mask}
