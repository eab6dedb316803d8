"""The identities as model servers load them: one SavedModel each, one TorchServe archive for all."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import tensorflow as tf
import torch

from gateway.core.contract import ModelContract
from serving.models import BuiltModel
from tests.fakes.script import FakeModel
from tests.unit.serving.toys import FILES, PACKED, manifest

ARCHIVE = "many"
_DTYPES = {"FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64", "BYTES": "string"}
Pair = tuple[torch.Tensor, torch.Tensor]


class Same(torch.nn.Module):
    """One tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return x


class SameBytes(torch.nn.Module):
    """One tensor of BYTES."""

    def forward(self, x: Pair) -> tuple[Pair]:
        """As it is."""
        return (x,)


class SameTwo(torch.nn.Module):
    """Two tensors."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As they are."""
        return a, b


class SameFour(torch.nn.Module):
    """Four tensors, the last of BYTES."""

    def forward(
        self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: Pair
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Pair]:
        """As they are."""
        return a, b, c, d


_GRAPHS = {1: Same, 2: SameTwo, 4: SameFour}


def saved_model(folder: Path, contract: ModelContract) -> BuiltModel:
    """Writes version 1 of an identity for TensorFlow Serving."""
    signature = [
        tf.TensorSpec([None if size < 0 else size for size in spec.shape], _dtype(spec.datatype), name=spec.name)
        for spec in contract.inputs
    ]
    names = [spec.name for spec in contract.outputs]

    @tf.function(input_signature=signature)
    def infer(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.identity(given) for name, given in zip(names, tensors, strict=True)}

    built = BuiltModel(contract.name, folder / contract.name)
    tf.saved_model.save(tf.Module(), str(built.saved_model / "1"), signatures={"serving_default": infer})
    return built


def archive(folder: Path, contracts: Iterable[ModelContract]) -> BuiltModel:
    """Writes the TorchServe archive of all identities; there, the tensors of `model` are called `model.x`."""
    built = BuiltModel(ARCHIVE, folder / ARCHIVE)
    built.archive.parent.mkdir(parents=True)
    graphs = folder / "graphs"
    graphs.mkdir()
    with zipfile.ZipFile(built.archive, "w") as packed:
        for contract in contracts:
            packed.write(_graph(graphs, contract), f"{contract.name}/model.pt")
            packed.writestr(f"{contract.name}/contract.json", _named(contract).to_json())
        for file in (*(FILES / name for name in PACKED), Path(__file__).with_name("many.py")):
            packed.write(file, file.name)
        described = manifest(ModelContract(ARCHIVE, 1, (), ()))
        described["model"]["handler"] = "many.py"
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(described))
    return built


def torchserve_names(contract: ModelContract) -> dict[str, str]:
    """The archive's tensor names, by the contract's."""
    return {spec.name: f"{contract.name}.{spec.name}" for spec in (*contract.inputs, *contract.outputs)}


def scripted(contract: ModelContract) -> FakeModel:
    """An identity of the scripted Open Inference Protocol server."""
    names = dict(zip((spec.name for spec in contract.outputs), (spec.name for spec in contract.inputs), strict=True))
    return FakeModel(
        contract.name,
        contract.inputs,
        contract.outputs,
        lambda arrays: {output: arrays[given] for output, given in names.items()},
    )


def _dtype(datatype: str) -> tf.DType:
    return tf.dtypes.as_dtype(_DTYPES.get(datatype, datatype.lower()))


def _named(contract: ModelContract) -> ModelContract:
    names = torchserve_names(contract)
    return replace(
        contract,
        inputs=tuple(replace(spec, name=names[spec.name]) for spec in contract.inputs),
        outputs=tuple(replace(spec, name=names[spec.name]) for spec in contract.outputs),
    )


def _graph(folder: Path, contract: ModelContract) -> Path:
    count = len(contract.inputs)
    kind = SameBytes if count == 1 and contract.inputs[0].datatype == "BYTES" else _GRAPHS[count]
    path = folder / f"{kind.__name__}.pt"
    if not path.exists():
        with warnings.catch_warnings():
            # TorchScript is deprecated in torch 2.13, and is what TorchServe serves.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(kind()).save(str(path))
    return path
