"""Who is told of the end of its time, and when."""

from __future__ import annotations

import asyncio

from gateway.core.deadlines import Deadlines


class Waiting:
    """Keeps that its time is over, and may end another then."""

    def __init__(self, deadlines: Deadlines, other: Waiting | None = None) -> None:
        self.expired = asyncio.Event()
        self._deadlines = deadlines
        self._other = other

    def expire(self) -> None:
        """Says so."""
        self.expired.set()
        if self._other is not None:
            self._deadlines.remove(self._other)


async def test_each_is_told_at_its_own_time() -> None:
    """Though the timer was set for another, later or earlier."""
    deadlines, now = Deadlines(), asyncio.get_running_loop().time()
    far, near, next_ = (Waiting(deadlines) for _ in range(3))
    deadlines.add(far, now + 3600.0)
    deadlines.add(near, now + 0.01)
    deadlines.add(next_, now + 0.02)
    await asyncio.wait_for(next_.expired.wait(), 5.0)
    assert near.expired.is_set()
    assert not far.expired.is_set()
    deadlines.close()


async def test_who_has_left_is_not_told() -> None:
    """Be it before, or by one that was told at the same time; who leaves twice does no harm."""
    deadlines, now = Deadlines(), asyncio.get_running_loop().time()
    other, left = Waiting(deadlines), Waiting(deadlines)
    first = Waiting(deadlines, other)
    for late in (first, other, left):
        deadlines.add(late, now - 1.0)
    deadlines.remove(left)
    deadlines.remove(left)
    await asyncio.wait_for(first.expired.wait(), 5.0)
    await asyncio.sleep(0)
    assert not other.expired.is_set()
    assert not left.expired.is_set()


async def test_a_bug_of_one_costs_the_others_nothing() -> None:
    """The timer is set for whoever is left."""

    class Broken:
        def expire(self) -> None:
            raise ValueError("as a bug would")

    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    deadlines, now = Deadlines(), loop.time()
    other = Waiting(deadlines)
    deadlines.add(Broken(), now - 1.0)
    deadlines.add(other, now - 1.0)
    await asyncio.wait_for(other.expired.wait(), 5.0)
    assert [type(each) for each in told] == [ValueError]
