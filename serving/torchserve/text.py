"""Text in: a BYTES input becomes token ids and an attention mask, for models whose archive packs a tokenizer.

Packed beside handler.py where model-config.yaml has

preprocess: {tokenizer: tokenizer.json, max_tokens: 256}

It imports only numpy and the package `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# The tokenizer works through a whole text before it cuts it to its first tokens: up to a second and 240 MB for each
# MiB. 256 tokens of prose are some 1.5 KiB.
MOST_BYTES = 65_536


class Text:
    """Makes a sentence per row into INT64 ids and mask, both [n, tokens of the longest]."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415 - only models that take text need it

        self.tokenizer = Tokenizer.from_file(str(folder / options["tokenizer"]))
        # The file brings a padding and a length of its own.
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(int(options["max_tokens"]))

    def __call__(self, texts: Array) -> tuple[Array, Array]:
        """Ids and mask of UTF-8 `texts`, an object array of `bytes` with rows in dimension 0.

        Raises ValueError where one is not UTF-8, or is longer than MOST_BYTES; its text follows the input's name.
        """
        items: list[bytes] = texts.reshape(-1).tolist()
        longest = max(map(len, items), default=0)
        if longest > MOST_BYTES:
            raise ValueError(f"has a text of {longest} bytes; a text has at most {MOST_BYTES}")
        try:
            rows = [str(item, "utf-8") for item in items]
        except UnicodeDecodeError as exc:
            raise ValueError(f"is not UTF-8: {exc.reason} at byte {exc.start}") from exc
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(rows)]
        longest = max(map(len, ids), default=1)
        padded = np.zeros((len(ids), longest), np.int64)
        mask = np.zeros_like(padded)
        for row, own in enumerate(ids):
            padded[row, : len(own)], mask[row, : len(own)] = own, 1
        return padded, mask
