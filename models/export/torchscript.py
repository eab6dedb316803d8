"""The `torchscript` variant: a TorchScript graph in a TorchServe archive."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.export import archive
from models.export.archive import SERVING, without_deprecation
from models.zoo.dataset import Array, Rows, batches

if TYPE_CHECKING:
    from torch import nn

GRAPH = "model.pt"


def export(
    name: str,
    version: int,
    net: nn.Module,
    example: Rows,
    contract: Path,
    folder: Path,
    *,
    preprocessing: tuple[list[Path], dict[str, Any]] = ([], {}),
    handler: Path = SERVING / archive.HANDLER,
    config: Path = SERVING / archive.CONFIG,
) -> Path:
    """Writes `folder/<name>.mar` with the graph, our handler, the contract and the worker settings.

    `example` is what the network is traced with: a few rows of its inputs, in their order; `preprocessing` is what
    `archive.preprocessing` gives.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        graph = trace(net, example, Path(work) / GRAPH)
        files, options = preprocessing
        checked = archive.digests([graph, contract, *files])
        section = {"name": "torchscript", "runtime": "torchscript", "file": GRAPH, "files": checked}
        own = archive.write_config(Path(work) / config.name, {**options, "variant": section}, base=config)
        return archive.write(name, version, graph, [contract, *files], own, folder, handler)


def trace(net: nn.Module, example: Rows, path: Path, device: str = "cpu") -> Path:
    """Writes the frozen graph of a network, traced with `example` on `device`, as TorchScript."""
    tensors = [torch.from_numpy(array).to(device) for array in example.values()]
    with without_deprecation(), torch.no_grad():
        torch.jit.freeze(torch.jit.trace(net.to(device).eval(), tuple(tensors))).save(str(path))
    return path


def predict(path: Path, rows: Rows) -> Array:
    """The output of the graph inside an archive, for all rows of its inputs: what TorchServe will run, without it."""
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(path) as packed:
            graph = packed.extract(GRAPH, work)
        with without_deprecation(), torch.inference_mode():
            loaded = torch.jit.load(graph)
            return np.concatenate(
                [
                    loaded(*[torch.from_numpy(array) for array in some.values()]).numpy()
                    for some in batches(rows, archive.BATCH)
                ]
            )
