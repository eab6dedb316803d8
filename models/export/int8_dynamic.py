"""The variant `int8-dynamic`: dense layers with INT8 weights, one scale a neuron, traced into TorchScript.

Activations stay FP32 between the layers, and each layer quantizes its own, all of a batch with one scale, as they come.
A layer whose activations have outliers that such a scale must span stays FP32: what is left of 256 steps for the others
is too coarse.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from models.export import archive, torchscript
from models.export.archive import predict
from models.job import Job
from models.zoo.dataset import Rows

__all__ = ["export", "predict", "unavailable"]

# The most that rounding to 256 steps may add, in standard deviations of a layer's activations.
NOISE = 0.04
CALIBRATION_ROWS = 32


def unavailable(job: Job) -> str | None:
    """It needs a dense layer, and torch's INT8 kernels."""
    if not any(isinstance(module, nn.Linear) for module in job.torch_net().modules()):
        return "the network has no dense layer, and only those are quantized dynamically"
    if torch.backends.quantized.engine == "none":
        return f"torch {torch.__version__} has no INT8 kernels for this CPU"
    return None


def export(job: Job) -> None:
    """The traced graph and the archive around it; raises ValueError where no layer could be quantized."""
    net = job.torch_net()
    chosen = even(net, next(archive.calibration(job, CALIBRATION_ROWS)))
    if not chosen:
        raise ValueError("every dense layer's activations have outliers; none can be quantized batch by batch")
    layers = dict.fromkeys(chosen, torch.ao.quantization.per_channel_dynamic_qconfig)
    with tempfile.TemporaryDirectory() as work, archive.without_deprecation():
        quantized = torch.ao.quantization.quantize_dynamic(net, layers, torch.qint8)
        path = torchscript.trace(quantized, archive.example(job), Path(work) / torchscript.GRAPH)
        archive.pack(job, [path], archive.section_of(job.variant.name, "torchscript", [path]))


def even(net: nn.Module, rows: Rows) -> list[str]:
    """The dense layers whose activations for `rows` one scale can hold."""
    noise: dict[str, float] = {}

    def note(name: str, given: torch.Tensor) -> None:
        # Rounding to steps of one size is an error evenly spread over a step: its deviation is a step over sqrt(12).
        step = float(given.max() - given.min()) / 255
        noise[name] = step / 12**0.5 / max(float(given.std()), 1e-12)

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: note(name, given[0]))
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.inference_mode():
        net(*[torch.from_numpy(array) for array in rows.values()])
    for hook in hooks:
        hook.remove()
    return [name for name, value in noise.items() if value <= NOISE]
