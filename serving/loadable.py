"""What a built variant needs that this machine may lack, found before a server is given it; imports no framework."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from models.variants import Variant
from serving.torchserve import instructions

CONFIG = "model-config.yaml"
# WSL has its own.
GPUS = ("nvidia[0-9]*", "dxg")


@dataclass(frozen=True, slots=True)
class Machine:
    """What variants depend on: the CPU's `kind` and `flags`, and why there is no GPU, package or compiler.

    A reason is empty where there is one. `no_cuda` is torch's, `no_gpu` anybody's.
    """

    kind: str
    flags: frozenset[str] = frozenset()
    no_gpu: str = ""
    no_cuda: str = ""
    no_onnx: str = ""
    no_compiler: str = ""

    @classmethod
    def this(cls) -> Machine:
        """The one that this runs on."""
        no_gpu = _no_gpu()
        compiler = os.environ.get("CXX", "g++")
        has_compiler = shutil.which(compiler) or os.environ.get("TORCH_INDUCTOR_INSTALL_GXX")
        return cls(
            platform.machine(),
            frozenset(instructions.cpu_flags()),
            no_gpu=no_gpu,
            no_cuda=no_gpu or _no_cuda(),
            no_onnx="" if importlib.util.find_spec("onnxruntime") else "needs ONNX Runtime; `pip install onnxruntime`",
            no_compiler=""
            if has_compiler
            else f"needs a C++ compiler where it is served: no {compiler} on the PATH; install one, or name it in CXX",
        )


def why_not(variant: Variant, archive: Path, here: Machine) -> str | None:
    """Why a variant cannot be loaded on the machine `here`, None where nothing is known against it.

    `archive` is the .mar of one for TorchServe. What cannot be read is left to the server, which says what it is.
    """
    if variant.stack != "torchserve":
        return here.no_gpu or None if variant.device == "cuda" else None
    try:
        with zipfile.ZipFile(archive) as packed:
            section = (yaml.safe_load(packed.read(CONFIG)) or {})["variant"]
            return _lacking(packed, section, here) or None
    except instructions.Unloadable as exc:
        return str(exc)
    except (OSError, zipfile.BadZipFile, yaml.YAMLError, KeyError, TypeError):
        return None


def _lacking(packed: zipfile.ZipFile, section: Mapping[str, Any], here: Machine) -> str:
    """What the `variant` section of an archive's settings asks for and is not here; raises Unloadable."""
    runtime, device = section.get("runtime"), section.get("device")
    if device == "cuda" and here.no_cuda:
        return here.no_cuda
    if runtime == "onnx":
        return here.no_onnx
    if runtime == "compile":
        return here.no_compiler
    if runtime == "aotinductor" and device != "cuda":
        with packed.open(section["file"]) as package:
            built = instructions.metadata(package)
        instructions.check_cpu(section["file"], built, here.kind, here.flags)
    return ""


def _no_gpu() -> str:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "needs an NVIDIA GPU: CUDA_VISIBLE_DEVICES hides those there are"
    if not any(any(Path("/dev").glob(pattern)) for pattern in GPUS):
        return "needs an NVIDIA GPU: there is no /dev/nvidia* here"
    return ""


def _no_cuda() -> str:
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return "needs PyTorch; `pip install 'twinserve[serving]'`"
    return f"needs an NVIDIA GPU: torch {torch} here is built without CUDA" if torch.endswith("+cpu") else ""
