"""Trains a model in either framework, seeded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from models.zoo import ModelDefinition
from models.zoo.dataset import Array, Dataset, Rows, WeightsError, named

if TYPE_CHECKING:
    import keras
    from torch import nn

Framework = Literal["pytorch", "keras"]
FRAMEWORKS: tuple[Framework, ...] = ("pytorch", "keras")
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network, its data, and its metric on the test rows (R2, or the share of right labels)."""

    definition: ModelDefinition
    framework: Framework
    net: Any
    data: Dataset
    metric: float

    def described(self) -> str:
        """The metric, for people."""
        given = self.definition.pretrained
        if given:
            return f"weights of {given} {metadata.version(given)}, test {self.definition.metric} {self.metric:.6f}"
        return f"test {self.definition.metric} {self.metric:.4f} ({self.framework})"


class TrainingError(RuntimeError):
    """Raised where a network is worse on the test rows than its definition asks for."""


def train(definition: ModelDefinition, framework: Framework, seed: int) -> Trained:
    """Trains with `seed`; raises TrainingError where the result is not good enough to be worth serving."""
    random.seed(seed)
    np.random.seed(seed)
    fit, predict = (_fit_torch, predict_torch) if framework == "pytorch" else (_fit_keras, predict_keras)
    try:
        data: Dataset = definition.module("data").load(seed)
        net = _pretrained(definition, data, framework) if definition.pretrained else fit(definition, data, seed)
    except WeightsError as exc:
        raise TrainingError(f"{definition.name}: {exc}") from exc
    metric = score(definition, predict(net, tested(definition, data)), data.test_targets)
    # Written so that a metric of NaN, from weights that ran away, is not good enough either.
    if not metric >= definition.least:
        how = f"with the weights of {definition.pretrained}" if definition.pretrained else "after training"
        raise TrainingError(
            f"{definition.name}: test {definition.metric} {metric:.3f} {how} in {framework} with seed {seed};"
            f" at least {definition.least} is expected"
        )
    return Trained(definition, framework, net, data, metric)


def score(definition: ModelDefinition, outputs: Array, targets: Array) -> float:
    """R2 (1 - residual sum of squares / total sum of squares), the share of rows with the right label, or the mean
    cosine of the angles between embeddings and those that `targets` are.
    """
    if definition.task == "classification":
        return float((outputs.argmax(axis=1) == targets).mean())
    if definition.task == "embedding":
        norms = np.linalg.norm(outputs, axis=1) * np.linalg.norm(targets, axis=1)
        return float(((outputs * targets).sum(axis=1) / norms).mean())
    return float(1 - ((targets - outputs) ** 2).sum() / ((targets - targets.mean()) ** 2).sum())


def tested(definition: ModelDefinition, data: Dataset) -> Rows:
    """What the network takes for the test rows."""
    return definition.network_rows(named(data.test_inputs, definition.inputs))


def predict_torch(net: nn.Module, inputs: Array | Rows) -> Array:
    """The network's output for all rows; several inputs are given in their order."""
    import torch

    arrays = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    net.eval()
    with torch.inference_mode():
        return np.asarray(net(*[torch.from_numpy(array) for array in arrays]).numpy())


def predict_keras(net: keras.Model, inputs: Array | Rows) -> Array:
    """The network's output for all rows; several inputs are given by name."""
    if isinstance(inputs, Mapping):
        inputs = dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))
    return np.asarray(net(inputs, training=False))


def _pretrained(definition: ModelDefinition, data: Dataset, framework: Framework) -> Any:  # noqa: ANN401 - a network
    """The network with a package's weights; raises WeightsError where they are not there."""
    from models.convert import to_keras

    net: nn.Module = definition.module("torch_net").pretrained(data)
    return net if framework == "pytorch" else to_keras(definition, net, data)


def _fit_torch(definition: ModelDefinition, data: Dataset, seed: int) -> nn.Module:
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    # The same sums on every machine, and faster: these networks are too small to share among cores.
    torch.set_num_threads(1)
    net: nn.Module = definition.module("torch_net").build(data)
    inputs, targets = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_targets)
    optimiser = torch.optim.AdamW(net.parameters(), lr=definition.learning_rate, weight_decay=WEIGHT_DECAY)
    # Targets in the hundreds would make the loss of a regression huge: it is measured in their own deviations.
    unit = 1.0 if definition.task == "classification" else float(targets.std())
    net.train()
    for _ in range(definition.epochs):
        for rows in torch.randperm(len(inputs)).split(definition.batch_size):
            if len(rows) == 1:
                continue  # batch normalisation has no variance over one row
            optimiser.zero_grad()
            if definition.task == "classification":
                loss = functional.cross_entropy(net.logits(inputs[rows]), targets[rows])  # type: ignore[operator]
            else:
                loss = functional.mse_loss(net(inputs[rows]) / unit, targets[rows] / unit)
            loss.backward()
            optimiser.step()
    return net.eval()


def _fit_keras(definition: ModelDefinition, data: Dataset, seed: int) -> keras.Model:
    import keras

    keras.utils.set_random_seed(seed)
    net: keras.Model = definition.module("keras_net").build(data)
    unit = 1.0 if definition.task == "classification" else float(data.train_targets.std())

    def regression_loss(target: Any, output: Any) -> Any:  # noqa: ANN401 - Keras's own tensors
        return keras.ops.mean(keras.ops.square((target - output) / unit))

    net.compile(
        optimizer=keras.optimizers.AdamW(definition.learning_rate, weight_decay=WEIGHT_DECAY),
        loss="sparse_categorical_crossentropy" if definition.task == "classification" else regression_loss,
        jit_compile=False,
    )
    net.fit(
        data.train_inputs, data.train_targets, batch_size=definition.batch_size, epochs=definition.epochs, verbose=0
    )
    return net
