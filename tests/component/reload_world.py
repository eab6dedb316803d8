"""A gateway of a file that changes, between clients and scripted model servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from gateway.plan import configuration_of
from gateway.reload import Source, state_of
from gateway.server import Addresses, serve
from gateway.settings import load
from tests.builders import contract
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import double


@dataclass
class World:
    """A gateway of a file, two fakes behind it, and clients of its two HTTP ports."""

    folder: Path
    addresses: Addresses
    torchserve: FakeTorchServe
    tfserving: FakeTfServing
    http: aiohttp.ClientSession

    @property
    def file(self) -> Path:
        return self.folder / "gateway.yaml"

    def write(self, **changes: Any) -> None:
        """Replaces the file as editors do, by a rename."""
        part = self.folder / "part"
        text = yaml.safe_dump(document(self.torchserve, self.tfserving, **changes), sort_keys=False)
        part.write_text(text)
        part.replace(self.file)

    async def predict(self, **fields: Any) -> tuple[int, Any]:
        body = {"model": "double", "inputs": [[1.0, 2.0]], **fields}
        async with self.http.post(f"http://127.0.0.1:{self.addresses.rest_port}/predict", json=body) as reply:
            return reply.status, await reply.json(content_type=None)

    async def admin(self, path: str, method: str = "GET", **options: Any) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.addresses.admin_port}{path}"
        async with self.http.request(method, url, **options) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if "json" in reply.content_type else text

    async def reload(self, **changes: Any) -> tuple[int, Any]:
        """Writes the file and has it read."""
        self.write(**changes)
        return await self.admin("/reload", "POST")

    async def until(self, path: str, found: Any) -> Any:
        """The admin port's answer once `found` says so; fails after 20 s."""
        async with asyncio.timeout(20):
            while True:
                _, answer = await self.admin(path)
                if found(answer):
                    return answer
                await asyncio.sleep(0.02)


def document(torchserve: FakeTorchServe, tfserving: FakeTfServing, **changes: Any) -> dict[str, Any]:
    """gateway.yaml: `double` on TorchServe, and a TensorFlow Serving beside it; `changes` replace whole sections."""
    endpoints = {
        "ts": {"stack": "torchserve", "rest": torchserve.rest_url, "management": torchserve.management_url},
        "tf": {"stack": "tfserving", "transport": "grpc", "grpc": tfserving.grpc_address, "models": []},
    }
    model = {"contract": "contract.json", "targets": [{"endpoint": "ts"}]}
    return {
        "server": {"rest_port": 0, "grpc_port": 0, "admin_port": 0, "drain_seconds": 5},
        "endpoints": {**endpoints, **changes.pop("more", {})},
        "models": {"double": {**model, **changes.pop("double", {})}},
        **changes,
    }


@asynccontextmanager
async def running(folder: Path, **changes: Any) -> AsyncIterator[World]:
    """A gateway whose first target is ready, from its start to its end."""
    model = double()
    (folder / "contract.json").write_text(
        contract("double", inputs=model.inputs, outputs=model.outputs, batch_cap=64).to_json()
    )
    async with AsyncExitStack() as stack:
        torchserve = await stack.enter_async_context(FakeTorchServe(double()))
        tfserving = await stack.enter_async_context(FakeTfServing(double()))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        file = folder / "gateway.yaml"
        file.write_text(yaml.safe_dump(document(torchserve, tfserving, **changes), sort_keys=False))
        # Before it is read, as the gateway itself does: what is written before the watch begins is seen too.
        before = await asyncio.to_thread(state_of, file)
        configuration = await asyncio.to_thread(lambda: configuration_of(load(file)))
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(
                configuration.settings,
                configuration.contracts,
                stop,
                listening.set_result,
                Source(lambda: load(file), file, before),
            )
        )
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        world = World(folder, await listening, torchserve, tfserving, http)
        try:
            await world.until("/routes", lambda told: ready(told, "ts") and not told["endpoints"]["tf"]["trouble"])
            yield world
        finally:
            stop.set()
            await asyncio.wait_for(serving, 15)


def ready(routes: Any, endpoint: str) -> bool:
    targets = routes["routes"].get("double", {}).get("targets", [])
    return any(target["endpoint"] == endpoint and target["status"] == "ready" for target in targets)


def endpoint_of(world: World) -> dict[str, Any]:
    """The TensorFlow Serving, as an entry of `endpoints`."""
    return {"stack": "tfserving", "transport": "grpc", "grpc": world.tfserving.grpc_address, "models": []}
