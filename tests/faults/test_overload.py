"""More is asked than can be answered, later than it can be answered, or by clients who do not wait."""

from __future__ import annotations

import asyncio
from itertools import cycle

import pytest

from gateway.core.errors import Cause
from tests.fakes.relay import Delay
from tests.fakes.script import Paced
from tests.faults.clients import DOORS, OK, outcomes
from tests.faults.seeds import seeded
from tests.faults.world import LONG_MS, QUEUE, SLOTS, WAYS, Way, running

pytestmark = pytest.mark.faults

STEPS = 10
SHORT_MS = 150
REFUSED = outcomes(frozenset({Cause.OVERLOADED})) - {OK}


@pytest.mark.parametrize("factor", [2, 10])
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_of_an_overload_as_much_is_answered_as_the_server_can_do(way: Way, factor: int) -> None:
    """The server does `SLOTS` requests a step, and so many times more come: none of its work is lost, the queue never
    grows beyond its limit, and everything else is refused at once.
    """
    async with running(way, batching=False) as world:
        paced = Paced()
        world.sick.fake.otherwise = paced
        before = (await world.clients.metrics()).ended("double").total()
        doors = cycle(DOORS)
        tasks: list[asyncio.Task[str]] = []
        async with world.watching():
            for step in range(1, STEPS + 1):
                for _ in range(factor * SLOTS):
                    tasks.append(asyncio.create_task(world.clients.ask("double", next(doors), LONG_MS)))
                await world.until(
                    lambda samples: (
                        samples.total("gateway_requests_in_flight") + samples.ended("double").total()
                        >= before + len(tasks)
                    )
                )
                for _ in range(SLOTS):
                    paced.turns.release()
                await world.until(lambda samples, step=step: samples.ended("double")[OK] >= before + step * SLOTS)
            waiting = (await world.clients.metrics()).total("gateway_requests_in_flight")
            for _ in range(waiting):
                paced.turns.release()
            ended = await asyncio.gather(*tasks)
        assert waiting <= SLOTS + QUEUE
        assert world.most["in_flight"] <= SLOTS + QUEUE
        assert ended.count(OK) == STEPS * SLOTS + waiting
        assert set(ended) <= {OK} | REFUSED
        assert {ended.count(OK) + sum(ended.count(outcome) for outcome in REFUSED)} == {len(tasks)}
        assert max(world.seen.values()) == 1
        await world.sick.recovers()
        await world.settled()


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_nothing_is_sent_once_its_deadline_has_passed(way: Way) -> None:
    """Those who waited for a slot too long are told so, and their requests never reach the server."""
    async with running(way) as world:
        paced = Paced()
        world.sick.fake.otherwise = paced
        busy = await world.busy("double")
        first = 1_000_000
        late = [
            asyncio.create_task(world.clients.ask("double", DOORS[number % 2], SHORT_MS, number=first + number))
            for number in range(QUEUE // 2)
        ]
        ended = await asyncio.gather(*late)
        assert set(ended) == {Cause.DEADLINE.value, "DEADLINE_EXCEEDED"}
        for _ in range(SLOTS + 1):
            paced.turns.release()
        assert await asyncio.gather(*busy) == [OK] * SLOTS
        assert await world.clients.ask("double", "grpc", LONG_MS) == OK
        await world.sick.recovers()
        await world.recovered()
        await world.settled()
        assert max(world.seen) < first
        assert max(world.seen.values()) == 1


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_clients_who_leave_in_droves_cost_the_others_nothing(way: Way) -> None:
    """Every other client goes away at some moment of its request: those who stay are answered, and nothing is left."""
    async with running(way) as world:
        random = seeded(f"leaving {way}")
        world.sick.falls_under(Delay(0.01))
        stayed: list[str] = []

        async def visit(caller: int) -> None:
            for turn in range(12):
                asked = asyncio.create_task(world.clients.ask("double", DOORS[caller % 2], LONG_MS))
                if (caller // 2 + turn) % 2:
                    stayed.append(await asked)
                    continue
                # Whenever it is: while it is sent, waits, is at the server, or has just been answered.
                await asyncio.sleep(random.random() * 0.05)
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

        async with world.watching():
            await asyncio.gather(*(visit(caller) for caller in range(24)))
        assert set(stayed) == {OK}
        assert len(stayed) == 24 * 6
        await world.settled()
        samples = await world.clients.metrics()
        assert samples.ended("double").total() <= world.clients.asked
        assert set(samples.ended("double")) <= {OK, Cause.CLIENT_GONE.value}
        # The end of the fault ends connections, and with them what somebody left who is not seen to have left yet.
        await world.sick.recovers()
        await world.recovered()
        await world.settled()
        assert max(world.seen.values()) == 1


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_server_that_never_answers_clients_who_give_up_first_is_left_alone(way: Way) -> None:
    """A client's own deadline passes at the client before it does at the gateway: the breaker counts that call too."""
    async with running(way) as world:
        world.sick.falls_under(Delay(60))
        for _ in range(8):
            await world.clients.ask("double", "grpc", 600)
        samples = await world.clients.metrics()
        assert samples.attempts(model="double", outcome="deadline") <= 6
        assert samples.ended("double")[Cause.NOT_READY.value] >= 2
        await world.sick.recovers()
        await world.recovered()
        await world.settled()
