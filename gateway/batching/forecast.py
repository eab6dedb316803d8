"""How long a call takes at the very least, judged by the last ones."""

from __future__ import annotations

from collections import deque

from gateway.core.clock import Clock

_REMEMBERED = 16
_FRESH_S = 5.0


class Forecast:
    """The shortest of the last calls. Of a time with less than that left, nothing can come.

    Deliberately an underestimate, and none at all once the last call is some seconds old: a request refused for a
    wrong guess would never correct it.
    """

    __slots__ = ("_clock", "_fresh_until", "_least", "_seconds")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._least = 0.0
        self._fresh_until = 0.0

    def took(self, seconds: float) -> None:
        """Remembers a call that was answered."""
        self._seconds.append(seconds)
        # Asked for every request, and told once a call.
        self._least = min(self._seconds)
        self._fresh_until = self._clock.now() + _FRESH_S

    def at_least(self, now: float) -> float:
        """Seconds that the next call needs, at this time of the clock; 0 where nothing fresh is known."""
        return self._least if now <= self._fresh_until else 0.0
