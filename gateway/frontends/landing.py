"""Where the way without coroutines meets a front end that has one: it waits only for what is not there at once."""

from __future__ import annotations

from asyncio import CancelledError, Future, get_running_loop

from gateway.core.backend import Outcome
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse
from gateway.dataplane import Flying


class Landing:
    """Hears how a request ended that was started without a coroutine, for a coroutine that may have to wait for it."""

    __slots__ = ("_future", "_outcome")

    _outcome: Outcome

    def __init__(self) -> None:
        self._future: Future[None] | None = None

    def hear(self, outcome: Outcome) -> None:
        """It ended so."""
        self._outcome = outcome
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def answer(self) -> InferenceResponse:
        """The answer to a request that has ended, asked for once; raises why there is none."""
        outcome = self._outcome
        del self._outcome
        if isinstance(outcome, InferenceResponse):
            return outcome
        if isinstance(outcome, CancelledError):
            # Not by whoever waits: then nobody would ask for the answer.
            raise GatewayError(Cause.NOT_READY, "the gateway is shutting down", retry_after_s=1.0)
        try:
            raise outcome
        finally:
            # Its traceback has this frame: what held each other would be the garbage collector's to find.
            del outcome

    async def wait(self, flying: Flying) -> InferenceResponse:
        """The same for one that is under way. Where its caller is cancelled, so is the request."""
        if not flying.ended:
            self._future = get_running_loop().create_future()
            try:
                await self._future
            except CancelledError:
                flying.end(GatewayError(Cause.CLIENT_GONE, "the client left before the answer"))
                raise
        return self.answer()
