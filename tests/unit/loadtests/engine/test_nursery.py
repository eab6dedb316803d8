"""Processes that are forked from one that has loaded everything."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadtests.engine.nursery import Nursery, nursery
from loadtests.errors import LoadTestError
from loadtests.processes import ended

MODULE = "tests.unit.loadtests.engine.nurslings"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    """One nursery for all tests."""
    with nursery() as started:
        yield started


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, of which a test closes what it likes."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_child_has_the_descriptors_by_the_numbers_that_its_arguments_name(children: Nursery, tmp_path: Path) -> None:
    """It leads a group of its own, its output is in the file, its exit code is told."""
    source, fill = os.pipe()
    drain, to = os.pipe()
    with (tmp_path / "output").open("wb") as output:
        child = children.start(MODULE, ["copy", str(source), str(to)], [source, to], output)
    for end in (source, to):
        os.close(end)
    assert child.poll() is None
    os.write(fill, b"through the child")
    os.close(fill)
    with open(drain, "rb") as copied:
        assert copied.read() == b"through the child"
    assert (child.wait(PATIENCE_S), child.poll()) == (7, 7)
    assert (tmp_path / "output").read_text() == "copied True\n"


def test_a_child_that_is_killed_is_told_from_one_that_ended(
    children: Nursery, pipe: tuple[int, int], tmp_path: Path
) -> None:
    """Whoever waits for it waits no longer than that."""
    with (tmp_path / "output").open("wb") as output:
        child = children.start(MODULE, ["hang", str(pipe[0])], [pipe[0]], output)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_child_ends_with_the_block_that_holds_it(children: Nursery, pipe: tuple[int, int], tmp_path: Path) -> None:
    """As a process that was started anew does."""
    with (tmp_path / "output").open("wb") as output:
        child = children.start(MODULE, ["hang", str(pipe[0])], [pipe[0]], output)
    with ended(child):
        assert child.poll() is None
    assert child.poll() is not None


def test_a_child_whose_asker_is_gone_ends_as_any_other(children: Nursery, tmp_path: Path) -> None:
    """Not as an interpreter does: libraries would wait there for threads that the nursery has and a child has not."""
    source, fill = os.pipe()
    with (tmp_path / "output").open("wb") as output, open(source, "rb"):
        child = children.start(MODULE, ["outlive", str(source)], [source], output)
        child._code.close()  # as the end of who asked does
    os.close(fill)
    assert psutil.wait_procs([psutil.Process(child.pid)], timeout=PATIENCE_S)[1] == []
    assert (tmp_path / "output").read_text() == ""


@pytest.mark.parametrize("how", ["fail", "leave"])
def test_a_child_that_fails_leaves_its_reason_and_the_nursery_goes_on(
    children: Nursery, how: str, tmp_path: Path
) -> None:
    """What it raised is in its output; the next one starts."""
    with (tmp_path / "output").open("wb") as output:
        assert children.start(MODULE, [how], [], output).wait(PATIENCE_S) == 1
        assert children.start(MODULE, [], [], output).wait(PATIENCE_S) == 0
    assert f"this child {how}s" in (tmp_path / "output").read_text()


def test_a_child_that_cannot_be_made_is_no_child_that_was_killed(children: Nursery, tmp_path: Path) -> None:
    """One of its descriptors cannot have its number: it fails, and the nursery goes on."""
    with (tmp_path / "output").open("wb") as output, open(os.devnull, "rb") as source:
        high = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
        os.dup2(source.fileno(), high)
        try:
            child = children.start(MODULE, [], [high], output)
        finally:
            os.close(high)
        assert child.wait(PATIENCE_S) == 1
        assert children.start(MODULE, [], [], output).wait(PATIENCE_S) == 0
    assert "Error" in children.last_words()


def test_nothing_of_one_child_is_left_in_another(children: Nursery, tmp_path: Path) -> None:
    """Each is a process of its own."""
    with (tmp_path / "output").open("wb") as output:
        found = [children.start(MODULE, [], [], output) for _ in range(3)]
        assert [child.wait(PATIENCE_S) for child in found] == [0, 0, 0]
    assert len({child.pid for child in found}) == 3


def test_a_nursery_that_has_ended_is_told(tmp_path: Path) -> None:
    """Instead of waiting for a child that never comes."""
    with nursery() as short, (tmp_path / "output").open("wb") as output:
        os.kill(short.pid, signal.SIGKILL)
        with pytest.raises(LoadTestError, match="no generator can be started"):
            short.start(MODULE, [], [], output)
