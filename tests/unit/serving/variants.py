"""Variants of a model, as `twinserve models build` leaves them, as far as files matter here."""

from __future__ import annotations

from pathlib import Path

from gateway.core.contract import ModelContract
from models import manifest, record
from models.variants import VARIANTS
from tests.builders import contract


def write_variant(base: Path, name: str, its: ModelContract | None = None) -> Path:
    """A variant of the model in `base` that was built and verified; returns the file that is served."""
    variant = VARIANTS[name]
    folder = record.folder_of(base, name)
    tensorflow = "1/model.tflite" if name.startswith("tflite") else "1/saved_model.pb"
    file = tensorflow if variant.stack == "tfserving" else f"{variant.served_name(base.name)}.mar"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text(name)
    files = {file: manifest.sha256(folder / file)}
    record.available(base.name, variant, its or contract(base.name), folder, files, "digest").save(folder)
    return folder / file


def write_reason(base: Path, name: str, reason: str) -> None:
    """A variant of the model in `base` that cannot be had."""
    record.unavailable(base.name, VARIANTS[name], reason).save(record.folder_of(base, name))
