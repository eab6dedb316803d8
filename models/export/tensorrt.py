"""The variant `tensorrt`: the ONNX graph on ONNX Runtime's TensorRT provider."""

from __future__ import annotations

import tempfile
from pathlib import Path

from models.export import archive, cuda, onnx
from models.export.archive import predict
from models.job import Job

__all__ = ["export", "predict", "unavailable"]

PROVIDER = "TensorrtExecutionProvider"
# Seconds: an engine is built when the first rows of each shape come.
TIMEOUT_S = 600


def unavailable(_: Job) -> str | None:
    """It needs a GPU, and an ONNX Runtime that was built with TensorRT."""
    return cuda.without_gpu() or onnx.without_provider(PROVIDER)


def export(job: Job) -> None:
    """The graph and the archive around it."""
    with tempfile.TemporaryDirectory() as work:
        graph = onnx.of_job(job, Path(work))
        section = archive.section_of(
            job.variant.name, "onnx", [graph], device="cuda", provider="Tensorrt", must_warm_up=True
        )
        archive.pack(job, [graph], section, timeout_s=TIMEOUT_S)
