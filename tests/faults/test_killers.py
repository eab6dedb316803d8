"""Servers that are killed: by a request, in the middle of a batch, again and again, and all at once."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from gateway.core.errors import Cause
from tests.fakes.script import Arrays, Hold, double
from tests.faults.clients import DOORS, OK, Door, crowd, merged, outcomes
from tests.faults.table import ALWAYS, LOST
from tests.faults.world import LONG_MS, PATIENCE_S, SLOTS, WAYS, Upstream, Way, World, running

pytestmark = pytest.mark.faults

# No other request has this number, and float32 holds it.
KILLER = 1_000_000
MAY = outcomes(ALWAYS | LOST)
CALLERS = 16
ANSWERED = "gateway_request_duration_seconds_count"
EACH = 10


def dies_of(server: Upstream, number: int) -> None:
    """From now on one request kills the server that computes it: whatever runs there gets no answer."""
    answer = double().compute

    def compute(arrays: Arrays) -> Arrays:
        if number in arrays["x"][:, 0]:
            server.dies()
        return answer(arrays)

    server.computes(compute)


def check_once(world: World) -> None:
    """No request reached a model twice, whatever became of it."""
    assert max(world.seen.values()) == 1
    assert world.clients.answered <= set(world.seen)
    assert merged(world.clients.ended).total() == world.clients.asked
    assert set(merged(world.clients.ended)) <= MAY


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_request_that_killed_a_server_is_never_sent_to_the_next(way: Way, door: Door) -> None:
    """It fails as lost; the spare server, which it would kill too, lives on and answers everybody else."""
    async with running(way) as world:
        for server in (world.sick, world.spare):
            dies_of(server, KILLER)

        async def ask(caller: int) -> None:
            await world.clients.ask("backed", DOORS[caller % 2], LONG_MS)

        others = asyncio.create_task(crowd(CALLERS, EACH, ask))
        outcome = await world.clients.ask("backed", door, LONG_MS, number=KILLER)
        await others
        assert outcome in (Cause.UPSTREAM_LOST.value, "INTERNAL")
        assert world.seen[KILLER] == 1
        check_once(world)
        assert await world.clients.ask("backed", door, LONG_MS) == OK
        await world.sick.recovers()
        await world.recovered()
        await world.settled()


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_batch_that_killed_its_server_is_sent_nowhere_again(way: Way) -> None:
    """All of its members fail, each once, also those that had nothing to do with it."""
    async with running(way) as world:
        hold = Hold()
        world.sick.fake.then(*[hold] * SLOTS)
        dies_of(world.sick, KILLER)
        asked = await world.busy("backed")
        # While every slot is taken the next ones wait, and go out together.
        numbers = [KILLER, *range(KILLER + 1, KILLER + 8)]
        batch = [asyncio.create_task(world.clients.ask("backed", "rest", LONG_MS, number=n)) for n in numbers]
        await world.queued("sick", len(batch))
        hold.release.set()
        ended = await asyncio.gather(*batch)
        await asyncio.gather(*asked)
        assert set(ended) == {Cause.UPSTREAM_LOST.value}
        assert [world.seen[number] for number in numbers] == [1] * len(numbers)
        check_once(world)
        await world.sick.recovers()
        await world.recovered()
        await world.settled()


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_dead_server_costs_few_calls_and_few_requests(way: Way) -> None:
    """Half of the requests would go to it: at most 1.2 calls a request are made, and nine in ten are answered."""
    async with running(way, policy="round_robin") as world:
        world.sick.dies()

        async def ask(caller: int) -> None:
            await world.clients.ask("backed", DOORS[caller % 2], LONG_MS)

        async with world.watching():
            await crowd(CALLERS, 2 * EACH, ask)
        ended = world.clients.ended["backed"]
        samples = await world.clients.metrics()
        assert samples.attempts(model="backed") <= 1.2 * ended.total()
        assert ended[OK] >= 0.9 * ended.total(), ended
        await world.sick.recovers()
        await world.recovered()
        await world.settled()
        check_once(world)


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_server_that_comes_and_goes_is_damped(way: Way) -> None:
    """While one flaps the other answers; nothing is asked twice, and calls stay in proportion."""
    async with running(way) as world:

        async def flap() -> None:
            for _ in range(6):
                world.sick.dies()
                await asyncio.sleep(0.2)
                await world.sick.recovers()
                await asyncio.sleep(0.2)

        async def ask(caller: int) -> None:
            await world.clients.ask(("double", "backed")[caller % 2], DOORS[caller // 2 % 2], LONG_MS)
            # Ten callers that are refused at once would be done before it flapped twice.
            await asyncio.sleep(0.05)

        async with world.watching():
            await asyncio.gather(flap(), crowd(CALLERS, 3 * EACH, ask))
        samples = await world.clients.metrics()
        for model in ("double", "backed"):
            assert samples.attempts(model=model) <= 1.2 * world.clients.ended[model].total()
        await world.recovered()
        await world.settled()
        check_once(world)


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_both_servers_may_die_and_come_back(way: Way) -> None:
    """The gateway lives and is ready for others; requests are refused at once with few calls; then all is as before."""
    async with running(way) as world:
        await both_die(world)
        for server in (world.sick, world.spare):
            await server.recovers()
        await world.recovered()
        await world.settled()
        check_once(world)


@pytest.mark.parametrize("back", ["sick", "spare"])
@pytest.mark.parametrize(
    ("way", "other"),
    [(Way("torchserve", "rest"), Way("tfserving", "grpc")), (Way("tfserving", "rest"), Way("torchserve", "grpc"))],
    ids=str,
)
async def test_both_stacks_may_die_and_come_back(way: Way, other: Way, back: str) -> None:
    """A model on both: refused at once while neither is there, answered by whichever is back first, then as before."""
    async with running(way, other, cross_stack=True) as world:
        await both_die(world)
        servers = {"sick": world.sick, "spare": world.spare}
        first = servers.pop(back)
        await first.recovers()
        async with asyncio.timeout(PATIENCE_S):
            while await world.clients.ask("backed", timeout_ms=LONG_MS) != OK:
                await asyncio.sleep(0.05)
        before = (await world.clients.metrics()).by("stack", ANSWERED, model="backed", outcome=OK)
        async with world.watching():
            await crowd(CALLERS, EACH, lambda caller: world.clients.ask("backed", DOORS[caller % 2], LONG_MS))
        after = (await world.clients.metrics()).by("stack", ANSWERED, model="backed", outcome=OK)
        assert after - before == Counter({first.way.stack: CALLERS * EACH})
        await servers.popitem()[1].recovers()
        await world.recovered()
        await world.settled()
        check_once(world)


async def both_die(world: World) -> None:
    """Kills both servers of `backed`, under callers who are refused at once, and others who notice nothing."""
    world.sick.dies()
    world.spare.dies()
    async with world.watching():
        await crowd(CALLERS, EACH, lambda caller: world.clients.ask("backed", DOORS[caller % 2], LONG_MS))
        assert [await world.clients.status(path) for path in ("/livez", "/readyz")] == [200, 200]
        assert await world.clients.ask("neighbour", "grpc", LONG_MS) == OK
    ended = world.clients.ended["backed"]
    samples = await world.clients.metrics()
    assert ended[OK] == len(DOORS)  # of the warm-up
    assert samples.attempts(model="backed") <= 1.2 * ended.total()
