"""The exporter of a server's processes, on processes that really run."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from serving.observability.process_exporter import ServerProcesses


def reading(processes: ServerProcesses) -> dict[str, float]:
    return {sample.name: sample.value for family in processes.collect() for sample in family.samples}


def test_what_an_ended_process_used_stays_counted() -> None:
    """A counter never goes back, whatever processes a server starts and ends."""
    # Uses processor time, then waits to be ended.
    program = "x = sum(range(3_000_000)); print(x, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        alive = [psutil.Process(child.pid)]
        exporter = ServerProcesses(lambda: alive)
        before = reading(exporter)
        child.communicate(b"\n", timeout=10)
    alive.clear()
    after = reading(exporter)
    assert before["server_cpu_seconds_total"] > 0
    assert before["server_memory_bytes"] > 0
    assert after["server_cpu_seconds_total"] == pytest.approx(before["server_cpu_seconds_total"])
    assert (after["server_memory_bytes"], after["server_processes"]) == (0, 0)


def test_our_own_process_is_left_out() -> None:
    """The exporter is in the same namespace; it is not the server."""
    assert reading(ServerProcesses(lambda: [psutil.Process()]))["server_processes"] == 0
