"""Places for calls, taken in turn."""

from __future__ import annotations

import asyncio

import pytest

from gateway.backends.room import Room


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_place_given_back_goes_to_whoever_has_waited_longest() -> None:
    """And to nobody who comes meanwhile."""
    room = Room(1)
    assert room.take()
    first, second = (asyncio.create_task(room.wait()) for _ in range(2))
    await settled()
    room.leave()
    assert not room.take()
    await first
    assert not second.done()
    room.leave()
    await second
    room.leave()
    assert room.take()


async def test_who_stops_waiting_costs_no_place() -> None:
    """Also where the place was given at the same moment."""
    room = Room(1)
    await room.wait()
    waiting, late = (asyncio.create_task(room.wait()) for _ in range(2))
    await settled()
    waiting.cancel()
    await settled()
    room.leave()
    late.cancel()
    for task in (waiting, late):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert room.take()
    assert not room.take()


async def test_who_stops_waiting_may_have_been_passed_over() -> None:
    """Where a place was given back before it heard of its own end."""
    room = Room(1)
    assert room.take()
    waiting = asyncio.create_task(room.wait())
    await settled()
    waiting.cancel()
    room.leave()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.take()
