"""The manifest: digests of what was built, and the fingerprint of what it was built from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models import manifest
from models.zoo import MODELS


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A built model that a test may spoil."""
    return Path(shutil.copytree(built / "simplenn", tmp_path / "simplenn"))


def test_an_untouched_build_passes(copy: Path) -> None:
    """Every file is listed, with the versions that shaped it."""
    made = manifest.check_files(copy)
    assert {"contract.json", "golden.npz", "torchscript/simplenn.mar", "savedmodel/1/saved_model.pb"} <= set(made.files)
    assert made.versions.keys() >= {"python", "torch", "tensorflow", "keras", "numpy", "scikit-learn"}
    assert made.versions["torch"].startswith("2.13.0")


def test_a_changed_file_is_named(copy: Path) -> None:
    """One byte more is enough."""
    with (copy / "torchscript" / "simplenn.mar").open("ab") as archive:
        archive.write(b"x")
    with pytest.raises(manifest.ManifestError, match=r"simplenn\.mar: changed since it was built"):
        manifest.check_files(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    """The message says how to build it again."""
    (copy / "golden.npz").unlink()
    with pytest.raises(
        manifest.ManifestError, match=r"golden\.npz: missing; `twinserve models build simplenn` writes it anew"
    ):
        manifest.check_files(copy)


def test_a_file_that_no_build_wrote_is_named(copy: Path) -> None:
    """A second numbered folder would be served as a newer version that nobody verified."""
    shutil.copytree(copy / "savedmodel" / "1", copy / "savedmodel" / "2")
    with pytest.raises(manifest.ManifestError, match=r"savedmodel/2/.*: not part of the build"):
        manifest.check_files(copy)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected schema 1"),
        ('{"schema": 2}', "expected schema 1"),
        ('{"schema": 1}', "missing .* required"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file and what was expected."""
    (tmp_path / manifest.FILE).write_text(text)
    with pytest.raises(manifest.ManifestError, match=rf"manifest\.json: .*{said}"):
        manifest.load(tmp_path)


def test_no_manifest_is_an_error_that_says_what_writes_it(tmp_path: Path) -> None:
    """A folder that is not a built model."""
    with pytest.raises(
        manifest.ManifestError, match=rf"No such file or directory; `twinserve models build {tmp_path.name}` writes it"
    ):
        manifest.load(tmp_path)


def test_the_fingerprint_follows_the_options() -> None:
    """Another seed or framework is another build; the same ones are the same."""
    first = manifest.fingerprint(MODELS["simplenn"], "pytorch", 7)
    assert first == manifest.fingerprint(MODELS["simplenn"], "pytorch", 7)
    assert (
        len(
            {
                first,
                manifest.fingerprint(MODELS["simplenn"], "pytorch", 8),
                manifest.fingerprint(MODELS["simplenn"], "keras", 7),
            }
        )
        == 3
    )


def test_the_fingerprint_follows_the_sources(tmp_path: Path) -> None:
    """A changed line in any file that shapes a build means that it is built again."""
    for source in (*manifest.SOURCES, "models/zoo/simplenn"):
        path = tmp_path / source
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("a")
        else:
            path.mkdir(parents=True)
            (path / "train.py").write_text("a")
    before = manifest.fingerprint(MODELS["simplenn"], "pytorch", 7, root=tmp_path)
    (tmp_path / "models" / "train.py").write_text("b")
    assert manifest.fingerprint(MODELS["simplenn"], "pytorch", 7, root=tmp_path) != before
