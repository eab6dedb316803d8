"""What the container `models` does with models that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.container import main
from models.manifest import Manifest, sha256


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one model of one file."""
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    digests = {"weights": sha256(folder / "weights")}
    Manifest("digits", 1, "pytorch", 0, {}, {}, "", digests, "").save(folder)
    return tmp_path


def test_files_as_they_were_built_let_the_servers_start(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And are told by model."""
    assert main(models) == 0
    assert "digits 1: 1 files, sha256 as built" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_file_that_is_not_as_it_was_built_keeps_them_from_starting(
    models: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named."""
    weights = models / "digits" / "weights"
    weights.write_bytes(b"other") if damage == "changed" else weights.unlink()
    assert main(models) == 1
    assert "weights" in capsys.readouterr().err
