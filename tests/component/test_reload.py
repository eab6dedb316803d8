"""A gateway whose configuration changes while it answers: nothing is lost, and nothing invalid takes effect."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway.plan import configuration_of
from gateway.reload import Source
from gateway.server import Addresses, serve
from gateway.settings import load
from tests.builders import contract
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import Hold, double

REQUESTS = 3000


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
        part.write_text(yaml.safe_dump(document(self.torchserve, self.tfserving, **changes)))
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
        "tf": {"stack": "tfserving", "transport": "grpc", "grpc": tfserving.grpc_address},
    }
    model = {"contract": "contract.json", "targets": [{"endpoint": "ts"}]}
    return {
        "server": {"rest_port": 0, "grpc_port": 0, "admin_port": 0, "drain_seconds": 5},
        "endpoints": {**endpoints, **changes.pop("more", {})},
        "models": {"double": {**model, **changes.pop("double", {})}},
        **changes,
    }


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    model = double()
    (folder / "contract.json").write_text(
        contract("double", inputs=model.inputs, outputs=model.outputs, batch_cap=64).to_json()
    )
    async with AsyncExitStack() as stack:
        torchserve = await stack.enter_async_context(FakeTorchServe(double()))
        tfserving = await stack.enter_async_context(FakeTfServing(double()))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        file = folder / "gateway.yaml"
        file.write_text(yaml.safe_dump(document(torchserve, tfserving)))
        configuration = configuration_of(load(file))
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(
                configuration.settings,
                configuration.contracts,
                stop,
                listening.set_result,
                Source(lambda: load(file), file),
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


async def test_a_reload_under_load_loses_nothing(tmp_path: Path) -> None:
    """While routes flip between stacks, and endpoints come and go, every request is answered."""
    async with running(tmp_path) as world:
        told: Counter[Any] = Counter()
        left = iter(range(REQUESTS))

        async def ask() -> None:
            for _ in left:
                status, body = await world.predict()
                told[status, body.get("stack") or body.get("detail")] += 1
                assert status != 200 or body["outputs"]["y"] == [[2.0, 4.0]]

        asking = asyncio.gather(*(ask() for _ in range(16)))
        flips = 0
        while not asking.done():
            name = ("ts", "tf", "again")[flips % 3]
            more = {"again": {**endpoint_of(world), "slots": 1 + flips}} if flips % 3 else {}
            assert (await world.reload(double={"targets": [{"endpoint": name}]}, more=more))[0] == 200
            flips += 1
        await asking
        assert {status for status, _ in told} == {200}, told
        assert told.total() == REQUESTS
        assert {stack for _, stack in told} == {"torchserve", "tfserving"}
        assert flips > 5


def endpoint_of(world: World) -> dict[str, Any]:
    return {"stack": "tfserving", "transport": "grpc", "grpc": world.tfserving.grpc_address}


async def test_an_invalid_file_keeps_the_old_configuration(tmp_path: Path) -> None:
    """The old routes go on; the answer, the admin port and the metrics say what is wrong, until a good file comes."""
    async with running(tmp_path) as world:
        status, problem = await world.reload(double={"targets": [{"endpoint": "gone"}]})
        assert (status, problem["title"]) == (422, "The configuration cannot be used; the one before goes on")
        assert "models.double: unknown endpoint 'gone'; there are ts, tf" in problem["detail"]
        assert (await world.predict())[1]["stack"] == "torchserve"
        _, config = await world.admin("/config")
        assert config["last"]["outcome"] == "invalid"
        assert config["last"]["error"] == problem["detail"]
        _, metrics = await world.admin("/metrics")
        assert "gateway_config_last_reload_successful 0.0" in metrics
        assert (await world.reload(double={"targets": [{"endpoint": "tf"}]}))[0] == 200
        assert (await world.predict())[1]["stack"] == "tfserving"
        _, metrics = await world.admin("/metrics")
        assert "gateway_config_last_reload_successful 1.0" in metrics


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"double": {"contract": "missing.json"}}, "models.double.contract"),
        ({"double": {"targets": [{"endpoint": "ts", "payload": "json", "template": "$nothing"}]}}, "models.double"),
        ({"limits": {"in_flight": 0}}, "limits.in_flight"),
    ],
)
async def test_the_whole_file_is_validated_before_any_of_it_is_used(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    """Contracts and handlers belong to it, as for `gateway check`."""
    async with running(tmp_path) as world:
        status, problem = await world.reload(**changes)
        assert status == 422
        assert expected in problem["detail"]
        assert (await world.predict())[0] == 200


async def test_a_file_that_is_replaced_is_read_without_being_asked(tmp_path: Path) -> None:
    """A rename over the old file is a change of it."""
    async with running(tmp_path) as world:
        world.write(double={"targets": [{"endpoint": "tf"}]})
        config = await world.until("/config", lambda told: told["reloads"]["ok"])
        assert config["last"]["cause"] == "file"
        assert (await world.predict())[1]["stack"] == "tfserving"


async def test_a_request_in_flight_ends_at_the_endpoint_it_began_at(tmp_path: Path) -> None:
    """The endpoint is gone from the routes at once, and is closed only after its last answer."""
    async with running(tmp_path) as world:
        hold = Hold()
        world.torchserve.script.then(hold)
        asked = asyncio.create_task(world.predict())
        await hold.reached.wait()
        world.write(double={"targets": [{"endpoint": "tf"}]})
        without = yaml.safe_load(world.file.read_text())
        del without["endpoints"]["ts"]
        world.file.write_text(yaml.safe_dump(without))
        status, config = await world.admin("/reload", "POST")
        assert (status, config["last"]["endpoints"]["closed"]) == (200, ["ts"])
        assert (await world.predict())[1]["stack"] == "tfserving"
        assert 'gateway_endpoint_info{endpoint="ts"' in (await world.admin("/metrics"))[1]
        hold.release.set()
        status, body = await asked
        assert (status, body["stack"]) == (200, "torchserve")
        await world.until("/metrics", lambda text: 'gateway_endpoint_info{endpoint="ts"' not in text)


async def test_an_endpoint_that_did_not_change_keeps_what_it_has(tmp_path: Path) -> None:
    """Its connections, slots and breakers live on; a new weight, policy or model is no reason to connect anew."""
    async with running(tmp_path) as world:
        model = {"targets": [{"endpoint": "ts", "weight": 3}, {"endpoint": "tf"}], "policy": "weighted"}
        _, config = await world.reload(double=model)
        assert config["last"]["endpoints"] == {"kept": ["ts", "tf"], "connected": [], "closed": []}
        _, routes = await world.admin("/routes")
        assert [target["weight"] for target in routes["routes"]["double"]["targets"]] == [3, 1]
        assert [target["status"] for target in routes["routes"]["double"]["targets"]] == ["ready", "ready"]
        _, config = await world.reload(more={"tf": {**endpoint_of(world), "slots": 9}})
        assert config["last"]["endpoints"] == {"kept": ["ts"], "connected": ["tf"], "closed": ["tf"]}


async def test_what_needs_a_restart_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    """Ports and limits stay; everything else of the file is in effect."""
    async with running(tmp_path) as world:
        _, config = await world.reload(limits={"in_flight": 7}, double={"targets": [{"endpoint": "tf"}]})
        assert config["last"]["needs_restart"] == ["limits.in_flight"]
        assert (await world.predict())[1]["stack"] == "tfserving"
