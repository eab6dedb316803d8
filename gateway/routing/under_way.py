"""When the last request has ended that may still use a set of endpoints."""

from __future__ import annotations

import asyncio


class UnderWay:
    """Counts the requests that were started on one set of endpoints, in one event loop."""

    __slots__ = ("_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiting: asyncio.Event | None = None

    def leave(self) -> None:
        """One of those counted has ended."""
        self.count -= 1
        if not self.count and self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    async def ended(self) -> None:
        """Returns once none is left, which is for good where no new request is counted here any more."""
        while self.count:
            self._waiting = self._waiting or asyncio.Event()
            await self._waiting.wait()
