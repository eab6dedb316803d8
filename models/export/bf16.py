"""The variant `bf16`: dense and convolution layers with weights and activations in BF16, traced into TorchScript.

What scales a model's inputs and outputs, its sums over many values and its softmax stay FP32, as torch's autocast
keeps them.
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

HALVED = (nn.Linear, nn.Conv2d)


class Autocast(nn.Module):
    """A network whose layers compute in BF16; FP32 comes in and goes out."""

    def __init__(self, net: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        for module in net.modules():
            if isinstance(module, HALVED):
                module.to(torch.bfloat16)
        self.net, self.device = net, device

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the network gives."""
        with torch.autocast(self.device, torch.bfloat16):
            result: torch.Tensor = self.net(*inputs)
        return result.float()


def unavailable(_: Job) -> str | None:
    """Every CPU computes BF16, one without the instructions slowly."""
    return None


def export(job: Job) -> None:
    """The traced graph and the archive around it."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / torchscript.GRAPH
        torchscript.trace(Autocast(job.torch_net()), archive.example(job), path)
        archive.pack(job, [path], archive.section_of(job.variant.name, "torchscript", [path]))
