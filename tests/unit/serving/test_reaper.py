"""The process that ends what a dead launcher left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving import reaper
from tests.unit.serving.tiny import left_running, until

SLEEP = ["/bin/sh", "-c", "sleep 600 & exec sleep 600"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A group of two processes."""
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        until(lambda: len(reaper.group_members(process.pid)) == 2)
        yield process
        reaper.kill_group(process.pid)


@pytest.fixture
def pipe() -> Iterator[subprocess.Popen[str]]:
    """A reaper, and the pipe of its launcher."""
    command = [sys.executable, "-I", "-S", reaper.__file__, "0.5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        yield process


def _say(pipe: subprocess.Popen[str], text: str) -> None:
    assert pipe.stdin is not None
    pipe.stdin.write(text)
    pipe.stdin.flush()


def test_the_end_of_the_pipe_ends_the_watched(pipe: subprocess.Popen[str], sleeper: subprocess.Popen[bytes]) -> None:
    """Every process of a watched group is ended when the launcher's end of the pipe closes."""
    _say(pipe, f"watch {sleeper.pid}\n")
    pipe.communicate()
    sleeper.wait(5)
    until(lambda: left_running([sleeper.pid]) == [])
    assert pipe.returncode == 0


def test_the_forgotten_go_on(pipe: subprocess.Popen[str], sleeper: subprocess.Popen[bytes]) -> None:
    """What the launcher has ended itself is not touched any more."""
    _say(pipe, f"watch {sleeper.pid}\nforget {sleeper.pid}\n")
    pipe.communicate()
    assert sleeper.poll() is None


def test_signals_to_the_launchers_group_do_not_stop_it(
    pipe: subprocess.Popen[str], sleeper: subprocess.Popen[bytes]
) -> None:
    """SIGTERM, SIGINT and SIGHUP leave the reaper on watch."""
    _say(pipe, f"watch {sleeper.pid}\n")
    # It ignores signals before it reads; the line has been read when the pipe's other end was.
    until(lambda: _ignores(pipe.pid, signal.SIGTERM))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        pipe.send_signal(number)
    pipe.communicate()
    sleeper.wait(5)


def test_a_process_that_took_over_the_number_is_left_alone() -> None:
    """A group whose number now belongs to a process of another start is not signalled."""
    mine = os.getpid()
    assert reaper.not_taken_over({mine: "1"}) == []
    assert reaper.not_taken_over({mine: None}) == []
    assert reaper.not_taken_over({mine: reaper.start_time(mine)}) == [mine]
    assert reaper.not_taken_over({2**22 + 1: "1"}) == [2**22 + 1]


def test_a_process_is_known_by_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    """The start stays the same while it runs; a zombie and a number of nobody have none."""
    assert reaper.start_time(sleeper.pid) == reaper.start_time(sleeper.pid) is not None
    assert reaper.runs(os.getpid())
    os.killpg(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert reaper.start_time(sleeper.pid) is None
    assert not reaper.runs(sleeper.pid)


def _ignores(pid: int, number: signal.Signals) -> bool:
    with open(f"/proc/{pid}/status") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith("SigIgn"))
    return bool(mask >> (number - 1) & 1)
