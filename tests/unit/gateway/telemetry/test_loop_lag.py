"""How late the event loop runs, on a clock that the test turns."""

from __future__ import annotations

import asyncio

from gateway.telemetry.loop_lag import LoopLag
from tests.builders import FakeClock


async def test_the_worst_lateness_is_told_and_forgotten_after_a_while() -> None:
    """A stall of half a second is seen for 15 seconds."""
    clock = FakeClock()
    stalls = iter([0.0, 0.5, *[0.0] * 60])
    told: list[float] = []

    async def sleep(seconds: float) -> None:
        stall = next(stalls, None)
        if stall is None:
            raise asyncio.CancelledError
        clock.advance(seconds + stall)
        told.append(round(lag.worst(), 9))

    lag = LoopLag(clock, sleep)
    await asyncio.gather(lag.run(), return_exceptions=True)
    # What a wake-up found is told from the next one on.
    assert told[:3] == [0.0, 0.0, 0.5]
    assert told[3:61] == [0.5] * 58
    assert lag.worst() == 0.0
