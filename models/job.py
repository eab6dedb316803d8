"""One variant to make of one built model: what an exporter is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gateway.core.contract import ModelContract, Quality
from models import manifest
from models.variants import Variant
from models.zoo import ModelDefinition
from models.zoo.dataset import Dataset, Rows, named

if TYPE_CHECKING:
    import keras
    from torch import nn

WEIGHTS = "weights.npz"


@dataclass(frozen=True, slots=True)
class Job:
    """One variant of one built model.

    `contract` is the variant's, without parity. `base` is the built model's folder, which is only read; `folder` is
    the variant's own, hidden until it is whole.
    """

    definition: ModelDefinition
    variant: Variant
    contract: ModelContract
    base: Path
    folder: Path
    data: Dataset

    @property
    def served_name(self) -> str:
        """The model's name on its server."""
        return self.variant.served_name(self.definition.name)

    @property
    def train_rows(self) -> Rows:
        """Rows as those of the training, in the contract's shape, by the names of its inputs."""
        own = self.data.calibration_inputs
        return named(self.data.train_inputs if own is None else own, self.definition.inputs)

    @property
    def test_rows(self) -> Rows:
        """The test rows by the names of the contract's inputs."""
        return named(self.data.test_inputs, self.definition.inputs)

    def torch_net(self) -> nn.Module:
        """The trained network, built anew, in evaluation mode. It takes `definition.network_rows` in their order."""
        net: nn.Module = self.definition.module("torch_net").build(self.data)
        load_weights(net, self.base / WEIGHTS)
        return net.eval()

    def keras_net(self) -> keras.Model:
        """The same network in Keras, built anew. It takes one array, or several by name."""
        from models.convert import to_keras

        return to_keras(self.definition, self.torch_net(), self.data)


def contract_of(variant: Variant, base: ModelContract, metric: str, original: float) -> ModelContract:
    """A variant's contract: the model's tensors, and the tolerance or the quality that it is held to.

    `original` is the trained network's own `metric` on the test rows.
    """
    quality = None
    if not variant.exact:
        agreement = variant.agreement if base.class_labels else None
        quality = Quality(metric, original, least=original - variant.drop, argmax_agreement_least=agreement)
    return replace(
        base,
        name=variant.served_name(base.name),
        parity=None,
        quality=quality,
        variants={variant.name: variant.stack},
    )


def job_of(definition: ModelDefinition, variant: Variant, base: Path, folder: Path, data: Dataset) -> Job:
    """The job for a model that is built in `base`; raises ManifestError or ContractError where it is not."""
    built = manifest.load(base)
    contract = ModelContract.load(base / "contract.json")
    own = contract_of(variant, contract, definition.metric, built.metric[definition.metric])
    return Job(definition, variant, own, base, folder, data)


def save_weights(net: nn.Module, path: Path) -> None:
    """Writes a network's state as numpy arrays by name."""
    arrays = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_weights(net: nn.Module, path: Path) -> None:
    """Reads what `save_weights` wrote; raises what torch raises where the network is another."""
    import torch

    with np.load(path) as arrays:
        net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
