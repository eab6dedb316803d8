"""A gateway of two workers as processes of their own, on the null backend, and clients that count their answers."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.builders import contract

BODY = {"inputs": [[1, 2]]}


@dataclass
class World:
    """The processes, what they have logged, and where they listen."""

    folder: Path
    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession
    log: list[dict[str, Any]] = field(default_factory=list)
    unlogged: list[str] = field(default_factory=list)
    """Lines of standard error that are no log."""
    url: str = ""
    grpc: str = ""
    admin: str = ""

    def write(self, **model: Any) -> None:
        """Replaces the file; `model` adds to the model's settings."""
        (self.folder / "contract.json").write_text(contract().to_json())
        document = {
            "server": {"rest_port": 0, "grpc_port": 0, "admin_port": 0, "workers": 2, "drain_seconds": 5},
            "endpoints": {"one": {"stack": "noop", "slots": 64}, "two": {"stack": "noop", "slots": 64}},
            "models": {"doubler": {"contract": "contract.json", "targets": [{"endpoint": "one"}], **model}},
        }
        part = self.folder / "part"
        part.write_text(yaml.safe_dump(document))
        part.replace(self.folder / "gateway.yaml")

    async def predict(self) -> tuple[int, str]:
        """One request on a connection of its own: the status, and which endpoint answered."""
        async with self.http.post(f"{self.url}/predict/doubler", json=BODY, headers={"connection": "close"}) as reply:
            found = re.search(r"endpoint=(\w+)", reply.headers.get("x-served-by", ""))
            return reply.status, "" if found is None else found[1]

    async def ask(self, path: str, method: str = "GET", *, admin: bool = True) -> Any:
        """The answer of the operator's port, or of the REST port."""
        async with self.http.request(method, (self.admin if admin else self.url) + path) as reply:
            return await reply.json(content_type=None) if "json" in reply.content_type else await reply.text()

    def said(self, message: str) -> list[dict[str, Any]]:
        """The lines whose message begins so."""
        return [line for line in self.log if line["message"].startswith(message)]

    def answered(self) -> Counter[int]:
        """How many requests each worker has logged."""
        return Counter(line["worker"] for line in self.said("request"))

    async def until(self, found: Callable[[], bool]) -> None:
        """Returns once something is so; fails after a minute."""
        async with asyncio.timeout(60):
            while not found():
                await asyncio.sleep(0.02)

    def pids(self) -> dict[int, int]:
        """The workers' processes by number, as they said themselves."""
        started = self.said("Started server process")
        return {line["worker"]: int(line["message"].rpartition("[")[2][:-1]) for line in started if "worker" in line}


@dataclass
class Load:
    """Clients that ask again and again until `stop`, each on one connection at a time."""

    world: World
    outcomes: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    async def client(self) -> None:
        while not self.stopped:
            try:
                async with self.world.http.post(f"{self.world.url}/predict/doubler", json=BODY) as reply:
                    await reply.read()
                    self.outcomes[str(reply.status)] += 1
            except aiohttp.ClientError:
                self.outcomes["broken"] += 1
                if self.world.process.returncode is not None:
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def loaded(world: World, clients: int) -> AsyncIterator[Load]:
    """A load, from when it has some answers."""
    load = Load(world)
    tasks = [asyncio.create_task(load.client()) for _ in range(clients)]
    try:
        await world.until(lambda: load.outcomes["200"] > 10 * clients)
        yield load
    finally:
        load.stopped = True
        await asyncio.gather(*tasks)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    """Both workers, from when they take requests to their end."""
    file = folder / "gateway.yaml"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        world = World(folder, None, http)  # type: ignore[arg-type]
        world.write()
        world.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "--config", str(file)), stderr=asyncio.subprocess.PIPE, limit=1 << 20
        )
        reading = asyncio.create_task(_read(world))
        try:
            await world.until(lambda: bool(world.said("the operator's port")))
            (addresses,), (admin,) = world.said("listening on"), world.said("the operator's port")
            world.url, world.grpc = re.findall(r"(http://\S+) and grpc://(\S+)", addresses["message"])[0]
            world.admin = admin["message"].rpartition(" ")[2]
            yield world
        finally:
            if world.process.returncode is None:
                world.process.terminate()
            await asyncio.wait_for(world.process.wait(), 60)
            # The workers have it open too: its end is theirs.
            await asyncio.wait_for(reading, 60)


async def _read(world: World) -> None:
    assert world.process.stderr is not None
    async for line in world.process.stderr:
        try:
            world.log.append(json.loads(line))
        except ValueError:
            world.unlogged.append(line.decode())
