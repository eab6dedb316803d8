"""Child processes that never outlive their launcher: each in a group of its own, its output in a file.

Whatever ends the launcher, the groups end: `Processes` on leaving its `with` block, or `reaper.py` where the launcher
was killed before it could.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from serving import reaper

SHELL = "/bin/sh"
# The shell tells the reaper its number before it becomes the server: there is no moment without a guard.
ANNOUNCE = 'echo "watch $$" >&0; exec "$@" </dev/null'
TAIL_LINES = 15
KILL_TAKES_S = 2.0


class LaunchError(RuntimeError):
    """Raised where servers cannot be started or kept running; its text is for the user."""


class PortTaken(LaunchError):  # noqa: N818 - reads as what happened
    """Raised before anything is started, where a port is in use; the text names its setting."""


class ServerDied(LaunchError):  # noqa: N818 - reads as what happened
    """Raised where a server ended by itself; the text has how, its last lines, and where its log is."""

    def __init__(self, name: str, code: int, log: Path, tail: Sequence[str]) -> None:
        self.name, self.code, self.log, self.tail = name, code, log, tuple(tail)
        super().__init__(
            "\n".join([f"{name} {describe_exit(code)}. The end of {log}:", *(f"  {line}" for line in tail)])
        )


class NotReady(LaunchError):  # noqa: N818 - reads as what happened
    """Raised where a server did not answer in time; the text has what it was waited for."""


def describe_exit(code: int) -> str:
    """An exit code as a phrase; negative codes are signals."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a server listens on: its number, what it is for, and how to choose another."""

    number: int
    use: str
    setting: str


@dataclass(frozen=True, slots=True)
class Server:
    """How to run one server, and how to see that it answers.

    `waiting_for` returns None once it is ready, else what is still missing; then `describe` names the program that
    answers, with its version, and the path `health` under `url` answers 200. `note` tells the user what is started.
    `allowance_s` is how much longer than usual its start may take. `prepare` is called just before it is started.
    `again` is asked where it dies before it is ready: what is started in its place, None for nothing, or it raises.
    """

    name: str
    command: Sequence[str]
    waiting_for: Callable[[], str | None]
    describe: Callable[[], str]
    ports: tuple[Port, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    health: str = ""
    note: str = ""
    allowance_s: float = 0.0
    prepare: Callable[[], None] = lambda: None
    again: Callable[[ServerDied], Server | None] | None = None


@dataclass(slots=True)
class Child:
    """A server that was started: its process, the leader of its own group, and the file of its output."""

    server: Server
    process: subprocess.Popen[bytes]
    log: Path
    description: str = ""

    @property
    def pid(self) -> int:
        """The process, which is its group's number too."""
        return self.process.pid

    def raise_if_dead(self) -> None:
        """Raises ServerDied where the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerDied(self.server.name, code, self.log, tail(self.log))


class Processes:
    """Starts servers and ends them, in the reverse order, on leaving the `with` block.

    `logs` is the folder of their output; `grace_s` is the time from SIGTERM to SIGKILL, unless `hurry` says that
    somebody is waiting.
    """

    def __init__(self, logs: Path, cwd: Path, grace_s: float = 10, hurry: Callable[[], bool] = lambda: False) -> None:
        self._logs = logs
        self._cwd = cwd
        self._grace_s = grace_s
        self._hurry = hurry
        self._children: list[Child] = []
        self._reaper: subprocess.Popen[str] | None = None
        self._pipe: IO[str] | None = None

    @property
    def children(self) -> tuple[Child, ...]:
        """What was started and not yet stopped, in that order."""
        return tuple(self._children)

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        # -I -S: it needs nothing but the standard library, and is there in a few milliseconds.
        command = [sys.executable, "-I", "-S", reaper.__file__, str(self._grace_s)]
        self._reaper = subprocess.Popen(  # noqa: S603 - our own script
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self._pipe = self._reaper.stdin
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._children:
                self.stop(self._children[-1:])
        finally:
            self._dismiss_reaper()

    def start(self, server: Server) -> Child:
        """Starts a server with its output in <logs>/<name>.log; does not wait for it to be ready."""
        assert self._pipe is not None, "start() outside the with block"  # noqa: S101
        log = self._logs / f"{server.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the command is the launcher's own
                [SHELL, "-c", ANNOUNCE, SHELL, *server.command],
                stdin=self._pipe,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env={**os.environ, **server.environment},
                start_new_session=True,
            )
        child = Child(server, process, log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raises ServerDied for the first server that has ended by itself."""
        for child in self._children:
            child.raise_if_dead()

    def stop(self, children: Sequence[Child]) -> None:
        """Ends these servers, at the same time, with every process of their groups."""
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + self._grace_s
        for child in children:
            while child.process.poll() is None and time.monotonic() < deadline and not self._hurry():
                time.sleep(0.02)
            # What the server itself left running goes with it.
            reaper.kill_group(child.pid)
            child.process.wait()
        for child in children:
            _wait_for_end(child.pid)
            self._tell_reaper(f"forget {child.pid}\n")
            self._children.remove(child)

    def _tell_reaper(self, line: str) -> None:
        # A reaper that somebody killed is no reason to leave servers running.
        with contextlib.suppress(OSError):
            if self._pipe is not None:
                self._pipe.write(line)
                self._pipe.flush()

    def _dismiss_reaper(self) -> None:
        if self._reaper is None or self._pipe is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.close()
        # Where stopping was cut short, by a second Ctrl-C, it ends what is left.
        self._reaper.wait()
        self._reaper = self._pipe = None


def _wait_for_end(group: int) -> None:
    # SIGKILL takes a moment. Bounded, for a process stuck in the kernel ends when it can.
    deadline = time.monotonic() + KILL_TAKES_S
    while reaper.group_members(group) and time.monotonic() < deadline:
        time.sleep(0.01)


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
