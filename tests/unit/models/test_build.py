"""Whole builds: what they leave behind, what they never leave, and what the command line says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.core.contract import ModelContract, Tolerance
from models import manifest
from models.build import BuildError, build, build_each, main, reference_outputs
from models.verify import ParityError
from models.zoo import MODELS


def test_a_build_is_complete(built: Path) -> None:
    """Both exports, contract, golden values and manifest are there, and every file has its digest."""
    folder = built / "simplenn"
    contract = ModelContract.load(folder / "contract.json")
    assert contract.parity is not None
    assert contract.parity.passed
    assert contract.variants == {"torchscript": "torchserve", "savedmodel": "tfserving"}
    assert (folder / "torchscript" / "simplenn.mar").is_file()
    assert (folder / "savedmodel" / "1" / "saved_model.pb").is_file()
    made = manifest.check_files(folder)
    assert (made.framework, made.seed) == ("pytorch", 7)
    assert made.metric["r2"] > 0.3


def test_golden_values_are_the_trained_networks_own(built: Path) -> None:
    """The exported graph gives the golden outputs again, by tensor name."""
    with np.load(built / "simplenn" / "golden.npz") as golden:
        ours, theirs = reference_outputs(MODELS["simplenn"], built / "simplenn", {"features": golden["features"]})
        assert np.array_equal(ours, golden["progression"])
        assert np.allclose(theirs, golden["progression"], rtol=1e-5, atol=1e-5)
        assert len(golden["features"]) >= 64


def test_a_second_build_is_told_as_cached(built: Path) -> None:
    """Nothing is trained twice where nothing changed."""
    events: list[dict[str, Any]] = []
    build(["simplenn"], built, report=events.append)
    assert {event["status"] for event in events} == {"start", "cached"}
    assert [event["step"] for event in events if event["status"] == "cached"] == [
        "train",
        "convert",
        "export",
        "verify",
    ]


class InterruptedBuildError(Exception):
    """Stands for Ctrl-C at a chosen place."""


@pytest.mark.parametrize("step", ["convert", "export", "verify"])
def test_an_interrupted_build_leaves_the_old_model_and_nothing_else(built: Path, step: str) -> None:
    """Neither half a folder nor a hidden one is left, and the model that was there still is."""

    def interrupt(event: dict[str, Any]) -> None:
        if (event["step"], event["status"]) == (step, "start"):
            raise InterruptedBuildError

    before = manifest.check_files(built / "simplenn")
    with pytest.raises(InterruptedBuildError):
        build(["simplenn"], built, force=True, report=interrupt)
    assert sorted(path.name for path in built.iterdir()) == [".lock", "simplenn"]
    assert manifest.check_files(built / "simplenn") == before


def test_a_model_whose_variants_disagree_is_not_built(tmp_path: Path) -> None:
    """A tolerance that nothing meets: the build fails as it would over a wrong conversion, and leaves no model."""
    strict = {"simplenn": replace(MODELS["simplenn"], tolerance=Tolerance(atol=-1.0, rtol=0.0))}
    with pytest.raises(ParityError, match=r"simplenn: the variants disagree on 88 of 88 test inputs; the worst is"):
        build(["simplenn"], tmp_path, models=strict)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_cannot_be_built_costs_no_other_model(built: Path) -> None:
    """The one before it in the list fails, also over what nobody foresaw; the other is there, and why is told."""
    strict = replace(MODELS["digits"], name="strict", package="digits", least=2.0, epochs=0)
    events: list[dict[str, Any]] = []

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        if event["model"] == "digits":
            raise InterruptedBuildError("unforeseen")

    names = ["digits", "strict", "simplenn"]
    failures = build_each(names, built, models={**MODELS, "strict": strict}, report=report)
    assert failures.keys() == {"digits", "strict"}
    assert failures["digits"] == "InterruptedBuildError: unforeseen"
    assert "at least 2.0 is expected" in failures["strict"]
    assert (events[-1]["model"], events[-1]["status"]) == ("simplenn", "cached")


def test_what_a_killed_build_left_is_cleaned_up(built: Path) -> None:
    """A hidden folder of a process that was killed goes with the next build."""
    stale = built / ".building-simplenn-killed" / "savedmodel" / "1"
    stale.mkdir(parents=True)
    build(["simplenn"], built)
    assert not stale.exists()


def test_a_model_about_to_be_replaced_gets_its_place_back(built: Path) -> None:
    """A build killed between its two renames costs no model: the next one finds it and need not train."""
    (built / "simplenn").rename(built / ".building-simplenn-old")
    events: list[dict[str, Any]] = []
    build(["simplenn"], built, report=events.append)
    assert events[-1]["status"] == "cached"


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    """The message lists the models that there are."""
    with pytest.raises(BuildError, match="unknown model 'nope'; there are simplenn, digits"):
        build(["nope"], tmp_path)


def test_events_are_one_json_line_each(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the launcher and the demo read while a build runs."""
    assert main(["--root", str(built), "--model", "simplenn", "--events"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(events) == 8
    assert all(event.keys() == {"event", "model", "step", "status", "seconds", "detail"} for event in events)
    assert events[1]["detail"].startswith("test r2 0.")


def test_a_failure_is_the_last_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be written: exit status 1, and one error event with the reason."""
    (tmp_path / "file").write_text("")
    assert main(["--root", str(tmp_path / "file" / "models"), "--events"]) == 1
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "error"
    assert "Not a directory" in event["message"]
