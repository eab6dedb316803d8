"""The models, one folder each: their data, and their network in both frameworks side by side."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

from gateway.core.contract import Tolerance
from gateway.core.messages import TensorSpec
from models.zoo.dataset import Rows

BATCH_CAP = 256
TOLERANCE = Tolerance()


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """A model as data.

    `epochs`, `batch_size` and `learning_rate` are the training's; `least` is the metric that a build must reach;
    `tolerance` is how far its variants' outputs may be apart. `not_offered` says of a stack (`torchserve`,
    `tfserving`) why it does not serve the model. A `preprocessed` model's inputs are made into its network's by
    `network_rows` of its module `preprocess`. `demo`: built by `make demo`.
    """

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Literal["regression", "classification", "embedding"]
    metric: Literal["r2", "accuracy", "cosine"]
    least: float
    epochs: int
    batch_size: int
    learning_rate: float
    class_labels: tuple[str, ...] = ()
    tolerance: Tolerance = TOLERANCE
    not_offered: Mapping[str, str] = field(default_factory=dict)
    preprocessed: bool = False
    demo: bool = False
    package: str = ""

    def module(self, part: Literal["data", "torch_net", "keras_net", "preprocess"]) -> ModuleType:
        """One of the model's modules, imported when it is needed: the two networks bring a framework each.

        They are in `models.zoo.<package>`, which is called like the model where it is not named.
        """
        return importlib.import_module(f"models.zoo.{self.package or self.name}.{part}")

    def network_rows(self, rows: Rows) -> Rows:
        """What the network takes for these inputs of the contract, by name and in the network's order."""
        return self.module("preprocess").network_rows(rows) if self.preprocessed else rows


MODELS: dict[str, ModelDefinition] = {
    "simplenn": ModelDefinition(
        name="simplenn",
        version=1,
        inputs=(TensorSpec("features", "FP32", (-1, 10)),),
        outputs=(TensorSpec("progression", "FP32", (-1, 1)),),
        task="regression",
        metric="r2",
        least=0.3,
        epochs=40,
        batch_size=32,
        learning_rate=3e-3,
        demo=True,
    ),
    "digits": ModelDefinition(
        name="digits",
        version=1,
        inputs=(TensorSpec("image", "FP32", (-1, 8, 8, 1)),),
        outputs=(TensorSpec("probabilities", "FP32", (-1, 10)),),
        task="classification",
        metric="accuracy",
        least=0.97,
        epochs=15,
        batch_size=64,
        learning_rate=2e-3,
        class_labels=tuple("0123456789"),
        demo=True,
    ),
}
# What the demo and the launcher build; the others are built by name, or with all of `twinserve models build`.
DEMO = tuple(name for name, definition in MODELS.items() if definition.demo)
