"""Several workers under load: killed one after the other, told to drain again and again, and one that cannot live."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.component.workers_world import World, loaded, running

pytestmark = pytest.mark.faults

CLIENTS = 32
DRAINS = 10
KILLS = 6
RELOADS = 30


def second_workers(world: World) -> set[int]:
    """The processes of worker 2, as soon as there is one."""
    with suppress(psutil.NoSuchProcess):
        return {
            child.pid
            for child in psutil.Process(world.process.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE and child.cmdline()[-1:] == ["2"]
        }
    return set()


async def test_a_drain_under_load_loses_no_request_that_was_taken(tmp_path: Path) -> None:
    """Again and again: every request that a worker has logged was answered at its client, and the status is 0."""
    lost = []
    for number in range(DRAINS):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with running(folder) as world:
            async with loaded(world, CLIENTS) as load:
                world.process.terminate()
                assert await world.process.wait() == 0
            assert set(load.outcomes) <= {"200", "broken"}
        assert world.unlogged == []
        lost.append(sum(world.answered().values()) - load.outcomes["200"])
    assert lost == [0] * DRAINS


async def test_workers_that_are_killed_in_turn_cost_their_clients_one_request_each(tmp_path: Path) -> None:
    """The gateway goes on all the while, and each comes back."""
    async with running(tmp_path) as world:
        for number in range(KILLS):
            worker = 1 + number % 2
            begun = len(world.said(f"worker {worker} takes requests"))
            async with loaded(world, CLIENTS) as load:
                os.kill(world.pids()[worker], signal.SIGKILL)
                await world.until(lambda: len(world.said(f"worker {worker} takes requests")) > begun)  # noqa: B023
            assert set(load.outcomes) <= {"200", "broken"}
            assert load.outcomes["broken"] <= CLIENTS
        assert f"\ngateway_worker_restarts_total {KILLS}.0\n" in await world.ask("/metrics")


async def test_reloads_under_load_lose_no_request(tmp_path: Path) -> None:
    """Whichever worker a request is at, and whichever route is in effect there."""
    async with running(tmp_path) as world:
        async with loaded(world, CLIENTS) as load:
            for number in range(RELOADS):
                world.write(targets=[{"endpoint": ("one", "two")[number % 2]}])
                assert (await world.ask("/reload", "POST"))["last"]["outcome"] == "ok"
        assert set(load.outcomes) == {"200"}
        routes = await world.ask("/routes")
        assert [target["endpoint"] for target in routes["routes"]["doubler"]["targets"]] == ["two"]


async def test_a_worker_that_dies_again_and_again_ends_the_gateway(tmp_path: Path) -> None:
    """The other one drains, and the last line says which it was."""
    async with running(tmp_path) as world, loaded(world, CLIENTS) as load:
        killed: set[int] = set()
        async with asyncio.timeout(120):
            while world.process.returncode is None:
                for pid in second_workers(world) - killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(0.02)
        assert world.process.returncode == 1
        assert len(killed) == 6
    assert load.outcomes["broken"] > 0
    assert [line for line in world.unlogged if "worker 2 ended by signal 9 soon after its start, 6 times" in line]
