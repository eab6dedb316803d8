"""The generator's own account of a cell: whether it did what the schedule said, and what that cost it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gevent
from hdrh.histogram import HdrHistogram

from loadtests.engine.rows import Row
from loadtests.replies import Outcome

# Microseconds; anything slower than a minute counts as one.
_LOWEST, _HIGHEST, _DIGITS = 1, 60_000_000, 3
_LATE_S = 0.001
_IN_FLIGHT_S = 0.1
_CPU_S = 1.0
# Half an hour at ten a second.
_MOST_SAMPLES = 18_000
T = TypeVar("T")


def histogram() -> HdrHistogram:
    """An empty histogram of microseconds; all of them can be merged."""
    return HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)


def microseconds(seconds: float) -> int:
    """As the histogram takes it."""
    return min(max(round(seconds * 1e6), _LOWEST), _HIGHEST)


class Thinned(list[T]):
    """A list that drops every second item where it has too many, and from then on takes only every second, fourth, ...

    What a soak samples for days stays as evenly spaced as it was, and small.
    """

    def __init__(self, most: int = _MOST_SAMPLES) -> None:
        super().__init__()
        self._most, self._every, self._seen = most, 1, 0

    def append(self, item: T) -> None:
        """Takes an item, or leaves it out."""
        if self._seen % self._every == 0:
            super().append(item)
            if len(self) > self._most:
                del self[1::2]
                self._every *= 2
        self._seen += 1


@dataclass(slots=True)
class Health:
    """What one worker did in the measured part.

    `lag` holds the dispatch lag D of everything that was sent; `response` (L) and `service` (S) hold right answers
    alone: a quick refusal must not make a server look fast.
    """

    worker: int
    lag: HdrHistogram = field(default_factory=histogram)
    response: HdrHistogram = field(default_factory=histogram)
    service: HdrHistogram = field(default_factory=histogram)
    rows: int = 0
    sent: int = 0
    late: int = 0
    dropped: int = 0
    cpu_max: float | None = None
    cpu_samples: list[float] = field(default_factory=Thinned)
    in_flight: list[tuple[float, int]] = field(default_factory=Thinned)
    clock_step_s: float = 0.0
    throttled: int | None = None
    connections: int = 0
    connections_opened: int = 0

    def add(self, row: Row) -> None:
        """Counts a measured request."""
        self.rows += 1
        if row.outcome is Outcome.DROPPED_BY_CLIENT:
            self.dropped += 1
            return
        self.sent += 1
        lag = row.t_snd - row.t_int
        self.late += lag > _LATE_S
        self.lag.record_value(microseconds(lag))
        if row.outcome is Outcome.OK:
            self.response.record_value(microseconds(row.t_end - row.t_int))
            self.service.record_value(microseconds(row.t_end - row.t_snd))

    def watch(self, t0: float, seconds: float, under_way: Callable[[], int], opened: Callable[[], int]) -> None:
        """Samples until the measured part is over; for a greenlet of its own. `t0` is on `time.perf_counter`."""
        gevent.sleep(max(0.0, t0 - time.perf_counter()))
        throttled, opened_before = _throttled(), opened()
        offset = time.time() - time.perf_counter()
        cpu, since = time.process_time(), time.perf_counter()
        while (now := time.perf_counter()) - t0 < seconds:
            self.in_flight.append((round(now - t0, 4), under_way()))
            self.clock_step_s = max(self.clock_step_s, abs(time.time() - now - offset))
            if now - since >= _CPU_S:
                used = time.process_time()
                self._used((used - cpu) / (now - since))
                cpu, since = used, now
            gevent.sleep(_IN_FLIGHT_S - (now - t0) % _IN_FLIGHT_S)
        if now - since >= _CPU_S / 2 or not self.cpu_samples:
            self._used((time.process_time() - cpu) / max(now - since, _IN_FLIGHT_S))
        self.connections, self.connections_opened = opened(), opened() - opened_before
        after = _throttled()
        self.throttled = None if throttled is None or after is None else after - throttled

    def _used(self, share: float) -> None:
        self.cpu_samples.append(round(share, 4))
        self.cpu_max = max(self.cpu_max or 0.0, round(share, 4))

    def to_json(self) -> dict[str, Any]:
        """As the health file has it: seconds, but milliseconds and microseconds where the name says so."""
        return {
            "index": self.worker,
            "cpu_max": self.cpu_max,
            "cpu_samples": self.cpu_samples,
            "throttled": self.throttled,
            "lag": {
                "p50": self.lag.get_value_at_percentile(50) / 1e6,
                "p99": self.lag.get_value_at_percentile(99) / 1e6,
                "max": self.lag.get_max_value() / 1e6 if self.sent else 0.0,
            },
            "late_share": self.late / self.sent if self.sent else 0.0,
            "dropped": self.dropped,
            "sent": self.sent,
            "connections": self.connections,
            "connections_opened_measured": self.connections_opened,
            "in_flight": self.in_flight,
            "clock_step_ms": round(self.clock_step_s * 1e3, 3),
            "hdr": {
                name: histogram.encode().decode("ascii")
                for name, histogram in (("L", self.response), ("S", self.service), ("D", self.lag))
            },
        }


def _throttled() -> int | None:
    """How often this process's cgroup (version 2) was throttled so far, None where nobody says."""
    try:
        place = Path("/proc/self/cgroup").read_text().partition("0::")[2].partition("\n")[0].lstrip("/")
        lines = (Path("/sys/fs/cgroup") / place / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"])
    except (OSError, ValueError, KeyError):
        return None
