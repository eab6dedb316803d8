"""The models, built once for this checkout (a second run finds them built), in a folder of the test run's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
