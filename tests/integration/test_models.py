"""Builds in full: the other direction of the converter, and a build's process that is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from models import manifest
from models.build import build, quiet_frameworks, reference_outputs
from models.zoo import MODELS

ROOT = Path(__file__).resolve().parents[2]

quiet_frameworks()


def test_a_build_that_keras_trains_is_complete_too(tmp_path: Path) -> None:
    """The converter works in the other direction, and the golden outputs are TensorFlow's."""
    build(["digits"], tmp_path, framework="keras")
    folder = tmp_path / "digits"
    assert manifest.load(folder).framework == "keras"
    assert manifest.load(folder).metric["accuracy"] >= 0.97
    with np.load(folder / "golden.npz") as golden:
        assert golden["image"].shape == (256, 8, 8, 1)
        ours, theirs = reference_outputs(MODELS["digits"], folder, {"image": golden["image"]})
        assert np.allclose(theirs, golden["probabilities"], rtol=1e-6, atol=1e-7)
        assert np.array_equal(ours.argmax(axis=1), golden["probabilities"].argmax(axis=1))


def test_a_terminated_build_cleans_up(tmp_path: Path) -> None:
    """The launcher ends a build by SIGTERM: the process ends at once, and the folder it was filling goes."""
    command = [sys.executable, "-m", "models.build", "--root", str(tmp_path), "--model", "simplenn", "--events"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["step"] == "train"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
