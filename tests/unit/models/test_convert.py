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


def convolutional_keras() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 8, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, (3, 2), strides=2, name="conv"),
            layers.BatchNormalization(epsilon=1e-5, name="norm"),
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


class Same(nn.Module):
    """Padding called "same", dilated and without a bias, and an activation between flatten and dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (5, 3), padding="same", dilation=(1, 2), bias=False)
        self.out = nn.Linear(3 * 5 * 7, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(image.permute(0, 3, 1, 2)).flatten(1)))


def same_keras() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5, 7, 2)),
            layers.Conv2D(3, (5, 3), padding="same", dilation_rate=(1, 2), use_bias=False, name="conv"),
            layers.Flatten(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Dense(2, name="out"),
        ]
    )


def network(**children: nn.Module) -> nn.Module:
    net = nn.Module()
    for name, child in children.items():
        net.add_module(name, child)
    return net


class Nested(nn.Module):
    """Words, a block of layers within a list that is added to what comes in, and a dense layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(9, 4)
        self.blocks = nn.ModuleList([network(inner=nn.Linear(4, 4), norm=nn.LayerNorm(4, eps=1e-12))])
        self.out = nn.Linear(5 * 3 * 4, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.word(ids.long())
        block = self.blocks[0]
        hidden = block.norm(block.inner(hidden) + hidden)
        return self.out(hidden.permute(0, 3, 1, 2).flatten(1))


def nested_keras() -> keras.Model:
    layers = keras.layers
    ids = keras.Input((5, 3))
    hidden = layers.Embedding(9, 4, name="word")(ids)
    inner = layers.Dense(4, name="blocks.0.inner")(hidden)
    hidden = layers.LayerNormalization(epsilon=1e-12, name="blocks.0.norm")(layers.Add()([inner, hidden]))
    return keras.Model(ids, layers.Dense(2, name="out")(layers.Flatten()(hidden)))


PAIRS: list[tuple[Callable[[], nn.Module], Callable[[], keras.Model], tuple[int, ...]]] = [
    (Convolutional, convolutional_keras, (4, 6, 8, 3)),
    (Dense, dense_keras, (4, 5)),
    (Same, same_keras, (4, 5, 7, 2)),
    (Nested, nested_keras, (4, 5, 3)),
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
    inputs = np.abs(RANDOM.normal(size=shape).astype(np.float32))
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


def sequential(shape: tuple[int, ...], *layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers])


def free_weight() -> nn.Module:
    net = network(out=nn.Linear(5, 3))
    net.register_parameter("free", nn.Parameter(torch.ones(1)))
    return net


def branched() -> keras.Model:
    """Zeros are padded right before the convolution in the order of layers, and in another branch of the graph."""
    image = keras.Input(IMAGE)
    padded = L.ZeroPadding2D(1)(image)
    return keras.Model(image, [padded, L.Conv2D(4, 3, name="conv")(image)])


IMAGE = (8, 8, 3)
L = keras.layers
# PyTorch, Keras, and what the error says.
MISMATCHES: dict[str, tuple[Callable[[], nn.Module], Callable[[], keras.Model], str]] = {
    "no rule": (
        lambda: network(out=nn.Bilinear(2, 2, 3)),
        lambda: sequential((5,), L.Dense(3, name="out")),
        "out: no rule converts a Bilinear; known: Linear, Conv2d, BatchNorm2d, LayerNorm, Embedding, Affine",
    ),
    "nested, and called otherwise": (
        lambda: network(out=nn.Sequential(nn.Linear(5, 3))),
        lambda: sequential((5,), L.Dense(3, name="out")),
        r"only in PyTorch \['out.0'\], only in Keras \['out'\]",
    ),
    "nested in Keras": (
        lambda: network(out=nn.Sequential(nn.Linear(5, 3))),
        lambda: sequential((5,), keras.Sequential([L.Dense(3)], name="out.0")),
        "out.0: a Linear in PyTorch and a Sequential in Keras",
    ),
    "attention with weights of its own": (
        lambda: network(mix=nn.MultiheadAttention(4, 2)),
        lambda: sequential((5, 4), L.Dense(4, name="mix"), L.Dense(4, name="mix.out_proj")),
        "mix: no rule converts a MultiheadAttention",
    ),
    "another epsilon of a layer's normalisation": (
        lambda: network(norm=nn.LayerNorm(4)),
        lambda: sequential((5, 4), L.LayerNormalization(name="norm")),
        "norm: epsilon is 1e-05 in PyTorch and 0.001 in Keras",
    ),
    "another axis of a layer's normalisation": (
        lambda: network(norm=nn.LayerNorm(5)),
        lambda: sequential((5, 4), L.LayerNormalization(axis=1, epsilon=1e-5, name="norm")),
        "norm: normalises axis 1 in Keras; expected the last",
    ),
    "a normalisation of two axes": (
        lambda: network(norm=nn.LayerNorm((5, 4))),
        lambda: sequential((5, 4), L.LayerNormalization(axis=(1, 2), epsilon=1e-5, name="norm")),
        r"norm: normalises \[5, 4\]; expected one axis",
    ),
    "an embedding that masks": (
        lambda: network(word=nn.Embedding(9, 4)),
        lambda: sequential((5,), L.Embedding(9, 4, mask_zero=True, name="word")),
        "word: expected no max_norm in PyTorch, and no mask_zero in Keras",
    ),
    "padding of another branch": (
        lambda: network(conv=nn.Conv2d(3, 4, 3, padding=1)),
        branched,
        r"conv: padding is \(\(1, 1\), \(1, 1\)\) in PyTorch and \(\(0, 0\), \(0, 0\)\) in Keras",
    ),
    "a weight outside of layers": (
        free_weight,
        lambda: sequential((5,), L.Dense(3, name="out")),
        "free: a weight of the network itself",
    ),
    "other kind": (
        lambda: network(out=nn.Linear(5, 3)),
        lambda: sequential((5,), L.EinsumDense("ab,bc->ac", 3, bias_axes="c", name="out")),
        "out: a Linear in PyTorch and a EinsumDense in Keras",
    ),
    "other names": (
        lambda: network(out=nn.Linear(5, 3)),
        lambda: sequential((5,), L.Dense(3, name="other")),
        r"only in PyTorch \['out'\], only in Keras \['other'\]",
    ),
    "other size": (
        lambda: network(out=nn.Linear(5, 3)),
        lambda: sequential((5,), L.Dense(4, name="out")),
        r"out.\w+: shape \[.*\] does not fit the other network's \[.*\]",
    ),
    "no bias in Keras": (
        lambda: network(out=nn.Linear(5, 3)),
        lambda: sequential((5,), L.Dense(3, use_bias=False, name="out")),
        r"out: its weights are \['bias', 'weight'\] in PyTorch and \['kernel'\] in Keras",
    ),
    "no bias in PyTorch": (
        lambda: network(out=nn.Linear(5, 3, bias=False)),
        lambda: sequential((5,), L.Dense(3, name="out")),
        r"out: its weights are \['weight'\] in PyTorch and \['bias', 'kernel'\] in Keras",
    ),
    "no gamma": (
        lambda: network(norm=nn.BatchNorm2d(3)),
        lambda: sequential(IMAGE, L.BatchNormalization(epsilon=1e-5, scale=False, name="norm")),
        "norm: its weights are",
    ),
    "another epsilon": (
        lambda: network(norm=nn.BatchNorm2d(3)),
        lambda: sequential(IMAGE, L.BatchNormalization(name="norm")),
        "norm: epsilon is 1e-05 in PyTorch and 0.001 in Keras",
    ),
    "another axis": (
        lambda: network(norm=nn.BatchNorm2d(8)),
        lambda: sequential(IMAGE, L.BatchNormalization(axis=1, epsilon=1e-5, name="norm")),
        "norm: normalises axis 1 in Keras; expected the last",
    ),
    "another stride": (
        lambda: network(conv=nn.Conv2d(3, 4, 3, stride=2)),
        lambda: sequential(IMAGE, L.Conv2D(4, 3, name="conv")),
        r"conv: stride is \(2, 2\) in PyTorch and \(1, 1\) in Keras",
    ),
    "another dilation": (
        lambda: network(conv=nn.Conv2d(3, 4, 3, dilation=2)),
        lambda: sequential(IMAGE, L.Conv2D(4, 3, name="conv")),
        "conv: dilation is",
    ),
    "other groups": (
        lambda: network(conv=nn.Conv2d(3, 3, 3, groups=3)),
        lambda: sequential(IMAGE, L.Conv2D(3, 3, name="conv")),
        "conv: groups is 3 in PyTorch and 1 in Keras",
    ),
    "no padding": (
        lambda: network(conv=nn.Conv2d(3, 4, 3, padding=1)),
        lambda: sequential(IMAGE, L.Conv2D(4, 3, name="conv")),
        r"conv: padding is \(\(1, 1\), \(1, 1\)\) in PyTorch and \(\(0, 0\), \(0, 0\)\) in Keras",
    ),
    "same is lopsided with a stride": (
        lambda: network(conv=nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        lambda: sequential(IMAGE, L.Conv2D(4, 3, strides=2, padding="same", name="conv")),
        r"conv: padding is \(\(1, 1\), \(1, 1\)\) in PyTorch and \(\(0, 1\), \(0, 1\)\) in Keras",
    ),
    "padding by reflection": (
        lambda: network(conv=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        lambda: sequential(IMAGE, L.Conv2D(4, 3, padding="same", name="conv")),
        "conv: expected channels last in Keras, and zeros as PyTorch's padding",
    ),
    "another flatten": (
        lambda: network(out=nn.Linear(10, 2)),
        lambda: sequential((2, 2, 3), L.Flatten(), L.Dense(2, name="out")),
        "out.*(10 inputs, but what Keras flattens before it has shape|does not fit)",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_whatever_differs_is_refused_by_name_in_both_directions(case: str) -> None:
    """Nothing is skipped or guessed: outputs would be nearly right, and wrong."""
    torch_net, keras_net, said = MISMATCHES[case]
    with pytest.raises(ConversionError, match=said):
        copy_to_keras(torch_net(), keras_net())
    with pytest.raises(ConversionError, match=said):
        copy_to_torch(keras_net(), torch_net())


class Subclassed(keras.Model):
    """A network whose graph only running it tells."""


def test_a_network_without_a_known_graph_is_refused() -> None:
    """What a dense layer's inputs were flattened from is known of Sequential and Functional only."""
    with pytest.raises(ConversionError, match="a Subclassed; only of Sequential and Functional"):
        copy_to_keras(network(out=nn.Linear(5, 3)), Subclassed())
