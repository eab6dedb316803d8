"""Ends servers whose launcher is gone, even killed by SIGKILL. Run as a script, with the standard library only.

It reads lines from a pipe that only the launcher holds open: `watch <group>` and `forget <group>`. The end of the
pipe is the end of the launcher; what is still watched then gets SIGTERM, and SIGKILL after the grace period. It is a
process of its own because nothing inside the launcher runs after SIGKILL, and because asking the kernel for a signal
at the parent's death (PR_SET_PDEATHSIG) covers neither TorchServe's workers, which are grandchildren, nor servers that
were started from a thread that ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

PROC = Path("/proc")


def start_time(pid: int) -> str | None:
    """When process `pid` began, in the kernel's own count; None where none runs, or where there is no /proc."""
    fields = _stat(pid)
    # proc(5): field 3 is the state, field 22 the start. A zombie only waits for its parent to notice.
    return None if fields is None or fields[0] in "ZX" else fields[19]


def runs(pid: int) -> bool:
    """Whether process `pid` runs."""
    if PROC.joinpath("self").exists():
        return start_time(pid) is not None
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def group_members(group: int) -> list[int]:
    """The processes of a group that run; empty where there is no /proc to read them from."""
    pids = [int(entry.name) for entry in PROC.glob("[0-9]*")]
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[2]) == group and fields[0] not in "ZX"]


def not_taken_over(watched: dict[int, str | None]) -> list[int]:
    """The groups that may be signalled. A group's number is its first process's: where a process of that number began
    at another time, the group is gone, and the number belongs to somebody else.
    """
    return [group for group, began in watched.items() if start_time(group) in (None, began)]


def kill_group(group: int) -> None:
    """SIGKILL to every process of a group that is left."""
    # PermissionError: so says macOS of a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def end_groups(groups: list[int], grace_s: float) -> None:
    """SIGTERM to the first process of every group, which may end the others in order; SIGKILL to what is left."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(runs(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        kill_group(group)


def _stat(pid: int) -> list[str] | None:
    try:
        # The process's name, in parentheses, may hold anything: fields are counted from its end.
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def main(grace_s: float) -> None:
    """Follows the launcher's lines until they end, then ends what it left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A signal to the launcher's whole group, or a logout, must not take this process first.
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, str | None] = {}
    for line in sys.stdin:
        order, _, text = line.partition(" ")
        if order == "watch":
            watched[int(text)] = start_time(int(text))
        elif order == "forget":
            watched.pop(int(text), None)
    end_groups(not_taken_over(watched), grace_s)


if __name__ == "__main__":
    main(float(sys.argv[1]))
