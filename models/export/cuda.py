"""The variant `cuda`: the eager network on an NVIDIA GPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from models.export import archive, eager
from models.export.archive import predict
from models.job import Job

__all__ = ["export", "predict", "unavailable"]


def unavailable(_: Job) -> str | None:
    """It needs a GPU that torch can use."""
    return without_gpu()


def without_gpu() -> str | None:
    """Why there is no GPU here, None where there is one."""
    if torch.cuda.is_available():
        return None
    build = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
    return f"needs an NVIDIA GPU: torch.cuda.is_available() is False here{build}"


def export(job: Job) -> None:
    """The network, its modules, and the archive around them."""
    with tempfile.TemporaryDirectory() as work:
        files, section = eager.write(job.variant.name, job.torch_net(), Path(work), device="cuda")
        archive.pack(job, files, section)
