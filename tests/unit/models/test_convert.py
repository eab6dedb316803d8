"""The layer map, in both directions, on random weights and on trained networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from models.convert import ConversionError, copy_to_keras, copy_to_torch, to_keras, to_torch
from models.train import Trained, predict_keras, predict_torch
from models.zoo.keras_layers import Affine as KerasAffine
from models.zoo.torch_layers import Affine as TorchAffine

RANDOM = np.random.default_rng(1)


class Convolutional(nn.Module):
    """A convolution with a stride and padding, a normalisation, and a dense layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 2), stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.Linear(4 * 3 * 5, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.conv(image.permute(0, 3, 1, 2))).flatten(1))


def convolutional_keras(epsilon: float = 1e-5) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 8, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, (3, 2), strides=2, name="conv"),
            layers.BatchNormalization(epsilon=epsilon, name="norm"),
            layers.Flatten(),
            layers.Dense(2, name="out"),
        ]
    )


class Dense(nn.Module):
    """An affine scaling and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = TorchAffine(torch.ones(5), torch.zeros(5))
        self.out = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.scale(x))


def dense_keras() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5,)), KerasAffine(np.ones(5), np.zeros(5), name="scale"), keras.layers.Dense(3, name="out")]
    )


PAIRS: list[tuple[Callable[[], nn.Module], Callable[[], keras.Model], tuple[int, ...]]] = [
    (Convolutional, convolutional_keras, (4, 6, 8, 3)),
    (Dense, dense_keras, (4, 5)),
]


def randomised(net: nn.Module) -> nn.Module:
    """Every weight and statistic of the network drawn anew, so that no default hides a missing copy."""
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(RANDOM.uniform(0.5, 1.5, value.shape).astype(np.float32)))
    return net.eval()


def close(ours: Any, theirs: Any) -> bool:
    return np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("torch_net", "keras_net", "shape"), PAIRS)
def test_every_kind_of_layer_survives_both_ways(
    torch_net: Callable[[], nn.Module], keras_net: Callable[[], keras.Model], shape: tuple[int, ...]
) -> None:
    """Random weights give the same outputs in the other framework, and come back as they were, to the bit."""
    source, target, back = randomised(torch_net()), keras_net(), torch_net().eval()
    inputs = RANDOM.normal(size=shape).astype(np.float32)
    copy_to_keras(source, target)
    assert close(predict_torch(source, inputs), predict_keras(target, inputs))
    copy_to_torch(target, back)
    for name, value in source.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, back.state_dict()[name]), name


def test_a_trained_network_answers_alike_in_keras(trained_torch: Trained) -> None:
    """The whole test set, through the network that the converter made."""
    inputs = trained_torch.data.test_inputs
    other = to_keras(trained_torch.definition, trained_torch.net, trained_torch.data)
    assert np.allclose(predict_torch(trained_torch.net, inputs), predict_keras(other, inputs), rtol=1e-5, atol=1e-5)


def test_a_trained_network_answers_alike_in_pytorch(trained_keras: Trained) -> None:
    """The other direction."""
    inputs = trained_keras.data.test_inputs
    other = to_torch(trained_keras.definition, trained_keras.net, trained_keras.data)
    assert np.allclose(predict_keras(trained_keras.net, inputs), predict_torch(other, inputs), rtol=1e-5, atol=1e-5)


def test_another_epsilon_is_refused() -> None:
    """Keras's default epsilon differs from PyTorch's: outputs would be nearly right, and wrong."""
    with pytest.raises(ConversionError, match="norm: epsilon is 1e-05 in PyTorch and 0.001 in Keras"):
        copy_to_keras(Convolutional(), convolutional_keras(epsilon=1e-3))


def test_a_layer_without_a_rule_is_refused_by_name() -> None:
    """An unknown layer is not skipped."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Bilinear(2, 2, 3)

    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="out")])
    with pytest.raises(ConversionError, match="out: no rule converts a Bilinear"):
        copy_to_keras(Odd(), net)


def test_networks_with_different_layers_are_refused() -> None:
    """Both sides are named."""
    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="other")])
    with pytest.raises(ConversionError, match=r"only in PyTorch \['out', 'scale'\], only in Keras \['other'\]"):
        copy_to_keras(Dense(), net)


def test_a_layer_of_another_size_is_refused() -> None:
    """The weight and both shapes are named."""
    net = keras.Sequential(
        [keras.Input((5,)), KerasAffine(np.ones(5), np.zeros(5), name="scale"), keras.layers.Dense(4, name="out")]
    )
    with pytest.raises(ConversionError, match=r"out.kernel: shape \[5, 3\] does not fit the other network's \[5, 4\]"):
        copy_to_keras(Dense(), net)
