"""The variant `pruned`: a smaller network, traced into TorchScript.

Between two layers with nothing but a normalisation, an activation or a flatten in between, a quarter of the channels or
neurons is removed, those of least weight; what is left then learns for a few steps to answer as the original does on
the training rows. Channels that a network adds to others, as around a residual block, all stay.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models.export import aotinductor, archive, torchscript
from models.export.archive import predict
from models.job import Job
from models.zoo.dataset import Rows, count, named

__all__ = ["export", "predict", "unavailable"]

SHARE = 0.25
BATCH = 32
# Steps of learning, and their rate, for a network of less than a million parameters, and for a larger one.
SMALL, LARGE, MILLION = (400, 1e-3), (30, 1e-4), 1_000_000
aten = torch.ops.aten
LAYERS = (aten.linear.default, aten.conv2d.default)
NORM = aten.batch_norm.default
# What computes each channel or neuron by itself, or lays channels out one after the other.
PASSING = {
    *(aten.relu.default, aten.relu_.default, aten.gelu.default, aten.silu.default, aten.sigmoid.default),
    *(aten.tanh.default, aten.dropout.default, aten.max_pool2d.default, aten.avg_pool2d.default),
    *(aten.adaptive_avg_pool2d.default, aten.flatten.using_ints),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """Two layers by name, the normalisation between them if any; the first's outputs go into the second alone."""

    first: str
    norm: str | None
    second: str


def unavailable(job: Job) -> str | None:
    """It needs two layers in a row, which export finds; every network is looked at."""
    return None


def export(job: Job) -> None:
    """The traced graph and the archive around it; raises ValueError where nothing can be removed."""
    example = archive.example(job)
    original = job.torch_net()
    found = chains(original, example, archive.cap(job))
    if not found:
        raise ValueError("the network has no two layers between which channels could be removed")
    net = copy.deepcopy(original)
    for chain in found:
        prune(net, chain, SHARE)
    rows = job.definition.network_rows(named(job.data.train_inputs, job.definition.inputs))
    learn(net, original, rows)
    with tempfile.TemporaryDirectory() as work:
        path = torchscript.trace(net, example, Path(work) / torchscript.GRAPH)
        archive.pack(job, [path], archive.section_of(job.variant.name, "torchscript", [path]))


def chains(net: nn.Module, example: Rows, cap: int) -> list[Chain]:
    """The pairs of layers between which channels can be removed, in the order of the computation."""
    tensors = tuple(torch.from_numpy(array) for array in example.values())
    with torch.no_grad():
        program = torch.export.export(net, tensors, dynamic_shapes=aotinductor.dynamic(example, cap))
    # By the name of a graph's input: the module that the weight is of.
    owners = {name: path.rpartition(".")[0] for name, path in program.graph_signature.inputs_to_parameters.items()}
    found = [_followed(node, owners) for node in program.graph.nodes if node.target in LAYERS]
    return [chain for chain in found if chain is not None and _plain(net, chain)]


def _followed(node: Any, owners: Mapping[str, str]) -> Chain | None:  # noqa: ANN401 - a node of torch.fx
    first, norm = owners.get(node.args[1].name), None
    while first is not None and len(node.users) == 1:
        (user,) = node.users
        if user.args[0] is not node:
            return None
        if user.target in LAYERS:
            second = owners.get(user.args[1].name)
            return None if second is None else Chain(first, norm, second)
        if user.target is NORM and norm is None:
            norm = owners.get(user.args[1].name)
        elif user.target not in PASSING:
            return None
        node = user
    return None


def _plain(net: nn.Module, chain: Chain) -> bool:
    """Whether both layers connect all that goes in with all that goes out, and fit together."""
    first, second = net.get_submodule(chain.first), net.get_submodule(chain.second)
    grouped = any(getattr(layer, "groups", 1) != 1 for layer in (first, second))
    return not grouped and _weight(second).shape[1] % _weight(first).shape[0] == 0


def _weight(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{type(layer).__name__} has no weight")
    return weight


@torch.no_grad()
def prune(net: nn.Module, chain: Chain, share: float) -> None:
    """Removes a `share` of what goes from one layer to the next: what has least weight on both sides."""
    first, second = net.get_submodule(chain.first), net.get_submodule(chain.second)
    norm = net.get_submodule(chain.norm) if chain.norm else None
    channels = len(_weight(first))
    # After a flatten each channel is several of the second layer's inputs, one after the other.
    columns = _weight(second).unflatten(1, (channels, -1))
    importance = _weight(first).flatten(1).norm(dim=1) * columns.transpose(0, 1).flatten(1).norm(dim=1)
    if norm is not None:
        importance = importance * (_weight(norm) / (norm.running_var + norm.eps).sqrt()).abs()
    kept = importance.topk(channels - int(channels * share)).indices.sort().values
    for layer in (first, norm):
        for name, value in (
            [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)] if layer else []
        ):
            if value.ndim:  # not the count of batches
                _replace(layer, name, value[kept])
    _replace(second, "weight", columns[:, kept].flatten(1, 2))
    for layer, names in ((first, ("out_features", "out_channels")), (norm, ("num_features",))):
        _resize(layer, names, len(kept))
    _resize(second, ("in_features", "in_channels"), _weight(second).shape[1])


def _replace(layer: nn.Module, name: str, value: torch.Tensor) -> None:
    own = getattr(layer, name)
    setattr(layer, name, nn.Parameter(value.clone()) if isinstance(own, nn.Parameter) else value.clone())


def _resize(layer: nn.Module | None, names: tuple[str, ...], size: int) -> None:
    for name in names:
        if hasattr(layer, name):
            setattr(layer, name, size)


def learn(net: nn.Module, original: nn.Module, rows: Rows) -> None:
    """Trains `net` to give what `original` gives for `rows`; normalisations keep the statistics that they have."""
    tensors = [torch.from_numpy(array) for array in rows.values()]
    small = sum(each.numel() for each in net.parameters()) < MILLION
    steps, rate = SMALL if small else LARGE
    if small:
        torch.set_num_threads(1)  # as in training: too small to share among cores
    order = torch.Generator().manual_seed(7)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(steps):
        chosen = torch.randperm(count(rows), generator=order)[:BATCH]
        some = [tensor[chosen] for tensor in tensors]
        with torch.no_grad():
            wanted = original(*some)
        optimiser.zero_grad()
        loss = functional.mse_loss(net(*some), wanted) / wanted.var().clamp(min=1e-12)
        loss.backward()
        optimiser.step()
