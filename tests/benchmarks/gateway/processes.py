"""What a server's processes have used: processor time and memory, from /proc."""

from __future__ import annotations

import psutil


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads, and its children."""
    total = 0.0
    for process in _tree(pid):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its children, in megabytes."""
    return sum(process.memory_info().rss for process in _tree(pid)) / 1e6


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def children_cpu_seconds() -> float:
    """User and system time of the processes that this one started and that have ended, such as the load tool."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)
