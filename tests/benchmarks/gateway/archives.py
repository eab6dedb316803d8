"""Copies of a built model with other settings of TorchServe's own batching, and a model of large inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

from serving.models import BuiltModel
from tests.benchmarks.gateway.load import LoadError

CONFIG = "model-config.yaml"


def batching_variant(model: BuiltModel, folder: Path, batch_size: int, max_delay_ms: int) -> BuiltModel:
    """The model with this `batchSize` and `maxBatchDelay`, everything else as it was built."""
    variant = BuiltModel(model.name, folder / f"{model.name}-{batch_size}-{max_delay_ms}ms")
    shutil.rmtree(variant.folder, ignore_errors=True)
    variant.archive.parent.mkdir(parents=True)
    shutil.copyfile(model.contract, variant.contract)
    with zipfile.ZipFile(model.archive) as source, zipfile.ZipFile(variant.archive, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.rpartition("/")[2] == CONFIG:
                settings = yaml.safe_load(data)
                settings |= {"batchSize": batch_size, "maxBatchDelay": max_delay_ms}
                data = yaml.safe_dump(settings).encode()
            target.writestr(item, data)
    return variant


def convnet(folder: Path) -> BuiltModel:
    """The model of 224x224 images, exported in a process of its own: torch stays out of this one."""
    model = BuiltModel("convnet", folder / "convnet")
    shutil.rmtree(model.folder, ignore_errors=True)
    command = [sys.executable, "-m", "tests.benchmarks.gateway.convnet", str(model.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise LoadError(f"the convnet could not be exported: {done.stderr[-2000:]}")
    return model
