"""What is known of a variant, and what is shown of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.contract import ModelContract, Parity, Quality
from models import manifest, record
from models.variants import VARIANTS

INT8 = VARIANTS["tflite-int8"]


@pytest.fixture
def made(built: Path, tmp_path: Path) -> record.Record:
    """A variant with one file, recorded in the folder of a model called `simplenn`."""
    folder = record.folder_of(tmp_path / "simplenn", INT8.name)
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(b"12345")
    contract = replace(
        ModelContract.load(built / "simplenn" / "contract.json"),
        parity=Parity(True, 3.0, 0.25, None),
        quality=Quality("r2", original=0.5, least=0.47, measured=0.48),
    )
    files = {"model.tflite": manifest.sha256(folder / "model.tflite")}
    known = record.available("simplenn", INT8, contract, folder, files, "digest")
    known.save(folder)
    return known


def test_an_available_variant_is_listed_with_its_measures(made: record.Record, tmp_path: Path) -> None:
    """The listing has what was measured of it."""
    assert record.load(tmp_path / "simplenn", INT8) == made
    assert made.listed() == {
        "model": "simplenn",
        "variant": "tflite-int8",
        "stack": "tfserving",
        "available": True,
        "bytes": 5,
        "parity_max_scaled": 0.25,
        "argmax_agreement": None,
        "datatype": "INT8",
        "device": "cpu",
        "served_by": "TensorFlow server, TFLite",
    }
    assert made.proof() == "max |a-b|/(1+|b|) 2.5e-01, r2 0.4800 (the original's 0.5000)"


def test_an_unavailable_variant_is_listed_with_its_reason() -> None:
    """Nothing is claimed of what is not there."""
    listed = record.unavailable("digits", VARIANTS["tensorrt"], "needs an NVIDIA GPU").listed()
    assert (listed["available"], listed["reason"], listed["bytes"]) == (False, "needs an NVIDIA GPU", None)


def test_what_was_never_built_says_how_to_build_it(tmp_path: Path) -> None:
    """All variants are listed, also where there is no folder at all, or a file that is no record."""
    (record.folder_of(tmp_path / "digits", "xla")).mkdir(parents=True)
    (record.folder_of(tmp_path / "digits", "xla") / record.FILE).write_text("[]")
    records = record.load_all(tmp_path / "digits")
    assert [known.variant for known in records] == list(VARIANTS)
    assert {known.reason for known in records} == {"not built; `twinserve models build digits` makes it"}


@pytest.mark.parametrize("spoil", ["changed", "missing"])
def test_a_spoiled_file_is_named(made: record.Record, tmp_path: Path, spoil: str) -> None:
    """A file that is gone, changed or new is told by its name."""
    file = record.folder_of(tmp_path / "simplenn", INT8.name) / "model.tflite"
    record.check_files(tmp_path / "simplenn", made)
    file.unlink() if spoil == "missing" else file.write_bytes(b"12346")
    with pytest.raises(record.RecordError, match=rf"model\.tflite: {spoil}.*; `twinserve models build simplenn`"):
        record.check_files(tmp_path / "simplenn", made)
