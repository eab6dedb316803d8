"""The laws by which the oracle servers answer: when a request that arrives now is answered, and with what.

Times are seconds on `time.monotonic`. Nothing here is shared with the generator, so that one fault cannot cancel out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Answer:
    """When a reply leaves, with which HTTP status, and whether its content is right."""

    at: float
    status: int = 200
    right: bool = True


class Law(Protocol):
    """Decides about one request after the other."""

    def answer(self, now: float) -> Answer:
        """What becomes of the request that has just arrived."""
        ...


@dataclass(slots=True)
class Fixed:
    """Any number at once, each after `delay` seconds."""

    delay: float = 0.0

    def answer(self, now: float) -> Answer:
        """See Law."""
        return Answer(now + self.delay)


@dataclass(slots=True)
class Stall:
    """Quick, but for one pause: from `begins` seconds after the first request nothing leaves for `lasts` seconds."""

    begins: float
    lasts: float
    delay: float = 0.001
    _first: float | None = None

    def answer(self, now: float) -> Answer:
        """See Law."""
        self._first = now if self._first is None else self._first
        at = now + self.delay
        resumes = self._first + self.begins + self.lasts
        return Answer(resumes if self._first + self.begins <= at < resumes else at)


@dataclass(slots=True)
class Refusal:
    """Quick, but for a time in which everything is refused with 503, as quickly."""

    begins: float
    lasts: float
    delay: float = 0.002
    _first: float | None = None

    def answer(self, now: float) -> Answer:
        """See Law."""
        self._first = now if self._first is None else self._first
        since = now - self._first - self.begins
        return Answer(now + self.delay, 503 if 0 <= since < self.lasts else 200)


@dataclass(slots=True)
class Wrong:
    """Quick; one answer of `every` is wrong."""

    every: int = 100
    delay: float = 0.001
    _count: int = 0

    def answer(self, now: float) -> Answer:
        """See Law."""
        self._count += 1
        return Answer(now + self.delay, right=self._count % self.every != 0)


@dataclass(slots=True)
class Queue:
    """One server, first come first served, at `rate` requests a second: exponential service times, or all the same."""

    rate: float
    exponential: bool = True
    seed: int = 0
    _free_at: float = 0.0
    _rng: np.random.Generator | None = None
    _drawn: list[float] = field(default_factory=list)

    def answer(self, now: float) -> Answer:
        """See Law."""
        self._free_at = max(self._free_at, now) + self._service()
        return Answer(self._free_at)

    def _service(self) -> float:
        if not self.exponential:
            return 1 / self.rate
        if self._rng is None:
            self._rng = np.random.default_rng(self.seed)
        if not self._drawn:
            self._drawn = self._rng.exponential(1 / self.rate, 4096)[::-1].tolist()
        return self._drawn.pop()


LAWS: dict[str, type[Law]] = {"fixed": Fixed, "stall": Stall, "refusal": Refusal, "wrong": Wrong, "queue": Queue}


def queue_times(arrivals: np.ndarray, law: Queue) -> np.ndarray:
    """What the law gives for these arrivals: each request's time in the system, waiting and service, in seconds."""
    own = Queue(law.rate, law.exponential, law.seed)
    # Far from the zero that an idle server begins with.
    return np.array([own.answer(1.0 + at).at - 1.0 - at for at in arrivals.tolist()])


def lindley(arrivals: np.ndarray, services: np.ndarray) -> np.ndarray:
    """Each request's time in the system of one server, first come first served, in seconds.

    Lindley's recursion without the loop: the work ahead is the sum of services so far, less the idle time.
    """
    done = np.cumsum(services)
    return done + np.maximum.accumulate(arrivals - (done - services)) - arrivals
