"""What a server process and its children use: CPU, memory, threads, context switches."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one server used in a cell. None is what nobody measured; `why` says why.

    `cpu_s` and the context switches are sums over the cell, warm-up included; `rss_peak` (bytes) is the largest sum
    over its processes that was seen, memory they share counted in each; `throttled` counts periods that a CPU quota cut
    short; `restarts` is 1 where the process was another one in the end.
    """

    name: str
    kind: Literal["process", "container", "unknown"]
    status: Literal["measured", "not measured"]
    why: str = ""
    cpu_s: float | None = None
    cpu_s_per_1k: float | None = None
    rss_peak: int | None = None
    threads: int | None = None
    ctx_voluntary: int | None = None
    ctx_involuntary: int | None = None
    throttled: int | None = None
    restarts: int | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


@dataclass(slots=True)
class _Totals:
    cpu_s: float = 0.0
    threads: int = 0
    voluntary: int = 0
    involuntary: int = 0


@dataclass(slots=True)
class ProcessMeter:
    """Watches one process and its children between `begin` and `end`; `sample` in between, for the peak."""

    name: str
    pid: int
    _began: _Totals = field(default_factory=_Totals)
    _created: float = 0.0
    _peak: int = 0
    _known: list[psutil.Process] = field(default_factory=list)

    def begin(self) -> None:
        """Takes the counters at the beginning."""
        self._began, self._peak = _Totals(), 0
        with contextlib.suppress(psutil.Error):
            self._created = psutil.Process(self.pid).create_time()
            self._began = _totals(self.pid)
            self._known = _tree(self.pid)
        self.sample()

    def sample(self) -> None:
        """Looks at the memory of the processes that were there at the beginning: to look for others takes long."""
        self._peak = max(self._peak, sum(_rss(process) for process in self._known))

    def end(self) -> Usage:
        """What was used since `begin`."""
        with contextlib.suppress(psutil.Error):
            self._known = _tree(self.pid)
        self.sample()
        try:
            same = psutil.Process(self.pid).create_time() == self._created
            ended = _totals(self.pid)
        except psutil.Error:
            return Usage(self.name, "process", "not measured", "the process has ended", restarts=1)
        if not same:
            return Usage(self.name, "process", "not measured", "another process has its number", restarts=1)
        return Usage(
            self.name,
            "process",
            "measured",
            cpu_s=round(max(ended.cpu_s - self._began.cpu_s, 0.0), 3),
            rss_peak=self._peak,
            threads=ended.threads,
            ctx_voluntary=max(ended.voluntary - self._began.voluntary, 0),
            ctx_involuntary=max(ended.involuntary - self._began.involuntary, 0),
            restarts=0,
        )


def listener(port: int) -> int | None:
    """The process that listens on a port of this machine, the oldest where several do; None where it cannot be seen."""
    try:
        found = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid
        }
    except psutil.Error:
        return None
    return min(found, default=None)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _totals(pid: int) -> _Totals:
    totals = _Totals()
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            # The last two: of children that have ended meanwhile.
            ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            totals.cpu_s += times.user + times.system + ended
            totals.threads += process.num_threads()
            voluntary, involuntary = _switches(process)
            totals.voluntary += voluntary
            totals.involuntary += involuntary
    return totals


def _switches(process: psutil.Process) -> tuple[int, int]:
    """Of all threads: what psutil reads is the first thread's alone."""
    voluntary = involuntary = 0
    tasks = list((PROC / str(process.pid) / "task").glob("*/status"))
    for status in tasks:
        with contextlib.suppress(OSError):  # a thread that has just ended
            for line in status.read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "voluntary_ctxt_switches":
                    voluntary += int(value)
                elif name == "nonvoluntary_ctxt_switches":
                    involuntary += int(value)
    if not tasks:
        switches = process.num_ctx_switches()
        return switches.voluntary, switches.involuntary
    return voluntary, involuntary


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
