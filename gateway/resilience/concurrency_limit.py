"""A bounded number of calls at once to one endpoint, and a bounded queue before it."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from gateway.core.backend import Handler
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import Observer


class ConcurrencyLimit:
    """At most `slots` calls run and `queue` wait, first come first served; the next is refused with OVERLOADED.

    One object serves all models of an endpoint. It belongs to one event loop.
    """

    def __init__(self, endpoint: str, *, slots: int, queue: int, observer: Observer) -> None:
        self._endpoint = endpoint
        self._slots = slots
        self._queue = queue
        self._observer = observer
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def busy(self) -> int:
        """Slots taken now."""
        return self._busy

    @property
    def queued(self) -> int:
        """Calls waiting for a slot now."""
        return len(self._waiting)

    def __call__(self, inner: Handler) -> Handler:
        """The middleware: waits for a slot, and gives it back however the call ends."""

        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            with context.timings.phase("queue"):
                await self._acquire()
            try:
                return await inner(request, context)
            finally:
                self._release()

        return handle

    async def _acquire(self) -> None:
        if self._busy < self._slots:
            self._busy += 1
            self._changed()
            return
        if len(self._waiting) >= self._queue:
            raise GatewayError(
                Cause.OVERLOADED,
                f"endpoint '{self._endpoint}' is busy: {self._slots} calls run and {self._queue} wait",
                retry_after_s=1.0,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._changed()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                # Whoever releases a slot may have met the cancelled turn first and dropped it.
                with suppress(ValueError):
                    self._waiting.remove(turn)
                self._changed()
            else:
                # The slot had just been handed over: pass it on, or it would leak.
                self._release()
            raise

    def _release(self) -> None:
        # A slot is handed to the next in line and stays counted; only a slot nobody waits for becomes free.
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._changed()
                return
        self._busy -= 1
        self._changed()

    def _changed(self) -> None:
        self._observer.slots_changed(endpoint=self._endpoint, busy=self._busy, queued=len(self._waiting))
