"""`variant.json`: what is known of one variant of one built model, available or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.core.contract import ModelContract
from models import manifest
from models.variants import VARIANTS, Variant
from models.zoo import MODELS

FILE = "variant.json"
# What a build that failed leaves beside the record, for whoever looks for the reason.
ERROR_LOG = "error.log"
SCHEMA = 1
# In a variant's folder, and not of its `files`: what is known of it, which no server is given.
UNSERVED = frozenset({FILE, "contract.json", ERROR_LOG})
# What `twinserve models list --json` tells of a variant, beside `reason` where it is not available.
LISTED = (
    *("model", "variant", "stack", "available", "bytes", "parity_max_scaled", "argmax_agreement"),
    *("datatype", "device", "served_by"),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One variant of one model.

    `reason` is None of an available one, `bytes` the size of what is served. `parity_max_scaled` is max |a-b|/(1+|b|)
    and `argmax_agreement` a share of 1, both against the eager original on the test set. `quality` is the contract's
    `Quality` where it has one. `digest` is of all that shapes the variant; `files` are sha256 by relative path.
    `failed`: making it was tried and failed, where of another unavailable one it was known that it cannot be had.
    """

    model: str
    variant: str
    stack: str
    available: bool
    reason: str | None
    bytes: int | None
    parity_max_scaled: float | None
    argmax_agreement: float | None
    datatype: str
    device: str
    served_by: str
    quality: Mapping[str, Any] | None = None
    digest: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False

    def listed(self) -> dict[str, Any]:
        """The record as `twinserve models list --json` shows it."""
        shown = {name: getattr(self, name) for name in LISTED}
        return shown if self.reason is None else {**shown, "reason": self.reason}

    def proof(self) -> str:
        """How it compares with the eager original on the test set, for people."""
        parts = []
        if self.parity_max_scaled is not None:
            parts.append(f"max |a-b|/(1+|b|) {self.parity_max_scaled:.1e}")
        if self.argmax_agreement is not None:
            parts.append(f"same class on {self.argmax_agreement:.1%}")
        if self.quality is not None:
            metric, measured, original = (self.quality[key] for key in ("metric", "measured", "original"))
            parts.append(f"{metric} {measured:.4f} (the original's {original:.4f})")
        return ", ".join(parts)

    def save(self, folder: Path) -> None:
        """Writes `variant.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n", "utf-8")


class RecordError(RuntimeError):
    """Raised where a variant's files are missing or changed; says how to make them again."""


def available(
    model: str, variant: Variant, contract: ModelContract, root: Path, files: Mapping[str, str], digest: str
) -> Record:
    """The record of a variant that was made and verified; `files` are what is served, below `root`."""
    parity = contract.parity
    return replace(
        _described(model, variant),
        available=True,
        bytes=sum((root / name).stat().st_size for name in files),
        parity_max_scaled=parity.max_scaled if parity else None,
        argmax_agreement=parity.argmax_agreement if parity else None,
        quality=asdict(contract.quality) if contract.quality else None,
        digest=digest,
        files=files,
    )


def unavailable(model: str, variant: Variant, reason: str, digest: str = "", *, failed: bool = False) -> Record:
    """The record of a variant that cannot be had, or that `failed` when it was made."""
    return replace(_described(model, variant), reason=reason, digest=digest, failed=failed)


def folder_of(base: Path, variant: str) -> Path:
    """Where a variant of the model that is built in `base` has its files."""
    return base / manifest.VARIANTS / variant


def load(base: Path, variant: Variant) -> Record:
    """A variant's record; where there is none, or none that can be used, one that says how to make it."""
    path = folder_of(base, variant.name) / FILE
    try:
        document: Any = json.loads(path.read_text("utf-8"))
        if document.pop("schema") == SCHEMA:
            return _checked(Record(**document), variant)
    except FileNotFoundError:
        return unavailable(base.name, variant, f"not built; `twinserve models build {base.name}` makes it")
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    return unavailable(base.name, variant, f"{path} cannot be used; `twinserve models build {base.name}` makes it anew")


def load_all(base: Path) -> list[Record]:
    """The records of all variants of the model that is, or would be, built in `base`.

    Of a variant that is not offered, the reason is known before anything is built.
    """
    not_offered = MODELS[base.name].not_offered if base.name in MODELS else {}
    records = [load(base, variant) for variant in VARIANTS.values()]
    return [
        known if known.available or known.stack not in not_offered else replace(known, reason=not_offered[known.stack])
        for known in records
    ]


def check_files(base: Path, record: Record) -> None:
    """Raises RecordError where an available variant is not what was verified, file by file, and no file more."""
    if not record.available:
        return
    again = f"`twinserve models build {record.model}` makes it anew"
    default = VARIANTS[record.variant].default
    root = base if default else folder_of(base, record.variant)
    if not record.files:
        raise RecordError(f"{folder_of(base, record.variant) / FILE}: names no files; {again}")
    for name, expected in record.files.items():
        path = root / name
        if not path.is_file() or manifest.sha256(path) != expected:
            what = "changed since it was built" if path.is_file() else "missing"
            raise RecordError(f"{path}: {what}; {again}")
    # A second numbered folder would be served as a newer version that nobody verified.
    unserved = frozenset() if default else UNSERVED
    for path in manifest.files_below(root / record.variant if default else root):
        name = str(path.relative_to(root))
        if name not in record.files and name not in unserved:
            raise RecordError(f"{path}: not part of the variant; remove it, or {again}")


def _checked(found: Record, variant: Variant) -> Record:
    """The record, where it is the variant's and can be worked with; raises ValueError."""
    files = found.files
    if (found.variant, found.stack) != (variant.name, variant.stack) or not isinstance(found.available, bool):
        raise ValueError("it is another variant's, or does not say whether it is available")
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in (*files, *files.values())):
        raise ValueError("files is no object of sha256 by name")
    if found.available and not files:
        raise ValueError("it is available, and has no files")
    if not isinstance(found.reason, str | None) or not isinstance(found.digest, str):
        raise ValueError("reason or digest is no text")
    return found


def _described(model: str, variant: Variant) -> Record:
    return Record(
        model=model,
        variant=variant.name,
        stack=variant.stack,
        available=False,
        reason=None,
        bytes=None,
        parity_max_scaled=None,
        argmax_agreement=None,
        datatype=variant.datatype,
        device=variant.device,
        served_by=variant.served_by,
    )
