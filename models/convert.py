"""Moves weights between the frameworks, layer by layer, by an explicit map.

Layers are matched by name. What differs between the frameworks is written out for each kind of layer:

| PyTorch | Keras | difference |
|---|---|---|
| Linear.weight [out, in] | Dense.kernel [in, out] | transposed |
| Conv2d.weight [out, in, h, w] | Conv2D.kernel [h, w, in, out] | permuted |
| Linear after a flatten of [c, h, w] | Dense after a flatten of [h, w, c] | its inputs are reordered |
| BatchNorm2d.running_mean, running_var | moving_mean, moving_variance | names; epsilon must be equal |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.zoo import ModelDefinition
from models.zoo.dataset import Array, Dataset

if TYPE_CHECKING:
    import keras
    from torch import nn

# A layer's weights by their Keras names, in Keras's layout: the form in between.
LayerWeights = dict[str, Array]


class ConversionError(ValueError):
    """Raised for a layer that the map does not know, or that differs between the two networks; names the layer."""


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
    layers, flattened = _keras_layers(target), _flattened_shapes(target)
    modules = _torch_modules(source)
    _match(set(modules), set(layers))
    for name, module in modules.items():
        weights = _from_torch(name, module, layers[name], flattened.get(name))
        layer = layers[name]
        for variable in layer.weights:
            key = variable.name
            _check_shape(f"{name}.{key}", weights[key].shape, tuple(variable.shape))
            variable.assign(weights[key])


def copy_to_torch(source: keras.Model, target: nn.Module) -> None:
    """Writes every weight of `source` into `target`; raises ConversionError."""
    import torch

    layers, flattened = _keras_layers(source), _flattened_shapes(source)
    modules = _torch_modules(target)
    _match(set(modules), set(layers))
    with torch.no_grad():
        for name, module in modules.items():
            weights = {variable.name: np.asarray(variable) for variable in layers[name].weights}
            for key, value in _to_torch(name, module, layers[name], weights, flattened.get(name)).items():
                parameter = getattr(module, key)
                _check_shape(f"{name}.{key}", value.shape, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _from_torch(name: str, module: nn.Module, layer: Any, flattened: tuple[int, ...] | None) -> LayerWeights:  # noqa: ANN401
    kind = type(module).__name__
    state = {key: value.detach().numpy() for key, value in module.state_dict().items()}
    match kind:
        case "Linear":
            kernel = state["weight"].T
            return {"kernel": _chw_to_hwc(kernel, flattened), "bias": state["bias"]}
        case "Conv2d":
            return {"kernel": state["weight"].transpose(2, 3, 1, 0), "bias": state["bias"]}
        case "BatchNorm2d":
            _check_epsilon(name, module, layer)
            return {
                "gamma": state["weight"],
                "beta": state["bias"],
                "moving_mean": state["running_mean"],
                "moving_variance": state["running_var"],
            }
        case "Affine":
            return {"scale": state["scale"], "offset": state["offset"]}
    raise _unknown(name, kind)


def _to_torch(
    name: str,
    module: nn.Module,
    layer: Any,  # noqa: ANN401 - a Keras layer
    weights: LayerWeights,
    flattened: tuple[int, ...] | None,
) -> LayerWeights:
    kind = type(module).__name__
    match kind:
        case "Linear":
            return {"weight": _hwc_to_chw(weights["kernel"], flattened).T, "bias": weights["bias"]}
        case "Conv2d":
            return {"weight": weights["kernel"].transpose(3, 2, 0, 1), "bias": weights["bias"]}
        case "BatchNorm2d":
            _check_epsilon(name, module, layer)
            return {
                "weight": weights["gamma"],
                "bias": weights["beta"],
                "running_mean": weights["moving_mean"],
                "running_var": weights["moving_variance"],
            }
        case "Affine":
            return {"scale": weights["scale"], "offset": weights["offset"]}
    raise _unknown(name, kind)


def _chw_to_hwc(kernel: Array, flattened: tuple[int, ...] | None) -> Array:
    if flattened is None:
        return kernel
    height, width, channels = flattened
    return kernel.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)


def _hwc_to_chw(kernel: Array, flattened: tuple[int, ...] | None) -> Array:
    if flattened is None:
        return kernel
    height, width, channels = flattened
    return kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)


def _torch_modules(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if name and module.state_dict() and "." not in name}


def _keras_layers(net: keras.Model) -> dict[str, Any]:
    return {layer.name: layer for layer in net.layers if layer.weights}


def _flattened_shapes(net: keras.Model) -> dict[str, tuple[int, ...]]:
    """For each dense layer right behind a flatten: the [h, w, c] that was flattened."""
    shapes: dict[str, tuple[int, ...]] = {}
    for before, after in zip(net.layers, net.layers[1:], strict=False):
        shape = tuple(before.input.shape[1:])
        if type(before).__name__ == "Flatten" and len(shape) == 3:
            shapes[after.name] = shape
    return shapes


def _match(torch_names: set[str], keras_names: set[str]) -> None:
    if torch_names != keras_names:
        raise ConversionError(
            f"layers differ: only in PyTorch {sorted(torch_names - keras_names)},"
            f" only in Keras {sorted(keras_names - torch_names)}"
        )


def _check_shape(name: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    if ours != theirs:
        raise ConversionError(f"{name}: shape {list(ours)} does not fit the other network's {list(theirs)}")


def _check_epsilon(name: str, module: Any, layer: Any) -> None:  # noqa: ANN401 - one of each framework
    if not np.isclose(module.eps, layer.epsilon, rtol=1e-9, atol=0):
        raise ConversionError(f"{name}: epsilon is {module.eps} in PyTorch and {layer.epsilon} in Keras")


def _unknown(name: str, kind: str) -> ConversionError:
    return ConversionError(f"{name}: no rule converts a {kind}; known: Linear, Conv2d, BatchNorm2d, Affine")
