"""`manifest.json` of a built model: what was built from what, and the sha256 of every file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from models.zoo import ModelDefinition

FILE = "manifest.json"
SCHEMA = 1
PACKAGES = ("torch", "tensorflow", "keras", "numpy", "scikit-learn", "torch-model-archiver")
# Of a folder of sources: its code, its settings and its data.
TYPES = frozenset({".py", ".yaml", ".json", ".npz"})
ROOT = Path(__file__).resolve().parents[1]
# Variants are made after the build, from its weights; each has a record of its own.
VARIANTS = "variants"
# What a built model depends on beside the versions, the options, its definition and the folder of its network.
SOURCES = (
    "models/build.py",
    "models/convert.py",
    "models/export/archive.py",
    "models/export/savedmodel.py",
    "models/export/torchscript.py",
    "models/job.py",
    "models/manifest.py",
    "models/train.py",
    "models/verify.py",
    "models/zoo/dataset.py",
    "models/zoo/keras_layers.py",
    "models/zoo/torch_layers.py",
    "serving/torchserve/handler.py",
    "serving/torchserve/model-config.yaml",
    "serving/torchserve/runtimes.py",
    "serving/torchserve/instructions.py",
    "serving/torchserve/text.py",
    "gateway/core/contract.py",
)


class ManifestError(RuntimeError):
    """Raised where a built model's files are missing, changed or unknown; says how to build them again."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A built model. `metric` is its name and value on the test rows; `files` are sha256 by relative path."""

    model: str
    version: int
    framework: str
    seed: int
    metric: Mapping[str, float]
    versions: Mapping[str, str]
    fingerprint: str
    files: Mapping[str, str]
    created: str

    def save(self, folder: Path) -> None:
        """Writes `manifest.json`."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2)
        (folder / FILE).write_text(text + "\n", "utf-8")


def load(folder: Path) -> Manifest:
    """Reads a built model's manifest; raises ManifestError."""
    path, again = folder / FILE, _again(folder)
    try:
        document: Any = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise ManifestError(f"{path}: {exc.strerror}; `twinserve models build {folder.name}` writes it") from exc
    except ValueError as exc:
        raise ManifestError(f"{path}: not JSON; {again}") from exc
    if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
        raise ManifestError(f"{path}: expected schema {SCHEMA}; {again}")
    try:
        return Manifest(**document)
    except TypeError as exc:
        raise ManifestError(f"{path}: {exc}; {again}") from exc


def check_files(folder: Path) -> Manifest:
    """The manifest, where every file is there and unchanged, and no other; raises ManifestError naming the first."""
    manifest, again = load(folder), _again(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ManifestError(f"{path}: missing; {again}")
        if sha256(path) != expected:
            raise ManifestError(f"{path}: changed since it was built; {again}")
    # A second numbered folder would be served as a newer version that nobody verified.
    for path in _files(folder):
        if str(path.relative_to(folder)) not in manifest.files:
            raise ManifestError(
                f"{path}: not part of the build; remove it, or `twinserve models build {folder.name}` builds without it"
            )
    return manifest


def _again(folder: Path) -> str:
    return f"`twinserve models build {folder.name}` writes it anew"


def files_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file below `folder` but the manifest and the variants, by relative path."""
    return {str(path.relative_to(folder)): sha256(path) for path in _files(folder)}


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All that is no real folder, sorted: a link to a folder counts as a file, since a server would follow it."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _files(folder: Path) -> list[Path]:
    own = (path for path in files_below(folder) if path != folder / FILE)
    return [path for path in own if path.relative_to(folder).parts[0] != VARIANTS]


def versions() -> dict[str, str]:
    """The versions of Python and of every package that shapes a build."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def packages_of(definition: ModelDefinition) -> tuple[str, ...]:
    """The packages that shape this model beside the frameworks: its weights, and the tokenizer of its text."""
    packages = (definition.pretrained, "tokenizers" if definition.preprocessed else "")
    return tuple(package for package in packages if package)


def version_of(distribution: str) -> str:
    """The version of a distribution that need not be there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def fingerprint(definition: ModelDefinition, framework: str, seed: int, root: Path = ROOT) -> str:
    """Changes with anything that could change what is built: definition, sources below `root`, options, versions."""
    settings = [repr(definition), framework, seed, versions(), *map(version_of, packages_of(definition))]
    return digest_of(settings, (*SOURCES, *definition.folders), root)


def digest_of(settings: object, sources: Iterable[str], root: Path = ROOT) -> str:
    """The sha256 of settings that JSON can hold, and of the source files and folders below `root`."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for source in sources:
        path = root / source
        for file in sorted(f for f in path.rglob("*") if f.suffix in TYPES) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
