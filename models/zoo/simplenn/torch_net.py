"""10 -> Linear 20 -> ReLU -> Linear 1 in PyTorch, with the scaling of its inputs and output inside."""

from __future__ import annotations

import torch
from torch import nn

from models.zoo.dataset import Dataset
from models.zoo.torch_layers import Affine


def build(data: Dataset) -> nn.Module:
    """The untrained network; its scaling comes from the training rows."""
    inputs = torch.from_numpy(data.train_inputs)
    targets = torch.from_numpy(data.train_targets)
    return SimpleNN(Affine.standardising(inputs), Affine.restoring(targets))


class SimpleNN(nn.Module):
    """Features [n, 10] in, progression [n, 1] out, both raw."""

    def __init__(self, scale_in: Affine, scale_out: Affine) -> None:
        super().__init__()
        self.scale_in = scale_in
        self.hidden = nn.Linear(10, 20)
        self.out = nn.Linear(20, 1)
        self.scale_out = scale_out

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The progression of each row."""
        return self.scale_out(self.out(torch.relu(self.hidden(self.scale_in(features)))))
