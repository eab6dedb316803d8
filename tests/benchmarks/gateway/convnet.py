"""A small convolutional network for 224x224 images, exported as the project exports its own: `python -m ... FOLDER`.

It is here for the size of its input: untrained, and small beside what reading the image's JSON takes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gateway.core.contract import ModelContract
from gateway.core.messages import TensorSpec
from models.export import torchscript

NAME = "convnet"
SHAPE = (224, 224, 3)


class Convnet(nn.Module):
    """Three strided convolutions, a mean over what is left, ten scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores (rows, 10) of images (rows, 224, 224, 3)."""
        return self.layers(image.permute(0, 3, 1, 2))


def main(folder: Path) -> None:
    """Writes `folder/contract.json` and `folder/torchscript/convnet.mar`."""
    torch.manual_seed(0)
    contract = ModelContract(
        name=NAME,
        version=1,
        inputs=(TensorSpec("image", "FP32", (-1, *SHAPE)),),
        outputs=(TensorSpec("scores", "FP32", (-1, 10)),),
        batch_cap=16,
    )
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text(contract.to_json())
    example = {"image": np.zeros((1, *SHAPE), np.float32)}
    torchscript.export(NAME, 1, Convnet(), example, folder / "contract.json", folder / "torchscript")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
