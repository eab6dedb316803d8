"""A tiny TorchScript model with its contract and archive, frames written by hand, TorchServe's context as a fake."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gateway.core.contract import ModelContract
from gateway.core.messages import TensorSpec
from gateway.core.tensor import Tensor, to_raw
from tests.builders import contract

FILES = Path(__file__).parents[3] / "serving" / "torchserve"
UNLUCKY = 13.0
# What every archive holds beside the model and its contract.
PACKED = ("handler.py", "runtimes.py", "instructions.py", "model-config.yaml")


class Doubler(torch.nn.Module):
    """y = 2 x; its code fails where any value is 13."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Doubles."""
        if bool((x == 13.0).any()):
            raise RuntimeError("thirteen is unlucky")
        return {"y": 2 * x}


class Mixer(torch.nn.Module):
    """Two inputs of different datatypes, two outputs in a tuple."""

    def forward(self, counts: torch.Tensor, halves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds one to each."""
        return counts + 1, halves + 1


MIXER = ModelContract(
    name="mixer",
    version=3,
    inputs=(TensorSpec("counts", "INT64", (-1, 2)), TensorSpec("halves", "BF16", (-1, 2))),
    outputs=(TensorSpec("more_counts", "INT64", (-1, 2)), TensorSpec("more_halves", "BF16", (-1, 2))),
    batch_cap=4,
)


def write_model(folder: Path, model: torch.nn.Module, its: ModelContract) -> Path:
    """The files that an archive unpacks to."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # TorchScript is deprecated in torch 2.13, and is what TorchServe serves.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model.eval()).save(str(folder / "model.pt"))
    (folder / "contract.json").write_text(its.to_json())
    return folder


def manifest(its: ModelContract) -> dict[str, Any]:
    """The archive's MANIFEST.json."""
    return {
        "createdOn": "01/01/2026 00:00:00",
        "runtime": "python",
        "model": {
            "modelName": its.name,
            "serializedFile": "model.pt",
            "handler": "handler.py",
            "modelVersion": str(its.version),
            "configFile": "model-config.yaml",
        },
        "archiverVersion": "0.12.0",
    }


def write_archive(path: Path, its: ModelContract, folder: Path) -> Path:
    """A .mar of a model written by `write_model`, with our handler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in (*(folder / name for name in ("model.pt", "contract.json")), *(FILES / name for name in PACKED)):
            archive.write(file, file.name)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest(its)))
    return path


def write_artifacts(artifacts: Path, *names: str) -> Path:
    """Complete builds of doublers, as `models/` would leave them; their SavedModels are empty files."""
    for name in names:
        its = contract(name)
        folder = artifacts / "models" / name
        write_archive(folder / "torchscript" / f"{name}.mar", its, write_model(folder / "parts", Doubler(), its))
        (folder / "contract.json").write_text(its.to_json())
        (folder / "savedmodel" / "1").mkdir(parents=True)
        (folder / "savedmodel" / "1" / "saved_model.pb").touch()
    return artifacts


def frame(tensors: Sequence[Tensor] = (), **changes: Any) -> bytes:
    """A request's frame. `changes` replace or add fields of its header."""
    raws = [bytes(to_raw(tensor)) for tensor in tensors]
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(raw)},
        }
        for tensor, raw in zip(tensors, raws, strict=True)
    ]
    return packed({"inputs": inputs, **changes}, b"".join(raws))


def packed(header: object, buffers: bytes = b"") -> bytes:
    """A frame of any header, well formed or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + buffers


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A reply's header and its buffers."""
    (size,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + size]), data[4 + size :]


class FakeContext:
    """TorchServe's context, as far as handlers use it: what it says of the model, and the answers' status and type.

    `content_types` are those of the REST bodies of a batch, None for gRPC.
    """

    def __init__(
        self,
        folder: Path,
        its: ModelContract,
        content_types: Sequence[str | None] = (),
        yaml: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = its.name
        self.manifest = manifest(its)
        self.system_properties = {"model_dir": str(folder), "gpu_id": None, "batch_size": 1}
        self.model_yaml_config = yaml
        self.content_types = content_types
        self.statuses: dict[int, int] = {}
        self.reply_types: dict[int, str] = {}

    def get_request_header(self, idx: int, key: str) -> Any:
        """A header, or what TorchServe keeps under the body's key: the content type of the body."""
        kind = self.content_types[idx] if idx < len(self.content_types) else None
        return {"content-type": kind} if key == "body" and kind is not None else None

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Notes the status of one answer."""
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Notes the content type of one answer."""
        self.reply_types[idx] = value
