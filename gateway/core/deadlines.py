"""Many deadlines, of which hardly any is ever reached, by one timer."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Protocol


class Late(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """Its time is over."""
        ...


class Deadlines:
    """Tells each of its members of the end of its time, unless that has left before.

    The timer is set for the earliest time that was ever asked for, and set anew only when that has come: with deadlines
    that lie seconds ahead one timer does for all requests of those seconds.
    """

    __slots__ = ("_at", "_loop", "_timer", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until: dict[Late, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf

    def add(self, late: Late, at: float) -> None:
        """From now on `late` is told at this time of the loop, in seconds."""
        self._until[late] = at
        if at < self._at:
            self._set(at)

    def add_in(self, late: Late, seconds: float) -> None:
        """From so many seconds on `late` is told."""
        self.add(late, self._loop.time() + seconds)

    def remove(self, late: Late) -> None:
        """It has ended, or is not here any more."""
        self._until.pop(late, None)

    def close(self) -> None:
        """Tells nobody any more."""
        self._until.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._at = inf

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._at = None, inf
        now = self._loop.time()
        try:
            for late in [late for late, at in self._until.items() if at <= now]:
                # One that ended another may have taken it out.
                if self._until.pop(late, None) is not None:
                    late.expire()
        finally:
            # A bug of one must not cost the others their deadlines.
            if self._until:
                earliest = min(self._until.values())
                if earliest < self._at:
                    self._set(earliest)
