"""A gateway in a process of its own, in front of scripted model servers of the test's."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from serving.settings import Ports
from tests.builders import contract
from tests.fakes.script import double
from tests.faults.clients import Clients, clients_of
from tests.faults.world import Upstream, Way

ROOT = Path(__file__).parents[2]
STARTS_WITHIN_S = 60


@dataclass
class GatewayProcess:
    """A running gateway, its configuration file, and clients of its doors."""

    process: asyncio.subprocess.Process
    file: Path
    log: Path
    clients: Clients

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    @property
    def rss(self) -> int:
        """Its resident memory, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    async def ended(self, within_s: float = 60) -> int:
        """Its exit status, once it has ended by itself."""
        return await asyncio.wait_for(self.process.wait(), within_s)


@asynccontextmanager
async def gateway_process(folder: Path, document: dict[str, Any]) -> AsyncIterator[GatewayProcess]:
    """The gateway of a configuration, from the moment that all its models are ready; it is ended with the block.

    `document` lacks its ports.
    """
    ports = Ports.free()
    file, log = folder / "gateway.yaml", folder / "gateway.log"
    server = {
        "rest_port": ports.gateway_rest_port,
        "grpc_port": ports.gateway_grpc_port,
        "admin_port": ports.gateway_admin_port,
    }
    file.write_text(yaml.safe_dump({**document, "server": {**server, **document.get("server", {})}}, sort_keys=False))
    rest, grpc = f"http://127.0.0.1:{ports.gateway_rest_port}", f"127.0.0.1:{ports.gateway_grpc_port}"
    async with AsyncExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "--config", str(file)),
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        stack.push_async_callback(_ended, process)
        clients = await stack.enter_async_context(clients_of(rest, grpc))
        async with asyncio.timeout(STARTS_WITHIN_S):
            for model, settings in document["models"].items():
                for target in settings["targets"]:
                    while not await _ready(clients, model, target["endpoint"]):
                        assert process.returncode is None, log.read_text()[-2000:]
                        await asyncio.sleep(0.05)
        yield GatewayProcess(process, file, log, clients)


def write_contract(folder: Path, model: str = "double") -> str:
    """The contract of a model as `double` is; returns its path."""
    spec = double()
    file = folder / f"{model}.json"
    file.write_text(contract(model, inputs=spec.inputs, outputs=spec.outputs, batch_cap=16).to_json())
    return str(file)


@asynccontextmanager
async def upstreams(*ways: Way) -> AsyncIterator[tuple[list[Upstream], Counter[int]]]:
    """Scripted model servers, and how often each number reached one of them."""
    seen: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        found = [Upstream(way, seen) for way in ways]
        for upstream in found:
            await stack.enter_async_context(upstream.fake)
        yield found, seen


async def _ready(clients: Clients, model: str, endpoint: str) -> bool:
    try:
        return await clients.status(f"/v2/models/{model}/ready", {"x-endpoint": endpoint}) == 200
    except OSError:
        return False


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Ends what a failed test has left running."""
    if process.returncode is None:
        process.kill()
        await process.wait()
