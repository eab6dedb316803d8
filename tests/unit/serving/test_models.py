"""Finding built models, and building them in a process of its own."""

from __future__ import annotations

import io
import json
import platform
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from models import manifest, record
from models.manifest import Manifest, files_of
from models.variants import VARIANTS
from serving.loadable import Machine
from serving.models import Event, build_models, find_models, finished_step, to_serve
from serving.processes import LaunchError
from tests.unit.serving.variants import write_reason, write_variant


def _build(models_dir: Path, name: str) -> Path:
    folder = models_dir / name
    (folder / "torchscript").mkdir(parents=True)
    (folder / "torchscript" / f"{name}.mar").touch()
    (folder / "savedmodel" / "3").mkdir(parents=True)
    (folder / "savedmodel" / "3" / "saved_model.pb").touch()
    (folder / "contract.json").write_text("{}")
    return folder


def _command(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_complete_models_are_found_by_name(tmp_path: Path) -> None:
    """In alphabetical order, with absolute paths; folders without a contract are none, nor are hidden ones."""
    folders = {name: _build(tmp_path, name) for name in ("zebra", "apple")}
    (tmp_path / "other").mkdir()
    (tmp_path / ".part").mkdir()
    (tmp_path / ".part" / "contract.json").touch()
    found = find_models(tmp_path)
    assert [(model.name, model.folder) for model in found] == [("apple", folders["apple"]), ("zebra", folders["zebra"])]
    assert all(model.archive.is_file() and model.contract.is_absolute() for model in found)


def test_where_nothing_was_built_there_is_nothing(tmp_path: Path) -> None:
    """Also where the folder does not exist."""
    assert find_models(tmp_path / "models") == ()


@pytest.mark.parametrize("part", ["torchscript/m.mar", "savedmodel/3/saved_model.pb"])
def test_an_incomplete_model_is_an_error_that_names_the_part(tmp_path: Path, part: str) -> None:
    """A server could not serve it; the error says what is missing and how to get it."""
    (_build(tmp_path, "m") / part).unlink()
    with pytest.raises(LaunchError, match=r"model 'm' .* is missing; `twinserve models build m` builds"):
        find_models(tmp_path)


def test_a_build_reports_its_steps() -> None:
    """Each finished step has its words; what is no event is left out."""
    said: list[str] = []

    def tell(event: Event) -> None:
        said.append(finished_step(event))

    events = """
print('noise')
print('{"event": "step", "model": "digits", "step": "train", "status": "start"}')
print('{"event": "step", "model": "digits", "step": "train", "status": "done", "detail": "accuracy 0.98"}')
"""
    build_models(_command(events), tell)
    assert said == ["", "train digits accuracy 0.98"]


def test_a_failed_build_tells_its_reason() -> None:
    """The error's message, and the end of the error output."""
    script = """
import sys
print('{"event": "error", "model": "digits", "message": "parity failed"}')
sys.exit('Traceback: ...')
"""
    with pytest.raises(LaunchError, match=r"building the models failed: parity failed\nTraceback: ..."):
        build_models(_command(script), print)


def test_an_interrupted_build_is_ended() -> None:
    """The process of the build does not go on behind the user's back."""
    pids: list[int] = []
    script = """
import os, time
print('{"event": "step", "status": "done", "detail": "%d"}' % os.getpid(), flush=True)
time.sleep(600)
"""

    def interrupted(event: Event) -> None:
        pids.append(int(event["detail"]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_models(_command(script), interrupted)
    (pid,) = pids
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 1


def test_by_default_nothing_but_the_default_variants_is_served(tmp_path: Path) -> None:
    """Of every other one it is known why not, and what to do."""
    base = _build(tmp_path, "m")
    write_variant(base, "onnx")
    write_reason(base, "tensorrt", "needs an NVIDIA GPU")
    (model,) = to_serve(find_models(tmp_path), "", "default")
    assert model.variants == ()
    assert model.unavailable["onnx"] == "not served; `twinserve up --variants onnx` serves it"
    assert model.unavailable["tensorrt"] == "needs an NVIDIA GPU"
    assert model.unavailable["xla"] == "not built; `twinserve models build m` makes it"
    assert not {"torchscript", "savedmodel"} & model.unavailable.keys()


def test_the_variants_asked_for_are_served_and_the_others_said(tmp_path: Path) -> None:
    """One that cannot be had costs the others nothing."""
    base = _build(tmp_path, "m")
    written = {name: write_variant(base, name) for name in ("onnx", "xla", "bf16")}
    write_reason(base, "tensorrt", "needs an NVIDIA GPU")
    said: list[str] = []
    (model,) = to_serve(find_models(tmp_path), "m", "onnx, tensorrt,xla", said.append)
    assert [(one.name, one.stack, one.served_name) for one in model.variants] == [
        ("onnx", "torchserve", "m-onnx"),
        ("xla", "tfserving", "m-xla"),
    ]
    assert model.on("torchserve")[0].archive == written["onnx"]
    assert said == ["left out: m as tensorrt: needs an NVIDIA GPU"]
    assert [one.name for one in to_serve(find_models(tmp_path), "", "all")[0].variants] == ["onnx", "bf16", "xla"]


def test_a_corrupt_variant_is_left_out(tmp_path: Path) -> None:
    """By its sha256, before a server is given it; the file and what to do are named."""
    base = _build(tmp_path, "m")
    file = write_variant(base, "onnx")
    write_variant(base, "xla")
    file.write_text("something else")
    said: list[str] = []
    (model,) = to_serve(find_models(tmp_path), "", "all", said.append)
    assert [one.name for one in model.variants] == ["xla"]
    expected = f"{file}: changed since it was built; `twinserve models build m` makes it anew"
    assert model.unavailable["onnx"] == expected
    assert f"left out: m as onnx: {expected}" in said


HERE = Machine("x86_64", frozenset({"avx2", "fma", "f16c"}))
LACKING = [
    ("compile", {"runtime": "compile"}, {"no_compiler": "needs a C++ compiler"}, "needs a C++ compiler"),
    ("onnx", {"runtime": "onnx", "file": "model.onnx"}, {"no_onnx": "needs ONNX Runtime"}, "needs ONNX Runtime"),
    ("cuda", {"runtime": "eager", "device": "cuda"}, {"no_cuda": "needs an NVIDIA GPU"}, "needs an NVIDIA GPU"),
    ("tensorrt", {"runtime": "onnx", "device": "cuda"}, {"no_cuda": "needs an NVIDIA GPU"}, "needs an NVIDIA GPU"),
    (
        *(
            "aotinductor",
            {"runtime": "aotinductor", "file": "model.pt2", "device": "cpu"},
            {"flags": frozenset({"sse"})},
        ),
        "model.pt2 was built for a CPU with AVX2, and this one lacks avx2, f16c, fma",
    ),
    (
        *("int8-static", {"runtime": "aotinductor", "file": "model.pt2"}, {"kind": "aarch64"}),
        "model.pt2 was built for x86_64, and this machine is aarch64",
    ),
]


def _archive(file: Path, section: dict[str, Any]) -> None:
    """A variant's .mar as far as the launcher reads it; a package in it was built for an x86_64 with AVX2."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("model-config.yaml", yaml.safe_dump({"variant": section}))
        with zipfile.ZipFile(package := io.BytesIO(), "w") as inner:
            built = {"AOTI_DEVICE_KEY": "cpu", "AOTI_MACHINE": "x86_64", "AOTI_CPU_ISA": "AVX2"}
            inner.writestr("model/data/aotinductor/model/a.wrapper_metadata.json", json.dumps(built))
        packed.writestr("model.pt2", package.getvalue())


@pytest.mark.parametrize(("name", "section", "lacks", "reason"), LACKING, ids=[name for name, *_ in LACKING])
def test_what_cannot_be_loaded_here_is_left_out_before_a_server_starts(
    tmp_path: Path, name: str, section: dict[str, Any], lacks: dict[str, Any], reason: str
) -> None:
    """By what its archive asks for and the machine has; a machine that has it serves it."""
    base = _build(tmp_path, "m")
    _archive(write_variant(base, name), section)
    files = {f"m-{name}.mar": manifest.sha256(record.folder_of(base, name) / f"m-{name}.mar")}
    replace(record.load(base, VARIANTS[name]), files=files).save(record.folder_of(base, name))
    write_variant(base, "xla")
    said: list[str] = []
    (model,) = to_serve(find_models(tmp_path), "", f"{name},xla", said.append, replace(HERE, **lacks))
    assert [one.name for one in model.variants] == ["xla"]
    assert model.unavailable[name].startswith(reason)
    assert said == [f"left out: m as {name}: {model.unavailable[name]}"]
    (model,) = to_serve(find_models(tmp_path), "", f"{name},xla", here=HERE)
    assert [one.name for one in model.variants] == [name, "xla"]


def test_this_machine_is_looked_at_without_a_framework() -> None:
    """The launcher needs neither torch nor TensorFlow to know what is here."""
    script = "import sys; from serving.models import Machine; print(Machine.this().kind, 'torch' in sys.modules)"
    told = subprocess.run(_command(script), capture_output=True, text=True, check=True).stdout.split()
    assert told == [platform.machine(), "False"]


def test_a_variant_with_a_damaged_record_is_left_out(tmp_path: Path) -> None:
    """It is said, and the others are served."""
    base = _build(tmp_path, "m")
    write_variant(base, "xla")
    damaged = write_variant(base, "onnx").parent / "variant.json"
    damaged.write_text(damaged.read_text().replace('"onnx"', '"nope"'))
    said: list[str] = []
    (model,) = to_serve(find_models(tmp_path), "", "onnx,xla", said.append)
    assert [one.name for one in model.variants] == ["xla"]
    assert said == [f"left out: m as onnx: {damaged} cannot be used; `twinserve models build m` makes it anew"]


def test_a_corrupt_model_is_not_served(tmp_path: Path) -> None:
    """There is nothing to answer in its place."""
    base = _build(tmp_path, "m")
    Manifest("m", 1, "pytorch", 7, {}, {}, "mark", files_of(base), "now").save(base)
    assert to_serve(find_models(tmp_path), "", "default")
    (base / "torchscript" / "m.mar").write_text("something else")
    with pytest.raises(LaunchError, match=r"m\.mar: changed since it was built"):
        to_serve(find_models(tmp_path), "", "default")


@pytest.mark.parametrize(
    ("models", "variants", "expected"),
    [
        ("n", "default", "model 'n' is not built; there are m; `twinserve models build n` builds it"),
        ("", "onxx", "unknown variant 'onxx'; there are default, all, torchscript, eager"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, models: str, variants: str, expected: str) -> None:
    """With what there is."""
    _build(tmp_path, "m")
    with pytest.raises(LaunchError, match=expected):
        to_serve(find_models(tmp_path), models, variants)


def test_a_model_of_one_stack_needs_nothing_for_the_other(tmp_path: Path) -> None:
    """Its contract says which stacks have it."""
    base = _build(tmp_path, "m")
    (base / "contract.json").write_text('{"variants": {"torchscript": "torchserve"}}')
    (base / "savedmodel" / "3" / "saved_model.pb").unlink()
    (model,) = to_serve(find_models(tmp_path), "", "all")
    assert model.stacks == ("torchserve",)
    assert "not built" in model.unavailable["savedmodel"]
