"""The variant `aotinductor`: torch.export, compiled ahead of time into a .pt2 package for one CPU's instructions.

TWINSERVE_AOT_CPU=avx2 builds for any x86-64 CPU with AVX2, where the one that it will run on is not known.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.export import archive
from models.export.archive import predict
from models.export.eager import without_compiler
from models.job import Job
from models.zoo import BATCH_CAP
from models.zoo.dataset import Rows

if TYPE_CHECKING:
    from torch import nn

__all__ = ["export", "predict", "unavailable"]

PACKAGE = "model.pt2"
# Inductor's own name of an instruction set, and the level of it that the compiler is told: with Inductor's default of
# -march=native a package "for AVX2" holds AVX-512 instructions.
AVX2 = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
AVX512 = {"cpp.march": "x86-64-v4"}


def unavailable(_: Job) -> str | None:
    """It needs a C++ compiler to build, and none to serve."""
    return without_compiler()


def export(job: Job) -> None:
    """The package and the archive around it."""
    with tempfile.TemporaryDirectory() as work:
        package = package_of(job.torch_net(), archive.example(job), Path(work), cap=archive.cap(job))
        archive.pack(job, [package], archive.section_of(job.variant.name, "aotinductor", [package]))


def package_of(
    net: nn.Module, example: Rows, folder: Path, *, cap: int = BATCH_CAP, device: str = "cpu", freezing: bool = False
) -> Path:
    """Writes `model.pt2` for up to `cap` rows."""
    tensors = tuple(torch.from_numpy(array).to(device) for array in example.values())
    with torch.no_grad():
        exported = torch.export.export(net.to(device), tensors, dynamic_shapes=dynamic(example, cap))
        return compiled(exported, folder, cpu() if device == "cpu" else {}, freezing=freezing)


def compiled(exported: Any, folder: Path, target: dict[str, Any], *, freezing: bool) -> Path:  # noqa: ANN401
    """Writes `model.pt2` from an exported program; `target` are Inductor's options for its CPU."""
    from torch._inductor import aoti_compile_and_package

    path = folder / PACKAGE
    with torch.no_grad():
        aoti_compile_and_package(exported, package_path=str(path), inductor_configs={**target, "freezing": freezing})
    return path


def dynamic(example: Rows, cap: int = BATCH_CAP) -> tuple[Any, ...]:
    """The dimensions that stay free: up to `cap` rows, and the length of rows of integers, which are sequences."""
    rows = torch.export.Dim("rows", min=1, max=cap)
    free = torch.export.Dim.DYNAMIC
    return tuple(
        {0: rows} | (dict.fromkeys(range(1, array.ndim), free) if array.dtype.kind == "i" else {})
        for array in example.values()
    )


def cpu() -> dict[str, Any]:
    """Inductor's options for the CPU that is asked for: this one, or one with AVX2."""
    asked = os.environ.get("TWINSERVE_AOT_CPU", "native")
    if asked not in ("native", "avx2"):
        raise ValueError(f"TWINSERVE_AOT_CPU is '{asked}'; expected native or avx2")
    if platform.machine() != "x86_64":
        return {}
    known = torch.backends.cpu.get_cpu_capability()
    return AVX512 if asked == "native" and known.startswith("AVX512") else AVX2
