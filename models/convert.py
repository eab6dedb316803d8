"""Moves weights between the frameworks, layer by layer, by an explicit map.

Layers are matched by name: that of a nested PyTorch module is its path, such as `layers.0.query`, and so is that of the
Keras layer. What differs between the frameworks is written out for each kind of layer:

| PyTorch | Keras | difference |
|---|---|---|
| Linear.weight [out, in] | Dense.kernel [in, out] | transposed |
| Conv2d.weight [out, in, h, w] | Conv2D.kernel [h, w, in, out] | permuted; strides and zeros around it must be equal |
| Linear after a flatten of [c, h, w] | Dense after a flatten of [h, w, c] | its inputs are reordered |
| BatchNorm2d.running_mean, running_var | moving_mean, moving_variance | names; epsilon must be equal |
| LayerNorm.weight, bias | LayerNormalization.gamma, beta | names; the last axis, epsilon must be equal |
| Embedding.weight | Embedding.embeddings | none |
| Affine.scale, offset | Affine.scale, offset | none |

Nothing is skipped: a layer or weight that the map does not know is an error. What has no weights in either framework
(activations, pooling, attention between its dense layers) is not compared here but by the parity check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.zoo import ModelDefinition
from models.zoo.dataset import Array, Dataset

if TYPE_CHECKING:
    import keras
    from torch import nn

Shape = tuple[int, ...]


class ConversionError(ValueError):
    """Raised for a layer that the map does not know, or that differs between the two networks; names the layer."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of layer: its class in Keras, and the Keras names of its weights by their PyTorch names."""

    keras: str
    names: Mapping[str, str]


RULES: Mapping[str, Rule] = {
    "Linear": Rule("Dense", {"weight": "kernel", "bias": "bias"}),
    "Conv2d": Rule("Conv2D", {"weight": "kernel", "bias": "bias"}),
    "BatchNorm2d": Rule(
        "BatchNormalization",
        {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
    ),
    "LayerNorm": Rule("LayerNormalization", {"weight": "gamma", "bias": "beta"}),
    "Embedding": Rule("Embedding", {"weight": "embeddings"}),
    "Affine": Rule("Affine", {"scale": "scale", "offset": "offset"}),
}
# PyTorch counts the batches that a normalisation has seen; only training without a momentum reads it.
COUNTERS = frozenset({"num_batches_tracked"})


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer in both frameworks; `flattened` is the [h, w, c] that a flatten before a dense layer flattens."""

    name: str
    module: Any
    layer: Any
    flattened: Shape | None

    @property
    def kind(self) -> str:
        """The layer's class in PyTorch."""
        return type(self.module).__name__


def to_keras(definition: ModelDefinition, net: nn.Module, data: Dataset) -> keras.Model:
    """A Keras network with the weights of a PyTorch one."""
    other: keras.Model = definition.module("keras_net").build(data)
    copy_to_keras(net, other)
    return other


def to_torch(definition: ModelDefinition, net: keras.Model, data: Dataset) -> nn.Module:
    """A PyTorch network with the weights of a Keras one, in evaluation mode."""
    other: nn.Module = definition.module("torch_net").build(data)
    copy_to_torch(net, other)
    return other.eval()


def copy_to_keras(source: nn.Module, target: keras.Model) -> None:
    """Writes every weight of `source` into `target`; raises ConversionError."""
    for pair in _pairs(source, target):
        state = {key: value.detach().numpy() for key, value in pair.module.state_dict().items() if key not in COUNTERS}
        variables = {variable.name: variable for variable in pair.layer.weights}
        for theirs, ours in _names(pair, set(state), set(variables)).items():
            value = _to_keras_layout(pair, theirs, state[theirs])
            _check_shape(f"{pair.name}.{ours}", value.shape, tuple(variables[ours].shape))
            variables[ours].assign(value)


def copy_to_torch(source: keras.Model, target: nn.Module) -> None:
    """Writes every weight of `source` into `target`; raises ConversionError."""
    import torch

    with torch.no_grad():
        for pair in _pairs(target, source):
            state = {key: value for key, value in pair.module.state_dict().items() if key not in COUNTERS}
            weights = {variable.name: np.asarray(variable) for variable in pair.layer.weights}
            for ours, theirs in _names(pair, set(state), set(weights)).items():
                value = _to_torch_layout(pair, ours, weights[theirs])
                _check_shape(f"{pair.name}.{ours}", value.shape, tuple(state[ours].shape))
                state[ours].copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _to_keras_layout(pair: Pair, torch_name: str, value: Array) -> Array:
    match pair.kind, torch_name:
        case "Linear", "weight":
            return _chw_to_hwc(pair, value.T)
        case "Conv2d", "weight":
            return value.transpose(2, 3, 1, 0)
    return value


def _to_torch_layout(pair: Pair, torch_name: str, value: Array) -> Array:
    match pair.kind, torch_name:
        case "Linear", "weight":
            return _hwc_to_chw(pair, value).T
        case "Conv2d", "weight":
            return value.transpose(3, 2, 0, 1)
    return value


def _chw_to_hwc(pair: Pair, kernel: Array) -> Array:
    if pair.flattened is None:
        return kernel
    height, width, channels = _checked_flat(pair, kernel)
    return kernel.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)


def _hwc_to_chw(pair: Pair, kernel: Array) -> Array:
    if pair.flattened is None:
        return kernel
    height, width, channels = _checked_flat(pair, kernel)
    return kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)


def _checked_flat(pair: Pair, kernel: Array) -> Shape:
    shape = pair.flattened or ()
    if kernel.shape[0] != np.prod(shape):
        raise ConversionError(
            f"{pair.name}: {kernel.shape[0]} inputs, but what Keras flattens before it has shape {list(shape)}"
        )
    return shape


def _pairs(torch_net: nn.Module, keras_net: keras.Model) -> list[Pair]:
    """The layers with weights of both networks, all checked to be of one kind and set alike before any is copied."""
    modules, layers = _torch_modules(torch_net), _keras_layers(keras_net)
    if modules.keys() != layers.keys():
        raise ConversionError(
            f"layers differ: only in PyTorch {sorted(modules.keys() - layers.keys())},"
            f" only in Keras {sorted(layers.keys() - modules.keys())}"
        )
    pairs = []
    for name, module in modules.items():
        pair = Pair(name, module, layers[name], _flattened_shape(layers[name]))
        rule = RULES.get(pair.kind)
        if rule is None:
            raise ConversionError(f"{name}: no rule converts a {pair.kind}; known: {', '.join(RULES)}")
        if type(pair.layer).__name__ != rule.keras:
            raise ConversionError(f"{name}: a {pair.kind} in PyTorch and a {type(pair.layer).__name__} in Keras")
        _check_settings(pair)
        pairs.append(pair)
    return pairs


def _torch_modules(net: nn.Module) -> dict[str, nn.Module]:
    """Every module, at any depth, that has weights of its own."""
    found = {}
    for name, module in net.named_modules():
        own = [key for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
        if own and not name:
            raise ConversionError(f"{own[0]}: a weight of the network itself; weights are converted layer by layer")
        if own:
            found[name] = module
    return found


def _keras_layers(net: keras.Model) -> dict[str, Any]:
    if type(net).__name__ not in {"Sequential", "Functional"}:
        raise ConversionError(f"{net.name}: a {type(net).__name__}; only of Sequential and Functional are layers known")
    return {layer.name: layer for layer in net.layers if layer.weights}


def _layer_before(layer: Any) -> Any:  # noqa: ANN401 - Keras layers
    """The layer whose output a layer takes; None where it takes several."""
    taken = layer.input
    return None if isinstance(taken, list | tuple | dict) else taken._keras_history.operation


def _flattened_shape(layer: Any) -> Shape | None:  # noqa: ANN401 - a Keras layer
    """The [h, w, c] flattened before a layer, where nothing but activations lies in between."""
    if type(layer).__name__ != "Dense":
        return None
    before = _layer_before(layer)
    while before is not None and type(before).__name__ not in {"Flatten", "InputLayer"}:
        taken = before.input
        if before.weights or isinstance(taken, list | tuple | dict) or taken.shape != before.output.shape:
            return None
        before = _layer_before(before)
    if type(before).__name__ != "Flatten":
        return None
    shape = tuple(before.input.shape[1:])
    return shape if len(shape) == 3 else None


def _names(pair: Pair, torch_names: set[str], keras_names: set[str]) -> dict[str, str]:
    """The names of a layer's weights in Keras, by those in PyTorch; every weight must be on both sides."""
    names = {ours: theirs for ours, theirs in RULES[pair.kind].names.items() if ours in torch_names}
    if names.keys() != torch_names or set(names.values()) != keras_names:
        raise ConversionError(
            f"{pair.name}: its weights are {sorted(torch_names)} in PyTorch and {sorted(keras_names)} in Keras"
        )
    return names


def _check_settings(pair: Pair) -> None:
    module, layer = pair.module, pair.layer
    match pair.kind:
        case "BatchNorm2d":
            if not np.isclose(module.eps, layer.epsilon, rtol=1e-9, atol=0):
                raise _differs(pair, "epsilon", module.eps, layer.epsilon)
            _check_last_axis(pair, layer.axis, 4)
        case "LayerNorm":
            if not np.isclose(module.eps, layer.epsilon, rtol=1e-9, atol=0):
                raise _differs(pair, "epsilon", module.eps, layer.epsilon)
            if len(module.normalized_shape) != 1:
                raise ConversionError(f"{pair.name}: normalises {list(module.normalized_shape)}; expected one axis")
            _check_last_axis(pair, layer.axis, len(layer.input.shape))
        case "Embedding":
            if module.max_norm is not None or layer.mask_zero:
                raise ConversionError(f"{pair.name}: expected no max_norm in PyTorch, and no mask_zero in Keras")
        case "Conv2d":
            if layer.data_format != "channels_last" or module.padding_mode != "zeros":
                raise ConversionError(f"{pair.name}: expected channels last in Keras, and zeros as PyTorch's padding")
            for what, ours, theirs in (
                ("stride", module.stride, tuple(layer.strides)),
                ("dilation", module.dilation, tuple(layer.dilation_rate)),
                ("groups", module.groups, layer.groups),
                ("padding", _torch_padding(module), _keras_padding(layer)),
            ):
                if ours != theirs:
                    raise _differs(pair, what, ours, theirs)


def _check_last_axis(pair: Pair, axis: Any, rank: int) -> None:  # noqa: ANN401 - a number, or a list of one
    given = axis if isinstance(axis, int) else axis[0] if len(axis) == 1 else None
    if given not in (-1, rank - 1):
        raise ConversionError(
            f"{pair.name}: normalises axis {axis if given is None else given} in Keras; expected the last"
        )


def _torch_padding(module: Any) -> tuple[Shape, ...]:  # noqa: ANN401 - a torch module
    """Zeros before and after, for height and width."""
    if module.padding == "valid":
        return ((0, 0), (0, 0))
    if module.padding == "same":
        spans = zip(module.kernel_size, module.dilation, strict=True)
        return tuple(_halves(dilation * (size - 1)) for size, dilation in spans)
    return tuple((size, size) for size in module.padding)


def _keras_padding(layer: Any) -> tuple[Shape, ...]:  # noqa: ANN401 - a Keras layer
    """Zeros before and after, for height and width: the layer's own, and those of a ZeroPadding2D right before it."""
    before = _layer_before(layer)
    padding = [(0, 0), (0, 0)]
    if type(before).__name__ == "ZeroPadding2D":
        padding = [tuple(side) for side in before.padding]
    if layer.padding == "same":
        spans = zip(layer.input.shape[1:3], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
        own = [_same(*span) for span in spans]
        padding = [(first + a, last + b) for (first, last), (a, b) in zip(padding, own, strict=True)]
    return tuple(padding)


def _same(size: int, kernel: int, stride: int, dilation: int) -> Shape:
    """What TensorFlow pads for "same": with a stride it depends on the input's size, and more goes to the end."""
    covered = (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1
    return _halves(max(covered - size, 0))


def _halves(total: int) -> Shape:
    return (total // 2, total - total // 2)


def _check_shape(name: str, ours: Shape, theirs: Shape) -> None:
    if ours != theirs:
        raise ConversionError(f"{name}: shape {list(ours)} does not fit the other network's {list(theirs)}")


def _differs(pair: Pair, what: str, ours: object, theirs: object) -> ConversionError:
    return ConversionError(f"{pair.name}: {what} is {ours} in PyTorch and {theirs} in Keras")
