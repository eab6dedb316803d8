"""The tiny SavedModels, built once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.tfserving.savedmodel_server.executor import SavedModel
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine, save_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SavedModel]:
    """The loaded `Zoo`."""
    base = tmp_path_factory.mktemp("models") / "zoo"
    save_zoo(base)
    model = SavedModel(base / "1")
    yield model
    model.close()


@pytest.fixture(scope="session")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SavedModel]:
    """The loaded `Affine`, version 1."""
    base = tmp_path_factory.mktemp("models") / "affine"
    save_affine(base, 1)
    model = SavedModel(base / "1")
    yield model
    model.close()
