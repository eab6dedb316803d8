"""Running a process within bounds: what is left behind, and what is asked for first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from loadtests.errors import LoadTestError
from loadtests.run import run_bounded, run_cell
from tests.unit.loadtests.builders import toy_cell, write_toy

# Writes its own pid and that of a child of its own, then waits far longer than any test.
_STUBBORN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
with open("pids.part", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename("pids.part", "pids")
time.sleep(120)
"""


def _gone(folder: Path) -> bool:
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
    return not alive


def test_the_exit_code_and_the_output_are_kept(tmp_path: Path) -> None:
    """Both streams go to the log."""
    command = [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"]
    assert run_bounded(command, tmp_path / "log", cwd=tmp_path, timeout=20) == 3
    assert set((tmp_path / "log").read_text().split()) == {"out", "err"}


def test_a_process_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    """After the time is up nothing of the group is left."""
    command = [sys.executable, "-c", _STUBBORN]
    assert run_bounded(command, tmp_path / "log", cwd=tmp_path, timeout=1.5) is None
    assert _gone(tmp_path)


def test_an_interrupt_ends_the_process_too(tmp_path: Path, when_exists: Callable[[Path], None]) -> None:
    """Ctrl-C does not reach a group of its own, so it is ended for it."""
    when_exists(tmp_path / "pids")
    with pytest.raises(KeyboardInterrupt):
        run_bounded([sys.executable, "-c", _STUBBORN], tmp_path / "log", cwd=tmp_path, timeout=30)
    assert _gone(tmp_path)


@pytest.fixture
def when_exists() -> Callable[[Path], None]:
    """Interrupts this process as soon as a file exists."""

    def start(path: Path) -> None:
        def interrupt() -> None:
            tick = threading.Event()
            while not path.exists():
                tick.wait(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()

    return start


def test_a_missing_model_is_told_before_locust_starts(tmp_path: Path) -> None:
    """No process, no log: the error names the contract that is missing."""
    with pytest.raises(LoadTestError, match=r"contract\.json"):
        run_cell(toy_cell(), artifacts=tmp_path, users=1, seconds=1, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_rows_are_told_before_locust_starts(tmp_path: Path) -> None:
    """A request cannot have more rows than there are golden ones."""
    with pytest.raises(LoadTestError, match="golden rows"):
        run_cell(toy_cell(), artifacts=write_toy(tmp_path), users=1, seconds=1, out_dir=tmp_path / "out", rows=1000)
