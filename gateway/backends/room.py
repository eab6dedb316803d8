"""Places for a bounded number of calls, which can be taken without a coroutine."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Room:
    """So many places; whoever waits for one gets it in turn."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes a place where one is free: nobody waits then."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Takes a place once there is one."""
        if self.take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                # Who left meanwhile has passed it over, perhaps.
                with suppress(ValueError):
                    self._waiting.remove(turn)
            else:
                # It was given the place at the same moment.
                self.leave()
            raise

    def leave(self) -> None:
        """Gives a place back, to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
