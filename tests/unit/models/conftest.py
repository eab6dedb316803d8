"""Models are trained once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.build import build, quiet_frameworks
from models.job import Job, job_of
from models.variants import VARIANTS
from models.zoo import MODELS

quiet_frameworks()

if TYPE_CHECKING:
    from models.train import Trained


@pytest.fixture(scope="session", params=["simplenn", "digits"])
def trained_torch(request: pytest.FixtureRequest) -> Trained:
    """A model trained in PyTorch, shortly."""
    return _trained(request.param, "pytorch")


@pytest.fixture(scope="session", params=["simplenn", "digits"])
def trained_keras(request: pytest.FixtureRequest) -> Trained:
    """A model trained in Keras, shortly."""
    return _trained(request.param, "keras")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small model in it, built as for use. Tests leave it as it was."""
    root = tmp_path_factory.mktemp("artifacts") / "models"
    build(["simplenn"], root)
    return root


@pytest.fixture
def job(built: Path, tmp_path: Path) -> Callable[[str], Job]:
    """A variant of the small model to make, by its name, in a folder of its own."""

    def of(variant: str) -> Job:
        folder = tmp_path / variant
        folder.mkdir()
        data = MODELS["simplenn"].module("data").load(7)
        return job_of(MODELS["simplenn"], VARIANTS[variant], built / "simplenn", folder, data)

    return of


def _trained(name: str, framework: str) -> Trained:
    from models.train import train  # noqa: PLC0415 - brings a framework

    return train(replace(MODELS[name], epochs=2, least=-9.0), framework, seed=7)  # type: ignore[arg-type]
