"""All workers as one gateway, with workers in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from starlette.datastructures import QueryParams

from gateway.core.errors import Cause, GatewayError
from gateway.plan import Configuration
from gateway.settings import Settings, SettingsError
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import PrometheusObserver, render
from gateway.workers.assignment import Assignment
from gateway.workers.control import Control
from gateway.workers.crew import Crew
from tests.builders import FakeClock
from tests.fakes.fake_worker import FakeWorker, Script


def configuration(name: str = "first", workers: int = 2) -> Configuration:
    return Configuration(Settings(server={"workers": workers}, endpoints={name: {"stack": "noop"}}), {})


def page(requests: int, queued: int = 0) -> bytes:
    registry = Registry()
    observer = PrometheusObserver(registry)
    for _ in range(requests):
        observer.request_finished(model="m", version=1, stack="s", protocol="predict", cause=None, seconds=0.1)
    observer.slots_changed(endpoint="e", busy=0, queued=queued)
    return render(registry)


def count_of(found: bytes, name: str) -> float:
    (line,) = [line for line in found.decode().splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return float(line.rpartition(" ")[2])


@dataclass
class World:
    """A crew, and the workers that live now."""

    crew: Crew
    workers: dict[int, FakeWorker]
    ends: dict[int, asyncio.Task[None]]

    async def start(self, number: int, script: Script) -> FakeWorker:
        """Starts a worker, as the supervisor does."""
        ours, theirs = socket.socketpair()
        with theirs:
            control = Control(*await asyncio.open_unix_connection(sock=ours), self.crew.handlers(number))
            self.crew.attach(number, control)
            worker = self.workers[number] = FakeWorker(theirs, number, script)
        self.ends[number] = asyncio.create_task(self._end(number, worker, control))
        return worker

    async def end(self, number: int) -> None:
        """Ends a worker, as by a signal."""
        self.workers[number].kill()
        await self.ends.pop(number)

    async def _end(self, number: int, worker: FakeWorker, control: Control) -> None:
        reading = asyncio.create_task(control.run())
        await worker.wait()
        self.crew.detach(number)
        await control.close()
        await reading


@asynccontextmanager
async def crew_of(*scripts: Script) -> AsyncIterator[World]:
    """A crew whose workers all take requests."""
    world = World(Crew(Assignment(0, configuration(workers=len(scripts)), 1, 2), Registry(), FakeClock()), {}, {})
    for number, script in enumerate(scripts, start=1):
        await world.start(number, script)
    async with asyncio.timeout(5):
        await world.crew.all_listening()
    try:
        yield world
    finally:
        for number in list(world.ends):
            await world.end(number)
        await world.crew.close()


async def test_no_worker_opens_before_all_are_ready_to() -> None:
    """A gateway of which a part is open would answer less than it promises."""
    hold = asyncio.Event()
    world = World(Crew(Assignment(0, configuration(), 1, 2), Registry(), FakeClock()), {}, {})
    first = await world.start(1, Script(on_settled=hold.set))
    await hold.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await first.listening.wait()
    await world.start(2, Script())
    async with asyncio.timeout(5):
        await world.crew.all_listening()
    for number in (1, 2):
        await world.end(number)


async def test_the_page_of_metrics_is_that_of_all_workers() -> None:
    """Asked at one worker or at the operator's port: what they count is added up, with the supervisor's own."""
    async with crew_of(Script(page=page(3, queued=1)), Script(page=page(4, queued=2))) as world:
        for found in (await world.crew.metrics(), await world.workers[2].metrics()):
            assert count_of(found, "gateway_request_duration_seconds_count") == 7
            assert count_of(found, "gateway_endpoint_slots_queued") == 3
            assert count_of(found, "gateway_workers") == 2
            assert count_of(found, "gateway_worker_restarts_total") == 0


async def test_what_a_worker_had_counted_stays_when_it_has_ended() -> None:
    """No counter is ever set back; what was waiting in it is gone."""
    async with crew_of(Script(page=page(3, queued=1)), Script(page=page(4, queued=2))) as world:
        await world.crew.metrics()
        await world.end(2)
        found = await world.crew.metrics()
        assert count_of(found, "gateway_request_duration_seconds_count") == 7
        assert count_of(found, "gateway_endpoint_slots_queued") == 1
        assert count_of(found, "gateway_workers") == 1
        again = await world.start(2, Script(page=page(1)))
        await again.listening.wait()
        assert count_of(await world.crew.metrics(), "gateway_request_duration_seconds_count") == 8


async def test_a_worker_that_does_not_answer_keeps_the_page_that_it_had() -> None:
    """And the others' views are told without it."""
    busy = Script(page=page(4))
    async with crew_of(Script(page=page(3)), busy) as world:
        await world.crew.metrics()
        busy.answers = False
        assert count_of(await world.crew.metrics(), "gateway_request_duration_seconds_count") == 7
        assert await world.crew.mirror() == {}


async def test_those_who_ask_at_the_same_time_get_the_same_page() -> None:
    """Many scrapers cost as much as one."""
    async with crew_of(Script(page=page(1)), Script(page=page(1))) as world:
        pages = await asyncio.gather(*(world.crew.metrics() for _ in range(20)))
        assert len(set(pages)) == 1
        assert world.workers[1].told.count("page") == 1


async def test_explain_is_asked_of_one_worker_that_answers() -> None:
    """With the worker's number, since another may be in another state; refusals come as they are."""
    async with crew_of(Script(answers=False), Script()) as world:
        assert await world.crew.explain(QueryParams("model=known")) == {"order": [], "worker": 2}
        with pytest.raises(GatewayError, match="unknown model"):
            await world.crew.explain(QueryParams("model=nope"))


async def test_a_question_that_no_worker_answers_is_an_error() -> None:
    """Not an empty answer."""
    async with crew_of(Script(answers=False), Script(answers=False)) as world:
        for asked in (world.crew.routes(), world.crew.mirror(), world.crew.explain(QueryParams("model=known"))):
            with pytest.raises(GatewayError) as found:
                await asked
            assert found.value.cause is Cause.NOT_READY


async def test_a_new_configuration_comes_into_effect_in_every_worker() -> None:
    """All get ready first."""
    async with crew_of(Script(), Script(), Script()) as world:
        changes = await world.crew.apply(configuration("second", workers=3))
        assert (changes.kept, changes.closed) == (("a",), ("b",))
        assert [worker.editions for worker in world.workers.values()] == [[0, 1]] * 3
        assert list(world.crew.configuration.settings.endpoints) == ["second"]


async def test_what_one_worker_cannot_take_comes_into_effect_in_none() -> None:
    """It says who, and why; what the others had prepared is let go."""
    async with crew_of(Script(), Script(refuses="endpoint x cannot be connected")) as world:
        with pytest.raises(SettingsError, match="worker 2: endpoint x cannot be connected"):
            await world.crew.apply(configuration("second"))
        assert [worker.editions for worker in world.workers.values()] == [[0], [0]]
        assert "discard" in world.workers[1].told
        assert list(world.crew.configuration.settings.endpoints) == ["first"]


async def test_a_worker_that_starts_during_a_reload_gets_the_new_configuration() -> None:
    """It began with the old one, and does not open with it."""
    async with crew_of(Script(), Script()) as world:
        await world.end(2)
        go_on = asyncio.Event()
        worker = await world.start(2, Script(on_settled=go_on.set))
        # Between its assignment and its opening: the reload takes its turn first.
        async with world.crew._turn:
            await go_on.wait()
            applying = asyncio.create_task(world.crew.apply(configuration("second")))
        await applying
        await worker.listening.wait()
        assert worker.editions[-1] == 1
        assert world.workers[1].editions == [0, 1]


async def test_each_worker_hears_whether_all_others_are_ready() -> None:
    """A gateway is ready where all of its workers are."""
    async with crew_of(Script(), Script()) as world:
        async with asyncio.timeout(5):
            while world.workers[1].others[-1:] != [True]:
                await asyncio.sleep(0)
        world.workers[2].tell_ready(False)
        async with asyncio.timeout(5):
            while world.workers[1].others[-1:] != [False]:
                await asyncio.sleep(0)
        assert world.workers[2].others[-1:] == [True]
        await world.end(1)
        async with asyncio.timeout(5):
            while world.workers[2].others[-1:] != [False]:
                await asyncio.sleep(0)
