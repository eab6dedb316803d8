"""Handlers that are not ours, in the real TorchServe with its token authorization on, behind the gateway."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from gateway._generated import torchserve_pb2
from gateway.core.contract import ModelContract
from gateway.core.messages import TensorSpec
from gateway.server import Addresses, serve
from gateway.settings import Settings
from tests.integration.foreign_torchserve import Foreign

pytestmark = pytest.mark.servers

PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
PNG = b"\x89PNG\r\n\x1a\n and so on \xff\x00"
DOUBLER = ModelContract(
    "doubler",
    1,
    (TensorSpec("x", "FP32", (-1, 2)),),
    (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("sum", "FP64", (-1,))),
    batch_cap=8,
)
PETS = ModelContract(
    "pets",
    1,
    (TensorSpec("picture", "BYTES", (-1,)),),
    (TensorSpec("class", "BYTES", (-1, 2)), TensorSpec("probability", "FP32", (-1, 2))),
    batch_cap=8,
)
TRANSPORTS = ("rest", "grpc")


def settings(foreign: Foreign) -> Settings:
    """The gateway's configuration, as docs/torchserve-handlers.md shows it."""
    shared = {**foreign.addresses, "token_file": foreign.key_file, "slots": 6}
    doubler = {"payload": "json", "template": {"instances": [{"x": "$row.x"}]}, "versions": {"2024-05a": 5}}
    pets = {"payload": "raw", "content_type": "image/png"}
    return Settings(
        server={"rest_port": 0, "grpc_port": 0, "drain_seconds": 5},
        endpoints={transport: {**shared, "transport": transport} for transport in TRANSPORTS},
        models={
            name: {"contract": "unused", "targets": [{"endpoint": endpoint, **how} for endpoint in TRANSPORTS]}
            for name, how in (("doubler", doubler), ("pets", pets))
        },
    )


@asynccontextmanager
async def gateway(foreign: Foreign) -> AsyncIterator[tuple[Addresses, aiohttp.ClientSession]]:
    """A gateway before the server, with every model ready at every endpoint."""
    contracts = {"doubler": DOUBLER, "pets": PETS}
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings(foreign), contracts, stop, listening.set_result))
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    try:
        addresses = await listening
        async with aiohttp.ClientSession(f"http://127.0.0.1:{addresses.rest_port}") as http:
            async with asyncio.timeout(30):
                for model in contracts:
                    for endpoint in TRANSPORTS:
                        while await ready(http, f"/v2/models/{model}/ready", {"x-endpoint": endpoint}) != 200:
                            await asyncio.sleep(0.05)
            yield addresses, http
    finally:
        stop.set()
        await asyncio.wait_for(serving, 15)


async def ready(
    http: aiohttp.ClientSession, path: str = "/v2/health/ready", headers: dict[str, str] | None = None
) -> int:
    """The status of the gateway's readiness, or of a model's."""
    async with http.get(path, headers=headers) as reply:
        return reply.status


async def predict(http: aiohttp.ClientSession, endpoint: str, x: object, **more: Any) -> tuple[int, dict[str, Any]]:
    """What /predict answers for the doubler."""
    body = {"model": "doubler", "endpoint": endpoint, "inputs": {"x": x}, **more}
    async with http.post("/predict", json=body) as reply:
        return reply.status, await reply.json(content_type=None)


async def test_a_json_handler_answers_through_every_kind_of_door(foreign: Foreign) -> None:
    """A batch goes out as instances and comes back as the contract's outputs, with the version that answered."""
    async with gateway(foreign) as (_, http):
        for endpoint in TRANSPORTS:
            status, answer = await predict(http, endpoint, [[1, 2], [3.5, 4]])
            assert (status, answer["version"]) == (200, 1), answer
            assert answer["outputs"] == {"y": [[2, 4], [7, 8]], "sum": [3, 7.5]}
        x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        async with http.post("/v2/models/doubler/infer", json={"inputs": [x]}) as reply:
            assert [output["datatype"] for output in (await reply.json())["outputs"]] == ["FP32", "FP64"]
        async with http.post("/v1/models/doubler:predict", json={"instances": [[1, 2]]}) as reply:
            assert await reply.json() == {"predictions": [{"y": [2, 4], "sum": 3}]}


async def test_a_version_that_is_no_number_has_one(foreign: Foreign) -> None:
    """`2024-05a` answers to its number at every door, and to its own name at TorchServe's."""
    async with gateway(foreign) as (addresses, http):
        for endpoint in TRANSPORTS:
            status, answer = await predict(http, endpoint, [[1, 2]], version=5)
            assert (status, answer["version"]) == (200, 5), answer
        for version in ("2024-05a", "5", "1.0"):
            async with http.post(f"/predictions/doubler/{version}", json={"instances": [[1, 2]]}) as reply:
                assert await reply.json() == {"predictions": [{"y": [2, 4], "sum": 3}]}
                assert f"version={1 if version == '1.0' else 5}" in reply.headers["x-served-by"]
        request = torchserve_pb2.PredictionsRequest(model_name="doubler", model_version="2024-05a")
        request.input["data"] = b'{"inputs": {"x": [[1, 2]]}}'
        async with grpc.aio.insecure_channel(f"127.0.0.1:{addresses.grpc_port}") as channel:
            reply = await channel.unary_unary(PREDICTIONS)(request.SerializeToString(), timeout=20)
        assert json.loads(torchserve_pb2.PredictionResponse.FromString(reply).prediction)["outputs"]["sum"] == [3]


async def test_a_raw_handler_takes_one_picture_a_request(foreign: Foreign) -> None:
    """TorchServe's door takes the bytes; a batch of pictures is split, and answered in its order."""
    async with gateway(foreign) as (_, http):
        for endpoint in TRANSPORTS:
            sent = http.post(
                "/predictions/pets", data=PNG, headers={"content-type": "image/png", "x-endpoint": endpoint}
            )
            async with sent as reply:
                assert await reply.json() == {"class": ["tabby", "tiger_cat"], "probability": [0.75, 0.25]}
            body = {"model": "pets", "endpoint": endpoint, "inputs": {"picture": ["GIF89a", "BM", "text"]}}
            async with http.post("/predict", json=body) as reply:
                answer = await reply.json()
                assert answer["outputs"]["class"] == [["beagle", "tabby"]] * 3
                np.testing.assert_array_equal(answer["outputs"]["probability"], [[0.5, 0.375]] * 3)


async def test_what_the_handler_refuses_and_fails_at_is_told_apart(foreign: Foreign) -> None:
    """An exception, a status of the handler's own, a full queue and no worker each have their cause."""
    async with gateway(foreign) as (_, http):
        for endpoint in TRANSPORTS:
            status, answer = await predict(http, endpoint, [[13, 0]])
            assert (status, answer["cause"]) == (500, "upstream_failed"), answer
            status, answer = await predict(http, endpoint, [[14, 0]])
            # TorchServe loses the handler's status over gRPC; its text remains.
            lost = endpoint == "grpc"
            assert (status, answer["cause"]) == ((500, "upstream_failed") if lost else (422, "upstream_rejected"))
            assert answer["detail"] == "I do not like 14"
            status, answer = await predict(http, endpoint, [[15, 0]])
            assert (status, answer["cause"], answer["detail"]) == (500, "upstream_failed", "I do not like 15")
            # The archive's queue holds one: of five at once some are answered, and some find it full. No two of them
            # fit into one call of at most eight rows.
            crowd = await asyncio.gather(*(predict(http, endpoint, [[16, 0]] * 8) for _ in range(5)))
            assert {(status, answer.get("cause")) for status, answer in crowd} == {(200, None), (503, "overloaded")}, (
                crowd
            )
        await asyncio.to_thread(foreign.manage, "/models/doubler/1.0?min_worker=0&max_worker=0&synchronous=true", "PUT")
        try:
            for endpoint in TRANSPORTS:
                status, answer = await predict(http, endpoint, [[1, 2]], version=1)
                assert (status, answer["cause"]) in ((503, "not_ready"), (404, "version_not_found")), answer
        finally:
            path = "/models/doubler/1.0?min_worker=1&max_worker=1&synchronous=true"
            await asyncio.to_thread(foreign.manage, path, "PUT")


async def test_keys_are_rotated_while_the_gateway_runs(foreign: Foreign, caplog: pytest.LogCaptureFixture) -> None:
    """The requests after each rotation are answered, whatever the watch has seen, and no key is ever in the log."""
    caplog.set_level(logging.DEBUG, "gateway")
    seen = {entry["key"] for entry in foreign.keys().values()}
    async with gateway(foreign) as (_, http):
        for kind in ("inference", "management", "inference"):
            await asyncio.to_thread(foreign.rotate, kind)
            seen.update(entry["key"] for entry in foreign.keys().values())
            for endpoint in TRANSPORTS:
                assert (await predict(http, endpoint, [[1, 2]]))[0] == 200
        assert await ready(http) == 200
    assert len(seen) == 6
    assert [key for key in seen if key in caplog.text] == []


@pytest.mark.parametrize("rotations", [6, pytest.param(120, marks=pytest.mark.faults)])
async def test_no_request_fails_while_keys_are_rotated_under_traffic(foreign: Foreign, rotations: int) -> None:
    """TorchServe drops the old key before the file has the new one, and the callers of both transports never notice."""
    answered: Counter[str] = Counter()
    failed: list[object] = []
    async with gateway(foreign) as (_, http):
        over = asyncio.Event()

        async def caller(endpoint: str) -> None:
            while not over.is_set():
                status, answer = await predict(http, endpoint, [[1, 2]], version=5)
                answered[endpoint] += 1
                if (status, answer.get("outputs")) != (200, {"y": [[2, 4]], "sum": [3]}):
                    failed.append((endpoint, status, answer))

        async with asyncio.TaskGroup() as callers:
            for endpoint in TRANSPORTS * 8:
                callers.create_task(caller(endpoint))
            for rotation in range(rotations):
                before = answered.copy()
                await asyncio.to_thread(foreign.rotate, ("inference", "management", "inference")[rotation % 3])
                # Each key is used by either transport before the next one comes.
                while not failed and any(answered[endpoint] < before[endpoint] + 20 for endpoint in TRANSPORTS):
                    await asyncio.sleep(0.005)
            over.set()
    assert failed == []


async def test_keys_that_do_not_hold_are_an_error_of_the_configuration(
    foreign: Foreign, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoint is not sent requests; the log says which file, and when its key expires."""
    wrong = json.loads(foreign.key_file.read_text())
    wrong["inference"]["key"] = "secret-of-old"
    async with gateway(foreign) as (_, http):
        original = foreign.key_file.read_text()
        try:
            foreign.key_file.write_text(json.dumps(wrong))
            async with asyncio.timeout(15):
                while await ready(http) == 200:
                    await asyncio.sleep(0.05)
            status, answer = await predict(http, "rest", [[1, 2]])
            assert (status, answer["cause"]) == (503, "not_ready")
            assert "TorchServe refuses the inference key in the endpoint's token_file" in answer["detail"]
        finally:
            foreign.key_file.write_text(original)
    assert f"{foreign.key_file}, which expired or expires at 20" in caplog.text
    assert "secret-of-old" not in caplog.text + json.dumps(answer)
