"""The supervisor, with workers in memory: who is started when, and how all of it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.frontends.rest.http_server import bound
from gateway.plan import Configuration
from gateway.server import Addresses
from gateway.settings import Settings, SettingsError
from gateway.supervisor import Stop, SupervisorError, Workers, kept, supervise
from gateway.telemetry.histogram import Registry
from gateway.workers.assignment import Assignment
from gateway.workers.crew import Crew
from gateway.workers.respawn import Deaths
from tests.builders import FakeClock
from tests.fakes.fake_worker import FakeWorker, Script


def settings(**server: object) -> Settings:
    return Settings(
        server={"rest_port": 0, "grpc_port": 0, "admin_port": None, "workers": 2, "drain_seconds": 5, **server},
        endpoints={"none": {"stack": "noop"}},
    )


@dataclass
class Nursery:
    """Starts workers in memory, each life by the script that `script_of` gives for its number."""

    script_of: Callable[[int], Script] = lambda _: Script()
    kind: type[FakeWorker] = FakeWorker
    born: list[FakeWorker] = field(default_factory=list)

    async def spawn(self, channel: socket.socket, number: int) -> FakeWorker:
        worker = self.kind(channel, number, self.script_of(number))
        self.born.append(worker)
        return worker

    async def nth(self, place: int) -> FakeWorker:
        """A life by its place in the order of births, once it takes requests."""
        async with asyncio.timeout(5):
            while len(self.born) <= place:
                await asyncio.sleep(0)
            await self.born[place].listening.wait()
        return self.born[place]


@asynccontextmanager
async def supervised(nursery: Nursery, stop: Stop, **server: object) -> AsyncIterator[asyncio.Task[None]]:
    """A supervisor from when all workers take requests; it is told to drain at the end."""
    listening: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(supervise(settings(**server), {}, stop, listening.set_result, spawn=nursery.spawn))
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    try:
        assert task.done() or listening.done()
        yield task
    finally:
        stop.drain.set()
        await asyncio.wait({task}, timeout=5)
        assert task.done()


async def test_all_workers_are_told_to_drain_and_waited_for() -> None:
    """And then there is nothing to complain of."""
    nursery = Nursery()
    async with supervised(nursery, Stop(), workers=3) as task:
        assert sorted(worker.number for worker in nursery.born) == [1, 2, 3]
    assert task.exception() is None


async def test_a_worker_that_dies_is_started_again() -> None:
    """With its number, and so with its part."""
    nursery = Nursery()
    async with supervised(nursery, Stop()):
        dead = await nursery.nth(0)
        dead.end(-9)
        again = await nursery.nth(2)
        assert again.number == dead.number
        assert len(nursery.born) == 3


async def test_workers_that_drain_are_not_started_again() -> None:
    """Even one that dies of it."""
    nursery = Nursery()
    stop = Stop()
    async with supervised(nursery, stop) as task:
        stop.ask()
        nursery.born[0].end(-11)
    assert task.exception() is None
    assert len(nursery.born) == 2


class Stubborn(FakeWorker):
    """Does not end for SIGTERM."""

    def terminate(self) -> None:
        """Ignored."""


async def test_workers_that_do_not_drain_in_time_are_ended() -> None:
    """And the exit says so."""
    nursery = Nursery(kind=Stubborn)
    crew = Crew(Assignment(0, Configuration(settings(), {}), 1, 2), Registry(), FakeClock())
    with pytest.raises(SupervisorError, match="had not drained after 0.01 s"):
        async with kept(Workers(crew, nursery.spawn, 2), Stop(), 0.01):
            await nursery.nth(1)
    assert [await worker.wait() for worker in nursery.born] == [-9, -9]


async def test_a_second_signal_ends_at_once() -> None:
    """What is in flight is lost, and the exit says so."""
    nursery, stop = Nursery(kind=Stubborn), Stop()
    task = asyncio.create_task(supervise(settings(), {}, stop, spawn=nursery.spawn))
    await nursery.nth(0)
    await nursery.nth(1)
    stop.ask()
    await asyncio.sleep(0)
    assert not task.done()
    stop.ask()
    with pytest.raises(SupervisorError, match="ended at once"):
        await asyncio.wait_for(task, 5)
    assert [await worker.wait() for worker in nursery.born] == [-9, -9]


async def test_a_start_that_fails_ends_the_gateway_with_the_workers_reason() -> None:
    """No worker is tried again for what another start would not change."""
    nursery = Nursery(lambda number: Script(fails="cannot listen on x") if number == 2 else Script())
    with pytest.raises(SettingsError, match="cannot listen on x"):
        await asyncio.wait_for(supervise(settings(), {}, Stop(), spawn=nursery.spawn), 5)
    assert len(nursery.born) == 2


async def test_a_worker_that_dies_again_and_again_ends_the_gateway() -> None:
    """The others drain; the message says who, how and how often."""
    nursery = Nursery(lambda number: Script(dies=-6) if number == 2 else Script())
    crew = Crew(Assignment(0, Configuration(settings(), {}), 1, 2), Registry(), FakeClock())
    workers = Workers(crew, nursery.spawn, 2, lambda: Deaths((0.0, 0.0)))
    with pytest.raises(SupervisorError, match="worker 2 ended by signal 6 soon after its start, 3 times in a row"):
        await asyncio.wait_for(workers.run(), 5)
    assert [worker.number for worker in nursery.born].count(2) == 3


async def test_a_worker_that_cannot_be_started_is_one_that_died() -> None:
    """Where the system has no room for another process now, it may have later."""
    nursery = Nursery()
    full = iter([True, False, False])

    async def spawn(channel: socket.socket, number: int) -> FakeWorker:
        if next(full):
            raise OSError("no room")
        return await nursery.spawn(channel, number)

    stop = Stop()
    listening: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(supervise(settings(), {}, stop, listening.set_result, spawn=spawn))
    await asyncio.wait_for(listening, 5)
    assert sorted(worker.number for worker in nursery.born) == [1, 2]
    stop.ask()
    await asyncio.wait_for(task, 5)


async def test_a_stop_during_the_start_is_heeded() -> None:
    """Before any worker takes requests."""
    hold = asyncio.Event()
    nursery = Nursery(lambda number: Script(on_settled=hold.set) if number == 1 else Script(dies=0))
    stop = Stop()
    task = asyncio.create_task(supervise(settings(), {}, stop, spawn=nursery.spawn))
    await hold.wait()
    stop.ask()
    await asyncio.wait_for(task, 5)


async def test_a_port_of_another_is_not_shared() -> None:
    """Not even where the other would share it: half of the requests would go astray."""
    for share in (False, True):
        with bound("127.0.0.1", 0, share=share) as other:
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}; choose another server.grpc"):
                await supervise(settings(grpc_port=port), {}, Stop(), spawn=Nursery().spawn)
