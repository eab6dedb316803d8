"""Deadlines end requests, and only theirs."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.resilience.deadline import deadline
from tests.builders import FakeBackend, FakeClock, context, doubled, request


async def test_a_passed_deadline_sends_nothing() -> None:
    """Nothing goes upstream once the deadline is over."""
    clock, backend = FakeClock(), FakeBackend()
    with pytest.raises(GatewayError) as caught:
        await deadline(clock)(backend.infer)(request(), context(deadline=clock.now()))
    assert caught.value.cause is Cause.DEADLINE
    assert backend.requests == []


async def test_a_slow_answer_ends_at_the_deadline() -> None:
    """An answer that never comes is cut off, and the call upstream is cancelled."""
    clock, backend = SystemClock(), FakeBackend(hold=asyncio.Event())
    with pytest.raises(GatewayError) as caught:
        await deadline(clock)(backend.infer)(request(), context(deadline=clock.now() + 0.01))
    assert caught.value.cause is Cause.DEADLINE


async def test_an_answer_in_time_is_the_answer() -> None:
    """Nothing is added to an answer in time."""
    response = await deadline(SystemClock())(FakeBackend().infer)(request(), context())
    assert response.outputs[0].array.tolist() == doubled(request()).outputs[0].array.tolist()


async def test_a_timeout_of_another_is_not_taken_for_the_deadline() -> None:
    """Only the request's own deadline becomes DEADLINE."""

    async def times_out(_: InferenceRequest, __: CallContext) -> InferenceResponse:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await deadline(SystemClock())(times_out)(request(), context())


async def test_a_cancel_of_another_at_the_deadline_goes_on() -> None:
    """Whoever cancelled waits for the task to end so."""
    waiting = asyncio.Event()

    async def forever(_: InferenceRequest, __: CallContext) -> InferenceResponse:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            task.cancel()
        raise AssertionError

    clock = FakeClock()
    handler = deadline(clock)(forever)
    task = asyncio.create_task(handler(request(), context(clock.now() + 0.01)))  # type: ignore[arg-type]
    await waiting.wait()
    with pytest.raises(asyncio.CancelledError):
        await task
