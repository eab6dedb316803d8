"""Finding built models, and building them in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.models import Event, build_models, find_models, finished_step
from serving.processes import LaunchError


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
    with pytest.raises(LaunchError, match=r"model 'm' .* is missing; `twinserve models build`"):
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
