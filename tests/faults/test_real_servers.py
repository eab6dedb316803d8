"""Real TorchServe killed under load, whole and one worker at a time, with a second stack beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from serving import servers
from serving.models import find_models
from serving.processes import Child, Processes, Server
from serving.settings import LaunchSettings, Ports
from tests.faults.clients import OK, UNANSWERED, Samples

pytestmark = [pytest.mark.faults, pytest.mark.servers]

ROOT = Path(__file__).parents[2]
STARTS_WITHIN_S = 120
# One row of simplenn's ten features.
ROW = [0.0381, 0.0507, 0.0617, 0.0219, -0.0442, -0.0348, -0.0434, -0.0026, 0.0199, -0.0176]
# What clients may be told of a server that was just killed.
EXPECTED = {OK, "upstream_lost", "upstream_unreachable", "not_ready"}
# TorchServe keeps what waits for a worker that is being started, be it beyond the request's deadline.
NO_WORKER = {"deadline"}
CALLERS = 8


@dataclass
class Fleet:
    """Both model servers and the gateway, each of which can be killed and started again."""

    processes: Processes
    all: dict[str, Server]
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Starts servers and returns once they are ready."""
        for name in names:
            self.children[name] = self.processes.start(self.all[name])
        deadline = time.monotonic() + STARTS_WITHIN_S
        for name in names:
            while lacks := self.all[name].waiting_for():
                self.children[name].raise_if_dead()
                assert time.monotonic() < deadline, f"{name} lacks {lacks}"
                time.sleep(0.1)

    def kill(self, name: str) -> None:
        """`kill -9` of a server and of all that it has started."""
        child = self.children.pop(name)
        os.killpg(child.pid, signal.SIGKILL)
        # Also takes it off the list of those to be ended.
        self.processes.stop([child])

    def workers(self) -> list[psutil.Process]:
        """TorchServe's worker processes."""
        found = psutil.Process(self.children["torchserve"].pid).children(recursive=True)
        return [process for process in found if "model_service_worker.py" in _command(process)]


def _command(process: psutil.Process) -> str:
    """A process's command line; empty for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    models = ROOT / "artifacts" / "models"
    subprocess.run([sys.executable, "-m", "models.build", "--root", str(models)], check=True, cwd=ROOT)
    artifacts = tmp_path_factory.mktemp("artifacts")
    (artifacts / "models").symlink_to(models)
    settings, ports = LaunchSettings(artifacts=artifacts, stop_grace_s=5), Ports.free()
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    built = find_models(settings.models_dir)
    stages = servers.all_servers(settings, ports, built)
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(settings.run_dir / "logs", settings.run_dir, settings.stop_grace_s))
        running = Fleet(processes, {server.name: server for stage in stages for server in stage})
        running.start("torchserve", "tfserving")
        running.start("gateway")
        yield running


@dataclass
class Callers:
    """Callers of one model on each stack, for as long as the block runs; `told` counts outcomes by stack."""

    url: str
    http: aiohttp.ClientSession
    told: dict[str, Counter[str]] = field(default_factory=lambda: {"torchserve": Counter(), "tfserving": Counter()})
    asked: int = 0
    stopped: bool = False

    async def ask(self, stack: str) -> str:
        """One request; how it ended."""
        self.asked += 1
        body: dict[str, Any] = {"model": "simplenn", "stack": stack, "inputs": {"features": [ROW]}}
        try:
            async with self.http.post(f"{self.url}/predict", json=body) as reply:
                answer = await reply.json(content_type=None)
        except aiohttp.ClientError as exc:
            return f"{UNANSWERED}: {exc!r}"
        if reply.status != 200:
            return str(answer["cause"])
        assert answer["stack"] == stack
        return OK

    async def keep_asking(self) -> None:
        """All callers, until they are stopped."""

        async def call(stack: str) -> None:
            while not self.stopped:
                self.told[stack][await self.ask(stack)] += 1
                await asyncio.sleep(0.002)

        await asyncio.gather(*(call(stack) for stack in self.told for _ in range(CALLERS)))

    async def until(self, found: Callable[[], bool]) -> None:
        """Returns once that is so; fails after a minute and a half."""
        async with asyncio.timeout(90):
            while not found():
                await asyncio.sleep(0.05)

    async def answers(self, stack: str, more: int = 50) -> None:
        """Returns once so many more requests to a stack were answered well."""
        enough = self.told[stack][OK] + more
        await self.until(lambda: self.told[stack][OK] >= enough)

    async def metrics(self) -> Samples:
        """What the gateway has counted."""
        async with self.http.get(f"{self.url}/metrics") as reply:
            return Samples(await reply.text())


async def test_a_killed_torchserve_costs_only_what_it_held_and_comes_back(fleet: Fleet) -> None:
    """`kill -9` under load: the other stack answers everything, few requests meet the loss, and once TorchServe runs
    again it is used again.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        callers = Callers(fleet.all["gateway"].url, http)
        asking = asyncio.create_task(callers.keep_asking())
        await callers.answers("torchserve")
        await asyncio.to_thread(fleet.kill, "torchserve")
        await callers.until(lambda: callers.told["torchserve"]["not_ready"] > 200)
        await callers.answers("tfserving")
        lost = callers.told["torchserve"]["upstream_lost"]
        refused = callers.told["torchserve"]["upstream_unreachable"]
        await asyncio.to_thread(fleet.start, "torchserve")
        await callers.answers("torchserve", 200)
        callers.stopped = True
        await asking
        print(f"\n{callers.told}")
        check(callers)
        # Two endpoints of TorchServe have `slots` calls each under way; breakers open at five failures in a row, and
        # what was batched fails together.
        assert lost <= 2 * CALLERS
        assert refused <= 4 * CALLERS
        await nothing_left(callers)


async def test_a_killed_worker_of_torchserve_fails_only_what_it_held(fleet: Fleet) -> None:
    """TorchServe starts another one; meanwhile requests are told the truth, and the other stack does not notice."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        callers = Callers(fleet.all["gateway"].url, http)
        asking = asyncio.create_task(callers.keep_asking())
        await callers.answers("torchserve")
        before = {process.pid for process in fleet.workers()}
        for process in fleet.workers():
            process.kill()
        await callers.until(lambda: callers.told["torchserve"].total() > callers.told["torchserve"][OK])
        await callers.until(lambda: bool({process.pid for process in fleet.workers()} - before))
        await callers.answers("torchserve", 200)
        callers.stopped = True
        await asking
        print(f"\n{callers.told}")
        check(callers, NO_WORKER)
        await nothing_left(callers)


def check(callers: Callers, more: Collection[str] = ()) -> None:
    """Every request was answered once: by the other stack always well, of TorchServe with a result or the truth."""
    assert set(callers.told["tfserving"]) == {OK}
    # A worker that is gone is "no worker" to TorchServe, which the gateway tells from a full queue.
    assert set(callers.told["torchserve"]) <= EXPECTED | set(more), callers.told
    assert sum(counts.total() for counts in callers.told.values()) == callers.asked


async def nothing_left(callers: Callers) -> None:
    """No request, no slot, no queue is left; fails after 10 s."""
    gauges = ("gateway_requests_in_flight", "gateway_endpoint_slots_busy", "gateway_endpoint_slots_queued")
    async with asyncio.timeout(10):
        samples = await callers.metrics()
        while any(samples.total(name) for name in gauges):
            await asyncio.sleep(0.05)
            samples = await callers.metrics()
