"""How late the event loop runs: what every request waits for, and no request can see."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.core.clock import Clock

_EVERY_S = 0.25
# As long as a scrape interval usually is, so that a stall is seen by at least one scrape.
_REMEMBERED_S = 15.0


class LoopLag:
    """Wakes four times a second and notes how late; `run` is its one task."""

    def __init__(self, clock: Clock, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._late: deque[float] = deque([0.0], maxlen=round(_REMEMBERED_S / _EVERY_S))

    def worst(self) -> float:
        """The worst lateness of the last 15 seconds, in seconds."""
        return max(self._late)

    async def run(self) -> None:
        """Watches for ever; ends by cancellation."""
        while True:
            due = self._clock.now() + _EVERY_S
            await self._sleep(_EVERY_S)
            self._late.append(max(0.0, self._clock.now() - due))
