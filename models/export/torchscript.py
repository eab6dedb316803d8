"""The `torchscript` variant: a TorchScript graph in a TorchServe archive."""

from __future__ import annotations

import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging import package_model
from model_archiver.model_packaging_utils import ModelExportUtils

from models.zoo.dataset import Array, Rows, batches

if TYPE_CHECKING:
    from torch import nn

GRAPH = "model.pt"
# Rows that a prediction takes at once, so that a large model's activations fit into memory.
BATCH = 64
SERVING = Path(__file__).resolve().parents[2] / "serving" / "torchserve"


def export(
    name: str,
    version: int,
    net: nn.Module,
    example: Rows,
    contract: Path,
    folder: Path,
    *,
    handler: Path = SERVING / "handler.py",
    config: Path = SERVING / "model-config.yaml",
) -> Path:
    """Writes `folder/<name>.mar` with the graph, our handler, the contract and the worker settings.

    `example` is what the network is traced with: a few rows of its inputs, in their order.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        graph = Path(work) / GRAPH
        tensors = [torch.from_numpy(array) for array in example.values()]
        with _without_deprecation(), torch.inference_mode():
            scripted = torch.jit.freeze(torch.jit.trace(net.eval(), tuple(tensors)))
            scripted.save(str(graph))
        archive = ModelArchiverConfig(
            model_name=name,
            version=str(version),
            serialized_file=str(graph),
            handler=str(handler),
            extra_files=str(contract),
            config_file=str(config),
            export_path=str(folder),
        )
        package_model(archive, ModelExportUtils.generate_manifest_json(archive))
    return folder / f"{name}.mar"


def predict(archive: Path, rows: Rows) -> Array:
    """The output of the graph inside an archive, for all rows of its inputs: what TorchServe will run, without it."""
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(archive) as packed:
            graph = packed.extract(GRAPH, work)
        with _without_deprecation(), torch.inference_mode():
            loaded = torch.jit.load(graph)
            parts = [loaded(*[torch.from_numpy(a) for a in some.values()]).numpy() for some in batches(rows, BATCH)]
            return np.concatenate(parts)


class _without_deprecation(warnings.catch_warnings):  # noqa: N801 - used like a function
    """TorchScript is deprecated and works; TorchServe has no other way to load a graph without its Python code."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
