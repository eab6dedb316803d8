"""What the gates refuse: open breakers and full queues, seen from the router."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.core.context import CallContext
from gateway.core.errors import Cause
from gateway.core.messages import Selection
from gateway.routing.endpoint import Target
from tests.builders import doubled, request
from tests.unit.gateway.routing.world import World, failing


async def test_what_every_target_would_refuse_is_known_before_it_is_asked() -> None:
    """Open breakers and full queues; a probe's turn, a free place, or the place of a busier caller ends it."""
    world = await World("ts", "ts2", slots=1).verified()
    assert world.router.refusal("doubler", "a") is None
    for name in ("ts", "ts2"):
        world.backends[name].answer = failing(Cause.UPSTREAM_LOST)
        for _ in range(5):
            await world.refusal(request(selection=Selection(endpoint=name)))
    refusal = world.router.refusal("doubler", "a")
    assert refusal is not None
    assert (refusal.cause, refusal.retry_after_s) == (Cause.NOT_READY, 1.0)
    assert "endpoint 'ts' failed too often for model 'doubler'" in refusal.detail
    world.clock.advance(1.0)
    assert world.router.refusal("doubler", "a") is None


async def test_a_full_queue_refuses_whoever_has_as_many_places_as_others() -> None:
    """A caller with fewer would be given the place of another, and so is not refused."""
    world = await World("ts", slots=1).verified()
    world.backends["ts"].hold = asyncio.Event()

    def asked() -> asyncio.Task[Any]:
        call = CallContext("r", "predict", 1e12, caller="busy")
        return asyncio.create_task(world.router.dispatch(request(), call))

    tasks = [asked() for _ in range(8)]
    await asyncio.sleep(0)
    assert world.router.refusal("doubler", "busy") is None
    tasks.append(asked())
    await asyncio.sleep(0)
    refusal = world.router.refusal("doubler", "busy")
    assert refusal is not None
    assert refusal.cause is Cause.OVERLOADED
    assert world.router.refusal("doubler", "other") is None
    assert world.router.refusal("unknown", "busy") is None
    world.backends["ts"].hold.set()
    await asyncio.gather(*tasks)
    assert world.router.refusal("doubler", "busy") is None


async def test_a_breaker_passes_requests_on_at_no_cost() -> None:
    """After five failures the next endpoint answers, without an attempt at the first and without the budget."""
    world = await World("ts", "ts2", retry_budget=0.0).verified()
    world.backends["ts"].answer = failing(Cause.UPSTREAM_LOST)
    for _ in range(5):
        assert await world.refusal() is Cause.UPSTREAM_LOST
    assert [await world.ask() for _ in range(20)] == ["ts2"] * 20
    assert world.sent["ts"] == 5
    world.backends["ts"].answer = doubled
    world.clock.advance(1.0)
    assert await world.ask() == "ts"
    # Both are shown as closed before anything happens.
    assert sorted(world.counts.breakers[:2]) == [("ts", "closed"), ("ts2", "closed")]
    assert world.counts.breakers[2:] == [("ts", "open"), ("ts", "half_open"), ("ts", "closed")]


async def test_a_breaker_survives_a_new_table() -> None:
    """A reload is no amnesty."""
    world = await World("ts").verified()
    world.backends["ts"].answer = failing(Cause.UPSTREAM_LOST)
    for _ in range(5):
        await world.refusal()
    world.route((Target("ts", "doubler"),), policy="pinned")
    await world.verified()
    assert await world.refusal() is Cause.NOT_READY


async def test_a_breaker_goes_with_the_last_target_and_calls_that_end_later_do_not_bring_it_back() -> None:
    """What was begun on the old route may still fail: of a breaker that is gone nothing more is told."""
    world = await World("ts").verified()
    world.backends["ts"].hold = asyncio.Event()
    world.backends["ts"].answer = failing(Cause.UPSTREAM_LOST)
    started = [asyncio.create_task(world.refusal()) for _ in range(5)]
    await asyncio.sleep(0)
    world.route((Target("tf", "doubler"),))
    assert world.counts.breakers == [("ts", "closed"), ("tf", "closed"), ("ts", "gone")]
    world.backends["ts"].hold.set()
    assert await asyncio.gather(*started) == [Cause.UPSTREAM_LOST] * 5
    world.route((Target("ts", "doubler"),))
    assert world.counts.breakers[3:] == [("ts", "closed"), ("tf", "gone")]
