"""How a coroutine hears of a request that was started without one."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.backend import Outcome
from gateway.core.deadlines import Deadlines
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse
from gateway.dataplane import Flying
from gateway.frontends.landing import Landing

RESPONSE = InferenceResponse("m", 1, ())
LOST = GatewayError(Cause.UPSTREAM_LOST, "as told")


def flying_to(landing: Landing) -> Flying:
    return Flying(Deadlines(), landing.hear, 30.0)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("outcome", [RESPONSE, LOST])
async def test_it_hears_how_a_request_ended(outcome: Outcome, late: bool) -> None:
    """Before it waits, or while it does."""
    landing = Landing()
    flying = flying_to(landing)
    if not late:
        flying.landed(outcome)
    waiting = asyncio.ensure_future(landing.wait(flying))
    await asyncio.sleep(0)
    assert waiting.done() is not late
    if late:
        flying.landed(outcome)
    if isinstance(outcome, InferenceResponse):
        assert await waiting is outcome
    else:
        with pytest.raises(GatewayError, match="as told"):
            await waiting


async def test_who_gives_up_ends_the_request() -> None:
    """Once, and what comes of it is heard by nobody."""
    landing = Landing()
    heard: list[Outcome] = []
    flying = Flying(Deadlines(), lambda outcome: (heard.append(outcome), landing.hear(outcome))[0], 30.0)
    flying._cancel = lambda: flying.landed(asyncio.CancelledError())
    waiting = asyncio.ensure_future(landing.wait(flying))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (outcome,) = heard
    assert isinstance(outcome, GatewayError)
    assert outcome.cause is Cause.CLIENT_GONE
    assert flying.ended


async def test_a_request_that_somebody_else_cancelled_has_an_error() -> None:
    """Or whoever waits would seem cancelled, who has to answer."""
    landing = Landing()
    flying_to(landing).landed(asyncio.CancelledError())
    with pytest.raises(GatewayError) as raised:
        landing.answer()
    assert raised.value.cause is Cause.NOT_READY
