"""The circuit breaker around calls: what each ending says of the server."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.resilience.circuit_breaker import BreakerLimits, BreakerState, CircuitBreaker
from gateway.resilience.gate import record
from tests.builders import FakeClock, context, request


class Silent:
    """A server that takes so many seconds and then is cancelled, or gives up by itself."""

    def __init__(self, clock: FakeClock, seconds: float, ending: BaseException) -> None:
        self.clock = clock
        self.seconds = seconds
        self.ending = ending

    async def infer(self, _request: InferenceRequest, _context: CallContext) -> InferenceResponse:
        self.clock.advance(self.seconds)
        raise self.ending


async def state_after(ending: BaseException, *, took: float, left: float) -> BreakerState:
    """The state of a breaker that the first failure opens, after a call with `left` seconds that ended so."""
    clock = FakeClock()
    breaker = CircuitBreaker(clock, BreakerLimits(consecutive=1))
    server = Silent(clock, took, ending)
    with pytest.raises(type(ending)):
        await record(breaker, clock)(server.infer)(request(), context(clock.now() + left))
    return breaker.state


@pytest.mark.parametrize("took", [0.6, 0.59])
async def test_a_call_cancelled_at_its_deadline_is_a_server_that_did_not_answer(took: float) -> None:
    """Whoever waits for it, or the client's own timer, may notice the deadline before the call itself does."""
    assert await state_after(asyncio.CancelledError(), took=took, left=0.6) is BreakerState.OPEN


async def test_a_call_that_its_client_left_says_nothing() -> None:
    """There was time left: the server might have answered."""
    assert await state_after(asyncio.CancelledError(), took=0.6, left=5.0) is BreakerState.CLOSED


@pytest.mark.parametrize("ending", [asyncio.CancelledError(), GatewayError(Cause.DEADLINE, "too late")])
async def test_a_short_deadline_is_not_the_servers_fault(ending: BaseException) -> None:
    """Less than half a second says nothing of the server."""
    assert await state_after(ending, took=0.3, left=0.3) is BreakerState.CLOSED


async def test_a_lost_call_is_the_servers_fault_however_soon() -> None:
    """Time matters only for not answering in time."""
    assert await state_after(GatewayError(Cause.UPSTREAM_LOST, "lost"), took=0.0, left=5.0) is BreakerState.OPEN
