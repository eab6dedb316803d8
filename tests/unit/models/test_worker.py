"""One variant made and verified, without the process around it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.contract import ModelContract
from models import record
from models.job import Job
from models.variants import VARIANTS
from models.worker import Worker, last_line
from models.zoo import MODELS

FP32 = VARIANTS["tflite-fp32"]


@pytest.fixture
def base(built: Path, tmp_path: Path) -> Path:
    """A built model that a test may change."""
    return Path(shutil.copytree(built / "simplenn", tmp_path / "simplenn"))


def test_a_variant_is_made_proven_and_recorded(base: Path) -> None:
    """With a contract that says what was measured, and the sha256 of what is served; it holds when proven anew."""
    worker = Worker(MODELS["simplenn"], base)
    made = worker.make(FP32, "digest")
    assert made == record.load(base, FP32) == worker.verify(FP32)
    assert (made.available, made.digest, list(made.files)) == (True, "digest", ["1/model.tflite"])
    parity = ModelContract.load(record.folder_of(base, FP32.name) / "contract.json").parity
    assert parity is not None
    assert parity.max_scaled == made.parity_max_scaled


def test_a_failure_leaves_the_real_error_in_the_variants_place(base: Path) -> None:
    """An exporter that there is not; the whole traceback is in a file beside the record."""
    made = Worker(MODELS["simplenn"], base).make(replace(FP32, exporter="nothing"), "digest")
    assert made.reason == "ModuleNotFoundError: No module named 'models.export.nothing'"
    folder = record.folder_of(base, FP32.name)
    assert sorted(path.name for path in folder.iterdir()) == [record.ERROR_LOG, record.FILE]
    assert "Traceback" in (folder / record.ERROR_LOG).read_text()


def test_what_cannot_be_had_here_is_not_tried(base: Path) -> None:
    """TensorFlow's packages are built without TensorRT."""
    made = Worker(MODELS["simplenn"], base).make(VARIANTS["tf-trt"], "digest")
    assert made.reason is not None
    assert made.reason.startswith("needs an NVIDIA GPU and a TensorFlow built with TensorRT; TensorFlow 2.21")


def test_a_changed_file_fails_the_verification(base: Path) -> None:
    """The file is named."""
    worker = Worker(MODELS["simplenn"], base)
    worker.make(FP32, "digest")
    with (record.folder_of(base, FP32.name) / "1" / "model.tflite").open("ab") as file:
        file.write(b"x")
    with pytest.raises(record.RecordError, match=r"model\.tflite: changed since it was built"):
        worker.verify(FP32)


def test_of_a_frameworks_error_its_kind_is_told_too(job: Callable[[str], Job]) -> None:
    """Some errors say nothing without it."""
    assert last_line(ValueError("one\n\n  two")) == "ValueError: one two"
