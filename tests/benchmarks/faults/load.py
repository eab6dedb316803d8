"""Requests at a steady rate, whatever becomes of them, and when each was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.faults.clients import OK

Ask = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was sent and answered, by the process's own clock in seconds, and how it ended."""

    sent: float
    answered: float
    outcome: str

    @property
    def seconds(self) -> float:
        """How long its client waited."""
        return self.answered - self.sent


async def one(ask: Ask) -> Asked:
    """One request, timed."""
    sent = time.perf_counter()
    outcome = await ask()
    return Asked(sent, time.perf_counter(), outcome)


async def steady(ask: Ask, per_second: float, seconds: float) -> list[Asked]:
    """An open loop: so many requests a second are sent for so long, none waiting for another; all are waited for."""
    begin, tasks = time.perf_counter(), []
    for number in range(round(per_second * seconds)):
        await asyncio.sleep(max(0.0, begin + number / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(one(ask)))
    return list(await asyncio.gather(*tasks))


async def until(ask: Ask, found: Callable[[str], bool], every_s: float = 0.02, within_s: float = 60) -> Asked:
    """Asks again and again, one request after the other, until one ends so; raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not found((asked := await one(ask)).outcome):
            await asyncio.sleep(every_s)
    return asked


def good(asked: Sequence[Asked]) -> list[Asked]:
    """Those that were answered with a result."""
    return [item for item in asked if item.outcome == OK]


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred is above; raises ValueError where there are none."""
    if not values:
        raise ValueError("nothing of the kind happened")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
