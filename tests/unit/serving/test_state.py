"""What runs now, written down for other commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from serving.state import ProcessId, RunState, ServerState, running

ME = ProcessId.of(os.getpid())


def _state(launcher: ProcessId = ME) -> RunState:
    server = ServerState(
        name="a",
        process=ME,
        url="http://127.0.0.1:1",
        health="http://127.0.0.1:1/",
        ports=(1, 2),
        log="/a.log",
        description="A 1.0",
    )
    return RunState(launcher, "ready", "http://127.0.0.1:3", "127.0.0.1:4", (server,))


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    """All fields survive the file."""
    _state().save(tmp_path)
    assert RunState.load(tmp_path) == _state()
    assert running(tmp_path) == _state()


def test_a_process_of_the_same_number_and_another_start_is_another() -> None:
    """A recycled number is not taken for the launcher."""
    assert ME.runs()
    assert not ProcessId(ME.pid, "1").runs()


def test_a_launcher_that_ended_runs_no_more(tmp_path: Path) -> None:
    """Its state stays readable, and nothing runs."""
    process = subprocess.Popen(["/bin/sleep", "600"])
    launcher = ProcessId.of(process.pid)
    _state(launcher).save(tmp_path)
    assert running(tmp_path) is not None
    process.kill()
    process.wait()
    assert running(tmp_path) is None
    assert RunState.load(tmp_path) is not None
    assert launcher.memory() == 0


def test_a_failed_run_keeps_its_message(tmp_path: Path) -> None:
    """So that `status` can tell why nothing runs."""
    _state().failed("a died").save(tmp_path)
    state = RunState.load(tmp_path)
    assert state is not None
    assert (state.status, state.message) == ("failed", "a died")


def test_what_is_no_state_is_none(tmp_path: Path) -> None:
    """No file, half a file, or one of another version: nothing is known."""
    assert RunState.load(tmp_path) is None
    for text in ("", "{", "[]", "{}", '{"servers": [{"name": "a"}], "launcher": {}}'):
        (tmp_path / "state.json").write_text(text)
        assert RunState.load(tmp_path) is None
    RunState.remove(tmp_path)
    RunState.remove(tmp_path)
    assert not (tmp_path / "state.json").exists()


def test_memory_counts_children() -> None:
    """A server's workers are part of it."""
    alone = ME.memory()
    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        assert ME.memory() > 0
        child.kill()
    assert alone > 0
