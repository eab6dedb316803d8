"""ResNet-50 in PyTorch. Images come as [n, height, width, 3]; the graph permutes inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from models.zoo.resnet50.sizes import CLASSES, STAGES, WIDER
from models.zoo.torch_layers import Affine

if TYPE_CHECKING:
    from models.zoo.dataset import Dataset


def build(data: Dataset) -> nn.Module:
    """The untrained network; one scale for all pixels, from the training rows."""
    return ResNet50(Affine.standardising(torch.from_numpy(data.train_inputs).reshape(-1, 1)))


class Block(nn.Module):
    """Three convolutions, the middle one with the stride, added to what came in."""

    def __init__(self, given: int, inside: int, stride: int) -> None:
        super().__init__()
        out = inside * WIDER
        self.conv1 = nn.Conv2d(given, inside, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out)
        # A block that begins as nothing but its shortcut makes a deep network learn within few steps.
        nn.init.zeros_(self.norm3.weight)
        self.widens = given != out
        if self.widens:
            self.shortcut = nn.Conv2d(given, out, 1, stride=stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(out)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Channels first, both ways."""
        inside = torch.relu(self.norm1(self.conv1(given)))
        inside = torch.relu(self.norm2(self.conv2(inside)))
        kept = self.shortcut_norm(self.shortcut(given)) if self.widens else given
        return torch.relu(self.norm3(self.conv3(inside)) + kept)


class ResNet50(nn.Module):
    """Image [n, height, width, 3] in, probabilities [n, 6] out."""

    def __init__(self, scale_in: Affine) -> None:
        super().__init__()
        self.scale_in = scale_in
        self.conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        given, blocks = 64, []
        for stage, (count, inside) in enumerate(STAGES):
            for place in range(count):
                blocks.append(Block(given, inside, stride=2 if stage and not place else 1))
                given = inside * WIDER
        self.blocks = nn.ModuleList(blocks)
        self.out = nn.Linear(given, len(CLASSES))

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """The scores before the softmax, [n, 6]."""
        # Permuted, images [n, height, width, channels] are channels-last tensors already: nothing is copied.
        hidden = torch.relu(self.norm(self.conv(self.scale_in(image).permute(0, 3, 1, 2))))
        hidden = functional.max_pool2d(hidden, 3, stride=2, padding=1)
        for block in self.blocks:
            hidden = block(hidden)
        return self.out(hidden.mean((2, 3)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The probability of each texture."""
        return torch.softmax(self.logits(image), dim=1)
