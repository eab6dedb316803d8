"""Runs one cell: the generator processes, the recorder beside them, and one T0 for all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from loadtests.cell_spec import CellSpec
from loadtests.disk import telling_full
from loadtests.engine.arrivals import check_load
from loadtests.engine.conduct import Conductor, Player
from loadtests.engine.nursery import Nursery, nursery
from loadtests.errors import LoadTestError
from loadtests.processes import Process, ended, environment, tail
from loadtests.questions import questions_of

# After the last worker is gone the recorder has one batch left to write.
_RECORDER_S = 30.0


class Start(Protocol):
    """Starts a process that runs a module of ours with these descriptors."""

    def __call__(self, module: str, arguments: Sequence[str], fds: Sequence[int], output: IO[bytes]) -> Process:
        """The process, under way."""
        ...


@contextlib.contextmanager
def engine() -> Iterator[Callable[..., None]]:
    """`run_cell` for many cells: its processes are forked by one nursery instead of being loaded anew for each."""
    with nursery() as children:
        yield partial(run_cell, children=children)


def run_cell(
    spec: CellSpec,
    *,
    artifacts: Path,
    raw: Path,
    health: Path,
    log: Path,
    stop: threading.Event | None = None,
    children: Nursery | None = None,
) -> None:
    """Measures a cell. Blocks for its warm-up, its steps, and at most its time limit more for stragglers.

    Its processes are forked by the nursery `children`; without one they are started anew.

    Leaves `raw/SLUG.W.arrow`, one for each worker, and writes the generator's own account into the file `health`; what
    the generator printed is in the file `log`. Where `stop` is set the run ends within seconds: what was recorded so
    far stays, and the account says `stopped`. Raises LoadTestError where the cell cannot be measured, with the words
    for the user; a failed request is a figure.
    """
    check(spec, artifacts)
    with telling_full(health.parent):
        for folder in (raw, health.parent, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
    with _files(spec, log) as (source, errors, output), contextlib.ExitStack() as processes:
        start = _anew if children is None else children.start
        recorder, players = _started(spec, raw, source, artifacts, output, errors, processes, start)
        conductor = Conductor(spec, players, stop or threading.Event(), lambda: recorder.poll() is None)
        try:
            conductor.conduct()
        except LoadTestError as exc:
            _finish(recorder, errors, spec)  # where the recorder failed, its reason is the reason
            raise LoadTestError(f"{spec.slug}: {exc}; the generator's log is {log}\n{tail(log)}") from exc
        _finish(recorder, errors, spec)
    with telling_full(health.parent):
        part = health.with_suffix(".part")
        part.write_text(json.dumps(conductor.account()), "utf-8")
        part.replace(health)


@contextlib.contextmanager
def _files(spec: CellSpec, log: Path) -> Iterator[tuple[Path, Path, IO[bytes]]]:
    """The cell as workers read it, where the recorder says what is wrong, and the open log; raises DiskFullError."""
    with contextlib.ExitStack() as opened:
        temporary = Path(tempfile.gettempdir())
        with telling_full(temporary):
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="twinserve-cell-", dir=temporary)))
            source = folder / "cell.json"
            source.write_text(json.dumps(spec.to_json()), "utf-8")
        with telling_full(log.parent):
            output = opened.enter_context(log.open("wb"))
        yield source, folder / "recorder.log", output


def check(spec: CellSpec, artifacts: Path) -> None:
    """Raises LoadTestError where the cell's load cannot be sent or its questions cannot be made."""
    check_load(spec.load)
    for target in spec.targets:
        questions_of(target, spec.load.rows, artifacts)


def _started(
    spec: CellSpec,
    raw: Path,
    source: Path,
    artifacts: Path,
    output: IO[bytes],
    errors: Path,
    processes: contextlib.ExitStack,
    start: Start,
) -> tuple[Process, list[Player]]:
    """The recorder and the workers; all are ended with `processes`."""
    pipes = [os.pipe() for _ in range(spec.load.workers)]
    with _closed_after(fd for pipe in pipes for fd in pipe):
        files = [f"{read}={(raw / f'{spec.slug}.{index}.arrow').resolve()}" for index, (read, _) in enumerate(pipes)]
        with telling_full(errors.parent):
            log = processes.enter_context(errors.open("wb"))
        recorder = start("loadtests.engine.recorder", files, [read for read, _ in pipes], log)
        processes.enter_context(ended(recorder))
        players = []
        for index, (_, write) in enumerate(pipes):
            player, theirs = Player.pair(index)
            processes.callback(player.close)
            with theirs:
                arguments = [str(source), str(index), str(artifacts.resolve()), str(theirs.fileno()), str(write)]
                worker = start("loadtests.engine.worker", arguments, [theirs.fileno(), write], output)
                processes.enter_context(ended(worker))
            players.append(player)
    return recorder, players


def _anew(module: str, arguments: Sequence[str], fds: Sequence[int], output: IO[bytes]) -> Process:
    return subprocess.Popen(  # noqa: S603  # our own interpreter and modules, no shell
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=fds,
        env=environment() | {"LOCUST_SKIP_MONKEY_PATCH": "1"},
        # A Ctrl-C in the terminal is for the campaign alone.
        start_new_session=True,
    )


def _finish(recorder: Process, errors: Path, spec: CellSpec) -> None:
    """Waits until everything is on the disk; raises LoadTestError where it is not."""
    try:
        code = recorder.wait(_RECORDER_S)
    except subprocess.TimeoutExpired:
        raise LoadTestError(f"{spec.slug}: the recorder did not end in {_RECORDER_S:g} s; is the disk stuck?") from None
    if code != 0:
        words = errors.read_text("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
        raise LoadTestError(f"{spec.slug}: the rows could not be recorded: {words[-1]}")


@contextlib.contextmanager
def _closed_after(fds: Iterator[int]) -> Iterator[None]:
    fds = list(fds)
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)
