"""Counts what became of every request of a cell and keeps the raw latencies of the right answers."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loadtests.replies import Outcome

# A few texts per kind of failure tell what went wrong; all of them would only repeat it.
_EXAMPLES = 3
_SERVED_BY = re.compile(r'endpoint=(?P<endpoint>[^;]*); stack=(?P<stack>[^;]*); server="(?P<server>[^"]*)"')


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What a reply says of its origin; empty where it does not say."""

    endpoint: str = ""
    stack: str = ""
    server: str = ""

    @classmethod
    def of(cls, marks: dict[str, str]) -> ServedBy:
        """Reads the gateway's `x-served-by`, else the SavedModel server's own `x-server`."""
        found = _SERVED_BY.match(marks.get("x-served-by", ""))
        if found:
            return cls(**found.groupdict())
        # `name/version (stand-in)` as HTTP products are written; the gateway writes `name version (stand-in)`.
        return cls(server=marks.get("x-server", "").replace("/", " ", 1))


@dataclass(slots=True)
class Recorder:
    """One cell's figures in one process.

    Only requests sent between `open` and `close` count; one that was sent inside and ends later counts too. Times
    are `time.perf_counter` seconds.
    """

    clock: Callable[[], float] = time.perf_counter
    cpu_clock: Callable[[], float] = time.process_time
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    latencies_ms: list[float] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    servers: dict[str, int] = field(default_factory=dict)
    endpoints: dict[str, int] = field(default_factory=dict)
    _opened: float = math.inf
    _closed: float = math.inf
    _last: float = -math.inf
    _cpu: float = 0.0
    _cpu_share: float | None = None

    def open(self) -> None:
        """The warm-up is over: requests sent from now on count."""
        self._opened, self._cpu = self.clock(), self.cpu_clock()

    def close(self) -> None:
        """No request is sent any more; replies on their way are still awaited. Only the first call counts."""
        if self._closed < math.inf:
            return
        self._closed = self.clock()
        if self._closed > self._opened:
            self._cpu_share = (self.cpu_clock() - self._cpu) / (self._closed - self._opened)

    def add(
        self, sent: float, seconds: float, outcome: Outcome, detail: str = "", origin: ServedBy | None = None
    ) -> None:
        """One request that was sent at `sent` and took `seconds`; ignored outside the window.

        A failure that reaches into the window counts wherever it began: a server that hangs from the start would
        otherwise show no failure at all.
        """
        begins_inside = self._opened <= sent <= self._closed
        reaches_inside = sent < self._opened <= sent + seconds
        if not begins_inside and not (reaches_inside and outcome is not Outcome.OK):
            return
        self.outcomes[outcome] += 1
        self._last = max(self._last, sent + seconds)
        if origin and origin.server:
            self.servers[origin.server] = self.servers.get(origin.server, 0) + 1
        if origin and origin.endpoint:
            self.endpoints[origin.endpoint] = self.endpoints.get(origin.endpoint, 0) + 1
        if outcome is Outcome.OK:
            self.latencies_ms.append(seconds * 1e3)
        elif len(texts := self.examples.setdefault(outcome, [])) < _EXAMPLES and detail not in texts:
            texts.append(detail)

    def samples(self) -> dict[str, Any]:
        """The raw record: JSON types only. `window_s` ends with the last reply, so that a stall is not flattering."""
        end = max(self._closed, self._last) if self._closed < math.inf else self._last
        return {
            "window_s": max(end - self._opened, 0.0) if self._opened < math.inf else 0.0,
            "outcomes": {outcome.value: count for outcome, count in self.outcomes.items()},
            "latencies_ms": [round(value, 4) for value in self.latencies_ms],
            "examples": self.examples,
            "servers": self.servers,
            "endpoints": self.endpoints,
            "generator_cpu": self._cpu_share,
        }
