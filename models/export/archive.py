"""The TorchServe archive of a variant: our handler and its runtimes, the model's files, and what loads them.

What each variant's `variant` section in model-config.yaml means is told in serving/torchserve/runtimes.py.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from models.job import Job
from models.manifest import sha256
from models.zoo import BATCH_CAP, ModelDefinition
from models.zoo.dataset import Rows, batches, joined, named, part

SERVING = Path(__file__).resolve().parents[2] / "serving" / "torchserve"
HANDLER, CONFIG, CONTRACT = "handler.py", "model-config.yaml", "contract.json"
# What the handler imports, packed beside it.
SIBLINGS = ("runtimes.py", "instructions.py", "text.py")
# Rows that a prediction takes at once, so that a large model's activations fit into memory.
BATCH = 64


def pack(job: Job, files: Sequence[Path], section: Mapping[str, Any], *, timeout_s: int | None = None) -> Path:
    """Writes `job.folder/<served name>.mar` with a model's `files` and the `section` that loads them.

    `timeout_s` is how long TorchServe waits for the worker to start, and for an answer; None for our usual time.
    """
    more, options = preprocessing(job.definition)
    with tempfile.TemporaryDirectory() as work:
        contract = Path(work) / CONTRACT
        contract.write_text(job.contract.to_json(), "utf-8")
        options["variant"] = {**section, "files": {**section["files"], **digests([contract, *more])}}
        config = write_config(Path(work) / CONFIG, options, timeout_s=timeout_s)
        extra = [contract, *files[1:], *more]
        return write(job.served_name, job.contract.version, files[0], extra, config, job.folder, SERVING / HANDLER)


def preprocessing(definition: ModelDefinition) -> tuple[list[Path], dict[str, Any]]:
    """The files that the handler makes a model's inputs with, and what model-config.yaml says of them; see text.py."""
    if not definition.preprocessed:
        return [], {}
    files, options = definition.module("preprocess").packed()
    return files, {"preprocess": options}


def cap(job: Job) -> int:
    """How many rows a graph must take at once."""
    return job.contract.batch_cap or BATCH_CAP


def section_of(
    name: str,
    runtime: str,
    files: Sequence[Path],
    *,
    device: str = "cpu",
    warm_up: Sequence[int] = (1,),
    **more: Any,  # noqa: ANN401 - values of YAML
) -> dict[str, Any]:
    """The `variant` section of a model's files, the first of which is the model."""
    warm = {"device": device, "warm_up": list(warm_up)}
    return {"name": name, "runtime": runtime, "file": files[0].name, "files": digests(files), **warm, **more}


def digests(files: Sequence[Path]) -> dict[str, str]:
    """The sha256 of files by name, which the handler checks before it reads any of them."""
    return {path.name: sha256(path) for path in files}


def write_config(
    path: Path, options: Mapping[str, Any], *, base: Path = SERVING / CONFIG, timeout_s: int | None = None
) -> Path:
    """Writes our worker settings with `options` behind them; JSON is YAML."""
    text = base.read_text("utf-8")
    if timeout_s is not None:
        text, changed = re.subn(r"(?m)^((?:response|startup)Timeout): \d+$", rf"\1: {timeout_s}", text)
        if changed != 2:
            raise ValueError(f"{base}: expected responseTimeout and startupTimeout")
    for key, value in options.items():
        text += f"\n{key}: {json.dumps(value)}\n"
    path.write_text(text, "utf-8")
    return path


def write(
    name: str, version: int, serialized: Path, extra: Sequence[Path], config: Path, folder: Path, handler: Path
) -> Path:
    """Writes `folder/<name>.mar` with the archiver that TorchServe comes with."""
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging import package_model
    from model_archiver.model_packaging_utils import ModelExportUtils

    archive = ModelArchiverConfig(
        model_name=name,
        version=str(version),
        serialized_file=str(serialized),
        handler=str(handler),
        extra_files=",".join(map(str, [*extra, *(SERVING / sibling for sibling in SIBLINGS)])),
        config_file=str(config),
        export_path=str(folder),
    )
    package_model(archive, ModelExportUtils.generate_manifest_json(archive))
    return folder / f"{name}.mar"


def example(job: Job, count: int = 2) -> Rows:
    """What the network takes for a few test rows: what it is traced or exported with."""
    return job.definition.network_rows(part(named(job.data.test_inputs, job.definition.inputs), 0, count))


def calibration(job: Job, most: int) -> Iterator[Rows]:
    """What the network takes for training rows, at most about `most` of them, in batches."""
    yield from batches(job.definition.network_rows(part(job.train_rows, 0, most)), 32)


def predict(job: Job, rows: Rows) -> Rows:
    """The outputs for all rows: the archive is unpacked and run by its handler, as in TorchServe, without it."""
    from serving.torchserve.handler import Request, Service, Tensor

    with unpacked(job.folder / f"{job.served_name}.mar") as context:
        service = Service(context)
        service.warm_up()
        types = {spec.name: spec.datatype for spec in job.contract.inputs}
        parts = []
        for some in batches(rows, BATCH):
            sent = tuple(Tensor(name, types[name], array) for name, array in some.items())
            parts.append({output.name: output.array for output in service.infer(Request(sent))})
        return joined(parts)


@contextmanager
def unpacked(archive: Path, gpu: int | None = None) -> Iterator[Any]:
    """What TorchServe tells the handler of an archive that it unpacked."""
    import yaml

    path = list(sys.path)
    with tempfile.TemporaryDirectory() as work, zipfile.ZipFile(archive) as packed, without_deprecation():
        packed.extractall(work)
        manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))
        try:
            yield SimpleNamespace(
                model_name=archive.stem,
                manifest=manifest,
                system_properties={"model_dir": work, "gpu_id": gpu},
                model_yaml_config=yaml.safe_load(packed.read(CONFIG)),
            )
        finally:
            sys.path[:] = path
            if "torch" in sys.modules:  # the handler of a compiled network lets nothing more be compiled
                import torch

                torch.compiler.set_stance("default")


class without_deprecation(warnings.catch_warnings):  # noqa: N801 - used like a function
    """TorchScript and torch's own quantization are deprecated and work."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
