"""Child processes of the load tests: bounded in time, their output kept, ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_KILL_GRACE_S = 3.0
_LOG_TAIL_LINES = 15


class Process(Protocol):
    """What is used of a child process: a `subprocess.Popen`, or one that a nursery has forked."""

    pid: int

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when there is one; raises subprocess.TimeoutExpired."""
        ...


@contextlib.contextmanager
def ended(process: Process) -> Iterator[None]:
    """Ends the process, which leads a group of its own, and the group with it when the block is left."""
    try:
        yield
    finally:
        # On an interrupt as well: in a group of its own, Locust does not see the terminal's Ctrl-C.
        for number, grace in ((signal.SIGTERM, _KILL_GRACE_S), (signal.SIGKILL, None)):
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)


def environment() -> dict[str, str]:
    """Ours without LOCUST_* (they would change the run) and with this package importable from anywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    paths = [str(Path(__file__).resolve().parents[1]), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONUNBUFFERED": "1"}


def tail(log: Path) -> str:
    """The last lines of a log, as an error message quotes them."""
    lines = log.read_text("utf-8", "replace").splitlines()
    return "\n".join(f"  | {line[:300]}" for line in lines[-_LOG_TAIL_LINES:]) or "  | (the log is empty)"
