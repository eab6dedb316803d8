"""The variant `int8-dynamic`: dense layers with INT8 weights, traced into TorchScript.

Activations stay FP32 between the layers, and each layer quantizes its own batch by batch: nothing is calibrated.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from models.export import archive, torchscript
from models.export.archive import predict
from models.job import Job

__all__ = ["export", "predict", "unavailable"]


def unavailable(job: Job) -> str | None:
    """It needs a dense layer, and torch's INT8 kernels."""
    if not any(isinstance(module, nn.Linear) for module in job.torch_net().modules()):
        return "the network has no dense layer, and only those are quantized dynamically"
    if torch.backends.quantized.engine == "none":
        return f"torch {torch.__version__} has no INT8 kernels for this CPU"
    return None


def export(job: Job) -> None:
    """The traced graph and the archive around it."""
    with tempfile.TemporaryDirectory() as work, archive.without_deprecation():
        net = torch.ao.quantization.quantize_dynamic(job.torch_net(), {nn.Linear}, torch.qint8)
        path = torchscript.trace(net, archive.example(job), Path(work) / torchscript.GRAPH)
        archive.pack(job, [path], archive.section_of(job.variant.name, "torchscript", [path]))
