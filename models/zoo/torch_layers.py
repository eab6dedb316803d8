"""What both networks use in PyTorch."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn


class Affine(nn.Module):
    """y = x * scale + offset along the last dimension: the scaling that is part of a model."""

    def __init__(self, scale: torch.Tensor, offset: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    @classmethod
    def standardising(cls, rows: torch.Tensor) -> Self:
        """Takes `rows` [n, d] to mean 0 and deviation 1 in each column."""
        deviation, mean = torch.std_mean(rows, dim=0)
        return cls(1 / deviation, -mean / deviation)

    @classmethod
    def restoring(cls, rows: torch.Tensor) -> Self:
        """The inverse of `standardising`."""
        deviation, mean = torch.std_mean(rows, dim=0)
        return cls(deviation, mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` scaled and moved."""
        return x * self.scale + self.offset
