"""What is known of a variant, and what is shown of it."""

from __future__ import annotations

import json
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
    """All variants are listed, also where there is no folder at all."""
    (record.folder_of(tmp_path / "digits", "xla")).mkdir(parents=True)
    records = record.load_all(tmp_path / "digits")
    assert [known.variant for known in records] == list(VARIANTS)
    assert {known.reason for known in records} == {"not built; `twinserve models build digits` makes it"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("variant", "nope"), ("variant", "xla"), ("stack", "torchserve"), ("available", "yes"), ("reason", 1)),
        *(("files", None), ("files", {}), ("files", {"model.tflite": 1}), ("files", ["model.tflite"]), ("more", 1)),
    ],
)
def test_a_damaged_record_cannot_be_used(made: record.Record, tmp_path: Path, field: str, value: object) -> None:
    """It is as if the variant were not there, with the file's name and what to do."""
    file = record.folder_of(tmp_path / "simplenn", made.variant) / record.FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    found = record.load(tmp_path / "simplenn", INT8)
    assert not found.available
    assert found.reason == f"{file} cannot be used; `twinserve models build simplenn` makes it anew"
    file.write_text("[]")
    assert record.load(tmp_path / "simplenn", INT8) == found


@pytest.mark.parametrize("spoil", ["changed", "missing"])
def test_a_spoiled_file_is_named(made: record.Record, tmp_path: Path, spoil: str) -> None:
    """A file that is gone or changed is told by its name."""
    file = record.folder_of(tmp_path / "simplenn", INT8.name) / "model.tflite"
    record.check_files(tmp_path / "simplenn", made)
    file.unlink() if spoil == "missing" else file.write_bytes(b"12346")
    with pytest.raises(record.RecordError, match=rf"model\.tflite: {spoil}.*; `twinserve models build simplenn`"):
        record.check_files(tmp_path / "simplenn", made)


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_nobody_verified_is_named(made: record.Record, tmp_path: Path, *, linked: bool) -> None:
    """A second numbered folder, or a link to one, would be served; what is not served may lie there."""
    base = tmp_path / "simplenn"
    folder = record.folder_of(base, INT8.name)
    for name in record.UNSERVED - {record.FILE}:
        (folder / name).write_text("")
    record.check_files(base, made)
    elsewhere = tmp_path / "elsewhere" if linked else folder / "2"
    elsewhere.mkdir()
    (elsewhere / "model.tflite").write_bytes(b"54321")
    if linked:
        (folder / "2").symlink_to(elsewhere)
    with pytest.raises(record.RecordError, match=r"/2.*: not part of the variant; remove it, or `twinserve models"):
        record.check_files(base, made)


def test_an_available_variant_without_files_is_refused(made: record.Record, tmp_path: Path) -> None:
    """Nothing would be checked before it is served."""
    with pytest.raises(record.RecordError, match=r"variant\.json: names no files; `twinserve models build simplenn`"):
        record.check_files(tmp_path / "simplenn", replace(made, files={}))


def test_a_default_variants_files_are_those_of_its_own_folder(built: Path) -> None:
    """Those of the model's build around it are the manifest's matter."""
    for name in ("torchscript", "savedmodel"):
        record.check_files(built / "simplenn", record.load(built / "simplenn", VARIANTS[name]))
