"""The variant `onnx`: the graph that torch's dynamo exporter writes, run by ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.export import archive
from models.export.aotinductor import dynamic
from models.export.archive import predict
from models.job import Job
from models.zoo import BATCH_CAP
from models.zoo.dataset import Rows

if TYPE_CHECKING:
    from torch import nn

__all__ = ["export", "predict", "unavailable"]

GRAPH = "model.onnx"


def unavailable(_: Job) -> str | None:
    """It needs the packages of the exporter and the runtime."""
    return without_packages()


def without_packages() -> str | None:
    """Why ONNX cannot be written or run here, None where it can."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as exc:
        return f"{exc}: `pip install onnx onnxscript onnxruntime`"
    return None


def without_provider(name: str) -> str | None:
    """Why ONNX Runtime has not the execution provider `name` here, None where it has."""
    missing = without_packages()
    if missing is None:
        import onnxruntime

        have = onnxruntime.get_available_providers()
        if name not in have:
            missing = f"ONNX Runtime {onnxruntime.__version__} has no {name} here, only {', '.join(have)}"
    return missing


def export(job: Job) -> None:
    """The graph and the archive around it."""
    with tempfile.TemporaryDirectory() as work:
        graph = of_job(job, Path(work))
        archive.pack(job, [graph], archive.section_of(job.variant.name, "onnx", [graph]))


def of_job(job: Job, folder: Path) -> Path:
    """Writes a job's graph."""
    output = job.contract.outputs[0].name
    return graph_of(job.torch_net(), archive.example(job), output, folder, archive.cap(job))


def graph_of(net: nn.Module, example: Rows, output: str, folder: Path, cap: int = BATCH_CAP) -> Path:
    """Writes `model.onnx` for up to `cap` rows; its inputs are called as the example's, its output `output`."""
    tensors = tuple(torch.from_numpy(array) for array in example.values())
    # It warns of operators of packages that are not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with archive.without_deprecation(), torch.no_grad():
        program = torch.onnx.export(
            net,
            tensors,
            dynamo=True,
            dynamic_shapes=dynamic(example, cap),
            input_names=list(example),
            output_names=[output],
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export gave no program")
        program.save(str(folder / GRAPH), external_data=False)
    return folder / GRAPH
