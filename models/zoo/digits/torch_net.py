"""Two convolutions and two dense layers in PyTorch. Images come as [n, 8, 8, 1]; the graph permutes inside."""

from __future__ import annotations

import torch
from torch import nn

from models.zoo.dataset import Dataset
from models.zoo.torch_layers import Affine


def build(data: Dataset) -> nn.Module:
    """The untrained network; one scale for all pixels, from the training rows."""
    return Digits(Affine.standardising(torch.from_numpy(data.train_inputs).reshape(-1, 1)))


class Digits(nn.Module):
    """Image [n, 8, 8, 1] in, probabilities [n, 10] out."""

    def __init__(self, scale_in: Affine) -> None:
        super().__init__()
        self.scale_in = scale_in
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.out = nn.Linear(64, 10)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """The scores before the softmax, [n, 10]."""
        pixels = self.scale_in(image).permute(0, 3, 1, 2)
        first = torch.relu(self.norm1(self.conv1(pixels)))
        second = torch.relu(self.norm2(self.conv2(first)))
        return self.out(torch.relu(self.hidden(second.flatten(1))))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The probability of each digit."""
        return torch.softmax(self.logits(image), dim=1)
