"""The models, one folder each: their data, and their network in both frameworks side by side."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from gateway.core.contract import Tolerance
from gateway.core.messages import TensorSpec

BATCH_CAP = 256
TOLERANCE = Tolerance()


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """A model as data.

    `epochs`, `batch_size` and `learning_rate` are the training's; `least` is the metric that a build must reach;
    `tolerance` is how far its variants' outputs may be apart.
    """

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Literal["regression", "classification"]
    metric: Literal["r2", "accuracy"]
    least: float
    epochs: int
    batch_size: int
    learning_rate: float
    class_labels: tuple[str, ...] = ()
    tolerance: Tolerance = TOLERANCE

    def module(self, part: Literal["data", "torch_net", "keras_net"]) -> ModuleType:
        """One of the model's three modules, imported when it is needed: the two networks bring a framework each."""
        return importlib.import_module(f"models.zoo.{self.name}.{part}")


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
    ),
}
