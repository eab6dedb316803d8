"""A nursery: a process that has imported what generators need, and forks one in moments.

    python -m loadtests.engine.nursery SOCKET-FD

A generator imports Locust, gevent and Arrow for most of a second before it can send, and a campaign has dozens of
cells. The nursery imports them once, before the first cell, and sleeps while a cell is measured. It runs no cell
itself: each one still has processes of its own, in which nothing of another cell is left.

Each message over the socket is a request, JSON with file descriptors beside it: which module's `main` is run with which
arguments; the answer is the process number. The first descriptor takes the exit code, the second is the output, the
others get the numbers that the arguments name. A child that was killed leaves no exit code, only the end of the pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NoReturn

from loadtests.errors import LoadTestError
from loadtests.processes import ended, environment

_MODULES = ("loadtests.engine.worker", "loadtests.engine.recorder")
_MESSAGE_BYTES = 1 << 16
_MOST_FDS = 200
# Of importing, on a busy machine.
_START_S = 120.0
_KILLED = -signal.SIGKILL


@dataclass(slots=True, eq=False)
class Child:
    """A forked process, with what is used here of `subprocess.Popen`. `_code` is the pipe of its exit code."""

    pid: int
    _code: IO[bytes]
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when there is one; raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._code], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = int(self._code.read() or _KILLED)
            self._code.close()
        return self.returncode


class Nursery:
    """The near end: asks the nursery for processes. `log` is what it printed itself."""

    def __init__(self, pid: int, control: socket.socket, log: IO[bytes]) -> None:
        self.pid, self._control, self._log = pid, control, log

    def start(self, module: str, arguments: Sequence[str], fds: Sequence[int], output: IO[bytes]) -> Child:
        """Forks a process that runs the module's `main`, in which `fds` have the numbers that they have here.

        Raises LoadTestError where the nursery is gone.
        """
        request = json.dumps({"module": module, "arguments": list(arguments), "fds": list(fds)}).encode()
        readable, writable = os.pipe()
        with open(readable, "rb") as code, open(writable, "wb") as told:
            try:
                socket.send_fds(self._control, [request], [told.fileno(), output.fileno(), *fds])
                answer = self._control.recv(_MESSAGE_BYTES)
            except OSError as exc:
                raise LoadTestError(f"no generator can be started: {exc}{self.last_words()}") from exc
            if not answer:
                raise LoadTestError(f"no generator can be started: the nursery has ended{self.last_words()}")
            return Child(int(json.loads(answer)["pid"]), open(os.dup(code.fileno()), "rb"))

    def last_words(self) -> str:
        """The last line that the nursery printed, for an error message; empty where there is none."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f"\n  | {lines[-1][:300]}" if lines else ""


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery that has imported everything; it ends with the block, and where this process does."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as opened:
        opened.enter_context(near)
        log = opened.enter_context(tempfile.TemporaryFile())
        with far:
            process = subprocess.Popen(  # noqa: S603  # our own interpreter and module, no shell
                [sys.executable, "-m", "loadtests.engine.nursery", str(far.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[far.fileno()],
                env=environment() | {"LOCUST_SKIP_MONKEY_PATCH": "1"},
                start_new_session=True,
            )
        opened.enter_context(ended(process))
        found = Nursery(process.pid, near, log)
        near.settimeout(_START_S)
        try:
            greeting = near.recv(_MESSAGE_BYTES)
        except OSError as exc:
            raise LoadTestError(f"the generators could not be loaded: {exc}{found.last_words()}") from exc
        if not greeting:
            raise LoadTestError(f"the generators could not be loaded{found.last_words()}")
        yield found


def _serve(control: socket.socket) -> None:
    """Forks what is asked for until the other end is gone."""
    # Nobody here waits for them; who asked reads their exit codes from the pipes.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.send(b"{}")
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _MOST_FDS)
        if not message:
            return
        pid = os.fork()
        # A group of its own, so that it can be ended with all that it starts; whoever comes first, before it is told.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        if pid == 0:
            control.close()
            _become(message, fds)
        for fd in fds:
            os.close(fd)
        control.send(json.dumps({"pid": pid}).encode())


def _become(message: bytes, fds: Sequence[int]) -> NoReturn:
    """The child: runs what was asked for and is gone, whatever happens.

    It never ends as an interpreter does: libraries would wait for threads that only the nursery has.
    """
    code, told = 1, fds[0]
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(message)
        # First out of the way of the numbers that they are to have.
        least = max([*fds, *request["fds"]]) + 1
        told, output, *others = (fcntl.fcntl(fd, fcntl.F_DUPFD, least) for fd in fds)
        for fd in fds:
            os.close(fd)
        for wanted, fd in ((1, output), (2, output), *zip(request["fds"], others, strict=True)):
            os.dup2(fd, wanted)
        for fd in (output, *others):
            os.close(fd)
        code = importlib.import_module(request["module"]).main(request["arguments"])
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
    try:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        # An error where nobody reads it any more: who asked was killed.
        os.write(told, str(code).encode())
    finally:
        os._exit(code)


def main(arguments: Sequence[str]) -> int:
    """Imports, then serves; returns the exit code."""
    for module in _MODULES:
        importlib.import_module(module)
    # What is there now stays as it is in every child, so that none has to copy it.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(arguments[0])) as control:
        _serve(control)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
