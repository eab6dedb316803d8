"""The sizes of all-MiniLM-L6-v2, as its config.json has them."""

from __future__ import annotations

VOCABULARY, POSITIONS = 30522, 512
WIDTH, INNER, HEADS, LAYERS = 384, 1536, 12, 6
EPSILON = 1e-12
# Added to the score of a token that is masked. The reference adds float32's lowest number. e^-100 is nothing beside any
# token's weight in float32 as well, and a small number leaves INT8 some of its 256 steps for the scores themselves.
MASKED = -100.0
