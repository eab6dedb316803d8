"""Whole builds of the small model: what is left behind, and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.core.contract import ModelContract
from models import manifest
from models.build import BuildError, build, reference_outputs
from models.train import TrainingError, train
from models.zoo import MODELS


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, built once."""
    root = tmp_path_factory.mktemp("models")
    build(["simplenn"], root)
    return root


def test_a_build_is_complete(built: Path) -> None:
    """Both exports, contract, golden values and manifest are there, and every file has its digest."""
    folder = built / "simplenn"
    contract = ModelContract.load(folder / "contract.json")
    assert contract.parity is not None
    assert contract.parity.passed
    assert (folder / "torchscript" / "simplenn.mar").is_file()
    assert (folder / "savedmodel" / "1" / "saved_model.pb").is_file()
    made = manifest.check_files(folder)
    assert made.seed == 7
    assert made.metric["r2"] > 0.3
    assert made.versions["torch"].startswith("2.13.0")


def test_golden_values_are_the_trained_networks_own(built: Path) -> None:
    """The exported graph gives the golden outputs again, by tensor name."""
    with np.load(built / "simplenn" / "golden.npz") as golden:
        ours, theirs = reference_outputs(MODELS["simplenn"], built / "simplenn", golden["features"])
        assert np.array_equal(ours, golden["progression"])
        assert np.allclose(theirs, golden["progression"], rtol=1e-5, atol=1e-5)
        assert len(golden["features"]) >= 64


def test_a_second_build_is_told_as_cached(built: Path) -> None:
    """Nothing is trained twice where nothing changed; a changed seed is a change."""
    events: list[dict[str, Any]] = []
    build(["simplenn"], built, report=events.append)
    assert {event["status"] for event in events} == {"start", "cached"}
    assert manifest.fingerprint("pytorch", 7) != manifest.fingerprint("pytorch", 8)


class InterruptedBuildError(Exception):
    """Stands for Ctrl-C at a chosen place."""


def test_an_interrupted_build_leaves_the_old_model_and_nothing_else(built: Path) -> None:
    """Neither half a folder nor a hidden one is left, and the model that was there still is."""

    def interrupt(event: dict[str, Any]) -> None:
        if (event["step"], event["status"]) == ("verify", "start"):
            raise InterruptedBuildError

    before = manifest.load(built / "simplenn")
    with pytest.raises(InterruptedBuildError):
        build(["simplenn"], built, force=True, report=interrupt)
    assert sorted(path.name for path in built.iterdir()) == [".lock", "simplenn"]
    assert manifest.load(built / "simplenn") == before


def test_what_a_killed_build_left_is_cleaned_up(built: Path) -> None:
    """A hidden folder of a process that was killed goes with the next build."""
    stale = built / ".building-simplenn-killed" / "savedmodel" / "1"
    stale.mkdir(parents=True)
    build(["simplenn"], built)
    assert not stale.exists()


def test_a_changed_file_is_named(built: Path, tmp_path: Path) -> None:
    """The manifest's digests find it."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("manifest.json", "contract.json"):
        (folder / name).write_bytes((built / "simplenn" / name).read_bytes())
    with pytest.raises(manifest.ManifestError, match="missing; `twinserve models build --force`"):
        manifest.check_files(folder)
    (folder / "contract.json").write_text("{}")
    with pytest.raises(manifest.ManifestError, match=r"contract.json: changed since it was built"):
        manifest.check_files(folder)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    """The message lists the models that there are."""
    with pytest.raises(BuildError, match="unknown model 'nope'; there are simplenn, digits"):
        build(["nope"], tmp_path)


def test_training_is_reproducible() -> None:
    """The same seed gives the same metric, to the bit."""
    first, second = (train(MODELS["simplenn"], "pytorch", 7).metric for _ in range(2))
    assert first == second


def test_a_network_that_learned_nothing_is_not_built() -> None:
    """The metric and what was expected are in the message."""
    from dataclasses import replace  # noqa: PLC0415

    lazy = replace(MODELS["simplenn"], epochs=0)
    with pytest.raises(TrainingError, match=r"test r2 -?\d.* at least 0.3 is expected"):
        train(lazy, "pytorch", 7)
