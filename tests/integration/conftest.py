"""What several modules share: the models, built once for this checkout, and servers that no test changes for good."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import servers
from serving.java import Java
from serving.local import LocalStack
from serving.models import find_models
from serving.settings import LaunchSettings, Ports
from tests.integration.foreign_torchserve import Foreign, foreign_torchserve
from tests.unit.serving.toys import write_artifacts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def built_models() -> Path:
    """`artifacts/models` of this checkout."""
    folder = ROOT / "artifacts" / "models"
    subprocess.run([sys.executable, "-m", "models.build", "--root", str(folder)], check=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def artifacts(built_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder of the tests' own, so that they never meet servers that somebody runs in this checkout."""
    folder = tmp_path_factory.mktemp("artifacts")
    (folder / "models").symlink_to(built_models)
    return folder


@pytest.fixture(scope="session")
def toy_torchserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """TorchServe with two toy models, on this machine's first choice of Java."""
    with torchserve_alone(write_artifacts(tmp_path_factory.mktemp("ts"), "doubler", "other")) as running:
        yield running


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """TorchServe with its token authorization on, and handlers that are not ours."""
    with foreign_torchserve(tmp_path_factory.mktemp("foreign")) as running:
        yield running


def torchserve_alone(artifacts: Path, java: Java | None = None) -> LocalStack:
    """TorchServe with the models that are there, and nothing else."""
    settings = LaunchSettings(artifacts=artifacts, start_timeout_s=60)
    ports = Ports.free()
    server = servers.torchserve(settings, ports, find_models(settings.models_dir), java)
    return LocalStack(settings, ports, stages=[[server]])
