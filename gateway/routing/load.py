"""What is known of how busy and how fast an endpoint is for one model, from the calls that went there."""

from __future__ import annotations

import math

from gateway.core.backend import Handler
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse

# After this many seconds without news a latency has lost 1 - 1/e of its weight.
DECAY_S = 10.0


class Load:
    """Requests under way at one target, and their latency as a peak-sensitive moving average, in seconds.

    The average jumps up to any slower answer at once and comes down over `DECAY_S` (Finagle's peak EWMA), so that an
    endpoint that turns slow loses its traffic before many requests have waited for it.
    """

    __slots__ = ("_at", "_average_s", "_clock", "outstanding")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._average_s = 0.0
        self._at = clock.now()
        self.outstanding = 0

    @property
    def latency_s(self) -> float:
        """The average, decayed to now; 0 before the first answer."""
        return self._average_s * self._weight_left()

    @property
    def cost(self) -> float:
        """What one more request would wait, roughly: the latency times all that would be under way.

        An endpoint that has never answered costs nothing, so that it is tried.
        """
        return self.latency_s * (self.outstanding + 1)

    def answered(self, seconds: float) -> None:
        """One request was answered after `seconds`."""
        now = self._clock.now()
        left = math.exp((self._at - now) / DECAY_S)
        self._average_s = max(seconds, self._average_s * left + seconds * (1 - left))
        self._at = now

    def __call__(self, inner: Handler) -> Handler:
        """The middleware that counts. A failure tells no latency: a refusal is quick, and its endpoint not fast."""

        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            begin = self._clock.now()
            self.outstanding += 1
            try:
                response = await inner(request, context)
            finally:
                self.outstanding -= 1
            self.answered(self._clock.now() - begin)
            return response

        return handle

    def _weight_left(self) -> float:
        return math.exp(-(self._clock.now() - self._at) / DECAY_S)
