"""The TorchServe archive."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.export import torchscript
from models.train import Trained, predict_torch


@pytest.fixture
def extras(tmp_path: Path) -> dict[str, Path]:
    """A contract, a handler and worker settings that only need to be there."""
    files = {"contract": "contract.json", "handler": "handler.py", "config": "model-config.yaml"}
    for name in files.values():
        (tmp_path / name).write_text(f"# {name}")
    return {key: tmp_path / name for key, name in files.items()}


def test_an_archive_holds_all_that_torchserve_needs(
    trained_torch: Trained, extras: dict[str, Path], tmp_path: Path
) -> None:
    """Graph, handler, contract and settings, with the version that clients ask for."""
    definition, rows = trained_torch.definition, trained_torch.data.test_inputs
    archive = torchscript.export(
        definition.name, 1, trained_torch.net, {"x": rows[:2]}, folder=tmp_path / "out", **extras
    )
    assert archive == tmp_path / "out" / f"{definition.name}.mar"
    with zipfile.ZipFile(archive) as packed:
        assert {"model.pt", "handler.py", "contract.json", "model-config.yaml"} <= set(packed.namelist())
        manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]
    assert (manifest["modelName"], manifest["modelVersion"]) == (definition.name, "1")
    assert (manifest["serializedFile"], manifest["handler"]) == ("model.pt", "handler.py")


def test_the_archived_graph_takes_any_number_of_rows(
    trained_torch: Trained, extras: dict[str, Path], tmp_path: Path
) -> None:
    """Traced over two rows, it answers as the network does for one, for many and for none."""
    name, rows = trained_torch.definition.name, trained_torch.data.test_inputs
    archive = torchscript.export(name, 1, trained_torch.net, {"x": rows[:2]}, folder=tmp_path / "out", **extras)
    for count in (0, 1, len(rows)):
        expected = predict_torch(trained_torch.net, rows[:count])
        assert np.allclose(torchscript.predict(archive, {"x": rows[:count]}), expected, rtol=1e-5, atol=1e-5)


def test_a_missing_handler_is_an_error_that_names_it(
    trained_torch: Trained, extras: dict[str, Path], tmp_path: Path
) -> None:
    """No archive is written without it."""
    extras["handler"].unlink()
    rows = trained_torch.data.test_inputs
    with pytest.raises(FileNotFoundError, match="handler.py"):
        torchscript.export("m", 1, trained_torch.net, {"x": rows[:2]}, folder=tmp_path / "out", **extras)
    assert not list((tmp_path / "out").glob("*.mar"))
