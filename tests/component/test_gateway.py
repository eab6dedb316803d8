"""One gateway, as it runs in production, between real clients and scripted model servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from gateway._generated import oip_pb2
from gateway.core.contract import ModelContract
from gateway.server import Addresses, serve
from gateway.settings import Settings, SettingsError
from tests.builders import contract
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import Hold, double

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class World:
    """A running gateway in front of two fake servers, and the ways to ask it."""

    addresses: Addresses
    torchserve: FakeTorchServe
    tfserving: FakeTfServing
    http: aiohttp.ClientSession
    stop: asyncio.Event
    serving: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.addresses.rest_port}"

    async def predict(self, **fields: Any) -> tuple[int, dict[str, Any], Any]:
        body = {"model": "double", "inputs": [[1.0, 2.0]], **fields}
        async with self.http.post(f"{self.url}/predict", json=body) as reply:
            return reply.status, await reply.json(content_type=None), reply.headers

    async def ready(self) -> None:
        """Returns once every endpoint is verified."""
        for stack in ("torchserve", "tfserving"):
            async with asyncio.timeout(20):
                while not await self._is_ready(stack):
                    await asyncio.sleep(0.01)

    async def _is_ready(self, stack: str) -> bool:
        async with self.http.get(f"{self.url}/v2/models/double/ready", headers={"x-stack": stack}) as reply:
            return reply.status == 200


def settings(torchserve: FakeTorchServe, tfserving: FakeTfServing) -> Settings:
    return Settings(
        server={"rest_port": 0, "grpc_port": 0, "drain_seconds": 5},
        endpoints={
            "ts": {
                "stack": "torchserve",
                "rest": torchserve.rest_url,
                "management": torchserve.management_url,
            },
            "tf": {"stack": "tfserving", "transport": "grpc", "grpc": tfserving.grpc_address},
        },
        models={"double": {"contract": "unused", "targets": [{"endpoint": "ts"}, {"endpoint": "tf"}]}},
    )


def double_contract() -> ModelContract:
    model = double()
    return contract("double", inputs=model.inputs, outputs=model.outputs, batch_cap=64)


@asynccontextmanager
async def running(*, wait: bool = True) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        torchserve = await stack.enter_async_context(FakeTorchServe(double()))
        tfserving = await stack.enter_async_context(FakeTfServing(double()))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(settings(torchserve, tfserving), {"double": double_contract()}, stop, listening.set_result)
        )
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        world = World(await listening, torchserve, tfserving, http, stop, serving)
        try:
            if wait:
                await world.ready()
            yield world
        finally:
            stop.set()
            await asyncio.wait_for(serving, 15)


@pytest.mark.parametrize(
    ("stack", "server"), [("torchserve", "TorchServe 0.12.0"), ("tfserving", "savedmodel-server 1.0 (stand-in)")]
)
async def test_the_stack_asked_for_answers_and_says_so(stack: str, server: str) -> None:
    """Result, stack and server come together, with the request's id and timing."""
    async with running() as world:
        status, body, headers = await world.predict(stack=stack, id="mine")
        assert (status, body["stack"], body["id"]) == (200, stack, "mine")
        assert body["outputs"] == {"y": [[2.0, 4.0]], "sum": [3.0]}
        assert f'server="{server}"' in headers["x-served-by"]
        assert headers["x-request-id"]
        assert [part.split(";")[0] for part in headers["server-timing"].split(", ")] == [
            "decode",
            "queue",
            "upstream",
            "encode",
            "total",
        ]


async def test_grpc_reaches_the_same_models() -> None:
    """ModelInfer with raw contents answers as /predict does, and names its server in trailing metadata."""
    model = double()
    async with running() as world, grpc.aio.insecure_channel(f"127.0.0.1:{world.addresses.grpc_port}") as channel:
        request = oip_pb2.ModelInferRequest(model_name="double")
        request.inputs.add(name=model.inputs[0].name, datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(np.asarray([1, 2], "<f4").tobytes())
        call = channel.unary_unary(INFER)(request.SerializeToString(), metadata=[("x-stack", "tfserving")])
        reply = oip_pb2.ModelInferResponse.FromString(await call)
        assert np.frombuffer(reply.raw_output_contents[0], "<f4").tolist() == [2.0, 4.0]
        assert "endpoint=tf" in dict(await call.trailing_metadata())["x-served-by"]


async def test_a_server_that_goes_away_is_named_and_the_other_stack_goes_on() -> None:
    """After the loss requests are refused with the endpoint's name; the other stack does not notice."""
    async with running() as world:
        await world.torchserve.close()
        async with asyncio.timeout(10):
            # Its breaker may open before its health is looked at.
            while "is unverified" not in (await world.predict())[1].get("detail", ""):
                await asyncio.sleep(0.01)
        status, body, headers = await world.predict()
        assert status == 503
        assert "endpoint 'ts' is unverified" in body["detail"]
        assert headers["retry-after"]
        assert (await world.predict(stack="tfserving"))[0] == 200


async def test_a_draining_gateway_answers_what_it_has_taken() -> None:
    """A request in flight when the stop comes is answered before the process ends."""
    async with running() as world:
        hold = Hold()
        world.torchserve.then(hold)
        asked = asyncio.create_task(world.predict(stack="torchserve"))
        await hold.reached.wait()
        world.stop.set()
        await asyncio.sleep(0)
        hold.release.set()
        assert (await asked)[0] == 200


async def test_metrics_name_the_server_that_really_answered() -> None:
    """The stand-in is marked in the series that every dashboard shows."""
    async with running() as world:
        await world.predict(stack="tfserving")
        async with world.http.get(f"{world.url}/metrics") as reply:
            page = await reply.text()
    assert 'server="savedmodel-server 1.0 (stand-in)"' in page
    assert 'stand_in="true"' in page
    assert 'gateway_request_duration_seconds_count{model="double"' in page


async def test_a_taken_port_is_a_clear_error() -> None:
    """The message names the address and the field to change."""
    async with running(wait=False) as world:
        taken = settings(world.torchserve, world.tfserving).model_copy(
            update={
                "server": settings(world.torchserve, world.tfserving).server.model_copy(
                    update={"rest_port": world.addresses.rest_port}
                )
            }
        )
        with pytest.raises(SettingsError, match=r"cannot listen on 127.0.0.1:\d+; choose another server.rest_port"):
            await serve(taken, {"double": double_contract()}, asyncio.Event())
