"""Slots and queue: bounded, fair, and never leaking."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.core.observer import NullObserver
from gateway.resilience.concurrency_limit import ConcurrencyLimit
from tests.builders import FakeBackend, context, request


def limit(slots: int = 1, queue: int = 1) -> ConcurrencyLimit:
    return ConcurrencyLimit("ts", slots=slots, queue=queue, observer=NullObserver())


async def settle() -> None:
    """Lets every task run until it waits for something that has not happened."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_call_after_the_last_place_in_the_queue_is_refused() -> None:
    """One runs, one waits, the third is refused at once, and the first two are answered."""
    bound, backend = limit(), FakeBackend(hold=asyncio.Event())
    handler = bound(backend.infer)
    first, second = (asyncio.create_task(handler(request(), context())) for _ in range(2))
    await settle()
    assert (bound.busy, bound.queued) == (1, 1)
    with pytest.raises(GatewayError, match="endpoint 'ts' is busy: 1 calls run and 1 wait") as caught:
        await handler(request(), context())
    assert caught.value.cause is Cause.OVERLOADED
    backend.hold.set()
    await asyncio.gather(first, second)
    assert (bound.busy, bound.queued) == (0, 0)


async def test_waiting_calls_go_in_order() -> None:
    """First come, first served."""
    bound, backend = limit(queue=3), FakeBackend(hold=asyncio.Event())
    handler = bound(backend.infer)
    tasks = [asyncio.create_task(handler(request(id=str(n)), context())) for n in range(4)]
    await settle()
    backend.hold.set()
    await asyncio.gather(*tasks)
    assert [sent.id for sent in backend.requests] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_cancelled_call_gives_its_place_back(victim: int) -> None:
    """Whether it ran or waited, its slot or place goes to the others."""
    bound, backend = limit(queue=2), FakeBackend(hold=asyncio.Event())
    handler = bound(backend.infer)
    tasks = [asyncio.create_task(handler(request(id=str(n)), context())) for n in range(3)]
    await settle()
    tasks[victim].cancel()
    await settle()
    backend.hold.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [n == victim for n in range(3)]
    assert (bound.busy, bound.queued) == (0, 0)


async def test_a_call_cancelled_as_its_turn_comes_passes_the_slot_on() -> None:
    """The slot handed to a call that is cancelled in the same instant reaches the next in line."""
    bound, backend = limit(queue=2), FakeBackend(hold=asyncio.Event())
    handler = bound(backend.infer)
    running, turn, last = (asyncio.create_task(handler(request(id=name), context())) for name in "abc")
    await settle()
    backend.hold.set()
    await asyncio.wait({running})
    turn.cancel()
    await asyncio.gather(turn, last, return_exceptions=True)
    assert not last.cancelled()
    assert (bound.busy, bound.queued) == (0, 0)


async def test_a_failed_call_gives_its_slot_back() -> None:
    """An error frees the slot as an answer does."""
    bound = limit()
    handler = bound(FakeBackend(reachable=False).infer)
    for _ in range(3):
        with pytest.raises(GatewayError):
            await handler(request(), context())
    assert bound.busy == 0


async def test_waiting_is_counted_as_queue_time() -> None:
    """The time in the queue appears under its phase."""
    call = context()
    await limit()(FakeBackend().infer)(request(), call)
    assert "queue" in call.timings.seconds
