"""A gateway that is told only where servers are: models, versions, signatures and tensors are asked of them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from gateway._generated import oip_pb2, tensorflow_pb2, tfserving_pb2
from gateway.core.contract import ModelContract
from gateway.flags import add_flags, settings_of
from gateway.server import Addresses, serve
from gateway.settings import Settings
from tests.builders import contract
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import FakeModel, double, echo

PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
ROWS = {"inputs": [[1.0, 2.0]]}
ASKED = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def flagged(*arguments: str) -> Settings:
    """The settings of a command line, on free ports."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return settings_of(parser.parse_args(["--rest-port", "0", "--grpc-port", "0", *arguments]), None)


def authority(url: str) -> str:
    return url.partition("://")[2]


@dataclass
class Gateway:
    """A running gateway, and a client of its REST port."""

    addresses: Addresses
    http: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(f"http://127.0.0.1:{self.addresses.rest_port}{path}") as reply:
            return reply.status, await reply.json(content_type=None)

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self.http.post(f"http://127.0.0.1:{self.addresses.rest_port}{path}", json=body) as reply:
            return reply.status, await reply.json(content_type=None)

    async def until(self, path: str, status: int, body: Any = None) -> Any:
        """What the path answers once its status is this; fails after 15 s."""
        async with asyncio.timeout(15):
            while True:
                found, answer = await (self.get(path) if body is None else self.post(path, body))
                if found == status:
                    return answer
                await asyncio.sleep(0.02)


@asynccontextmanager
async def gateway(settings: Settings, *contracts: ModelContract) -> AsyncIterator[Gateway]:
    """A gateway of these settings, from its start to the end of its draining."""
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, {item.name: item for item in contracts}, stop, listening.set_result))
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    try:
        async with aiohttp.ClientSession() as http:
            yield Gateway(await listening, http)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 15)


def two_signatures() -> FakeModel:
    """`double`, and under `count` a model of INT64 [-1, 2]."""
    return replace(double(), others={"count": echo("INT64")})


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_an_oip_server_needs_no_more_than_its_address(transport: str) -> None:
    """Its models are listed, described and answered through every family of doors."""
    async with FakeOip(double(versions=(2,)), echo("INT64", "ints")) as server:
        address = server.rest_url if transport == "rest" else f"grpc://{server.grpc_address}"
        async with gateway(flagged("--oip", address)) as running:
            await running.until("/v2/health/ready", 200)
            _, described = await running.get("/v2/models/double")
            assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
            assert described["versions"] == ["2"]
            assert (await running.post("/predict/double", ROWS))[1]["outputs"]["y"] == [[2.0, 4.0]]
            assert (await running.post("/v1/models/double:predict", ROWS))[1]["outputs"]["sum"] == [3.0]
            assert (await running.post("/predictions/double", ROWS))[1]["outputs"]["y"] == [[2.0, 4.0]]
            status, answer = await running.post("/v2/models/ints/infer", ASKED)
            assert (status, "expected INT64" in answer["error"]) == (400, True)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_a_tensorflow_model_answers_under_each_of_its_signatures(transport: str) -> None:
    """By its door's own field or by an OIP parameter; an unknown signature has each door's own status."""
    async with FakeTfServing(two_signatures()) as server:
        address = server.rest_url if transport == "rest" else server.grpc_address
        async with gateway(flagged("--tfserving", address, "--model", "double")) as running:
            await running.until("/v2/health/ready", 200)
            _, document = await running.get("/v1/models/double/metadata")
            assert sorted(document["metadata"]["signature_def"]["signature_def"]) == ["count", "serving_default"]
            body = {"signature_name": "count", "instances": [[7, 8]]}
            assert await running.post("/v1/models/double:predict", body) == (200, {"predictions": [[7, 8]]})
            ints = {"inputs": [{**ASKED["inputs"][0], "datatype": "INT64"}]}
            asked = {**ints, "parameters": {"signature_name": "count"}}
            assert (await running.post("/v2/models/double/infer", asked))[1]["outputs"][0]["data"] == [1, 2]
            assert (await running.post("/v2/models/double/infer", ints))[0] == 400
            unknown = {"signature_name": "nope"}
            status, answer = await running.post("/v1/models/double:predict", {**ROWS, **unknown})
            assert status == 400
            assert answer["error"].startswith('Serving signature name: "nope" not found in signature def')
            status, answer = await running.post("/v2/models/double/infer", {**ASKED, "parameters": unknown})
            assert (status, "it has 'serving_default', 'count'" in answer["error"]) == (400, True)
            await _grpc_signatures(running.addresses.grpc_port)


async def _grpc_signatures(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = tfserving_pb2.PredictRequest()
        asked.model_spec.name, asked.model_spec.signature_name = "double", "count"
        tensor = tensorflow_pb2.TensorProto(dtype="DT_INT64", int64_val=[5, 6])
        for size in (1, 2):
            tensor.tensor_shape.dim.add(size=size)
        asked.inputs["x"].CopyFrom(tensor)
        reply = tfserving_pb2.PredictResponse.FromString(await channel.unary_unary(PREDICT)(asked.SerializeToString()))
        assert list(reply.outputs["y"].int64_val) == [5, 6]
        assert reply.model_spec.signature_name == "count"
        asked.model_spec.signature_name = "nope"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(PREDICT)(asked.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        infer = oip_pb2.ModelInferRequest(model_name="double")
        infer.parameters["signature_name"].string_param = "count"
        infer.inputs.add(name="x", datatype="INT64", shape=[1, 2])
        infer.raw_input_contents.append(np.asarray([3, 4], "<i8").tobytes())
        answer = oip_pb2.ModelInferResponse.FromString(await channel.unary_unary(INFER)(infer.SerializeToString()))
        assert np.frombuffer(answer.raw_output_contents[0], "<i8").tolist() == [3, 4]
        infer.parameters["signature_name"].string_param = "nope"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(INFER)(infer.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_model_of_a_server_without_metadata_is_asked_a_contract_for() -> None:
    """Its clients, and the index, are told what to write; the gateway is ready all the same."""
    async with FakeTorchServe(double()) as server:
        settings = flagged(
            *("--torchserve", authority(server.rest_url)),
            *("--torchserve-management", authority(server.management_url)),
        )
        async with gateway(settings) as running:
            await running.until("/v2/health/ready", 200)
            status, answer = await running.post("/predict/double", ROWS)
            assert (status, answer["cause"]) == (503, "not_ready")
            wanted = 'models: {"double": {"contract": "double.json", "targets": [{"endpoint": "torchserve"}]}}'
            assert wanted in answer["detail"]
            _, (entry,) = await running.post("/v2/repository/index", {})
            assert (entry["name"], entry["state"]) == ("double", "UNAVAILABLE")
            assert wanted in entry["reason"]
            assert (await running.get("/v2/models/double/ready"))[0] == 503
            assert (await running.get("/models"))[1] == {"models": []}


async def test_models_come_and_go_while_the_gateway_runs() -> None:
    """A new one is answered without a restart; one that its server has no more is unknown again."""
    async with FakeOip(double()) as server, gateway(flagged("--oip", server.rest_url)) as running:
        await running.until("/v2/health/ready", 200)
        assert (await running.post("/predict/new", ROWS))[0] == 404
        server.models["new"] = double("new")
        await running.until("/predict/new", 200, ROWS)
        del server.models["double"]
        server.unloaded.add("double")
        await running.until("/predict/double", 404, ROWS)
        assert (await running.post("/predict/new", ROWS))[0] == 200


async def test_two_servers_with_one_model_have_to_agree() -> None:
    """Both answer for it while their metadata agrees; else the first listed gives the contract, and both are named."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(FakeOip(double()))
        second = await stack.enter_async_context(FakeTfServing(double()))
        settings = flagged("--oip", first.rest_url, "--tfserving", second.grpc_address, "--model", "double")
        running = await stack.enter_async_context(gateway(settings))
        await running.until("/v2/health/ready", 200)
        for choice, stack_name in (("tfserving", "tfserving"), ("oip", "oip")):
            status, answer = await running.post("/predict/double", {**ROWS, "stack": choice})
            assert (status, answer["stack"]) == (200, stack_name)
        first.models["double"] = echo("INT64", "double")
        answer = {"detail": ""}
        async with asyncio.timeout(20):
            # Its breaker may open before its health is looked at.
            while "disagrees" not in answer["detail"]:
                answer = await running.until("/predict/double", 503, {**ROWS, "stack": "oip"})
        assert "disagrees with the contract, which is what endpoint 'tfserving' says" in answer["detail"]
        assert "the contract has FP32 [-1, 2], the server INT64 [-1, 2]" in answer["detail"]
        first.models["double"] = double()
        await running.until("/predict/double", 200, {**ROWS, "stack": "oip"})


@pytest.mark.parametrize("transport", ["rest", "grpc"])
@pytest.mark.parametrize("stack", ["tfserving", "oip"])
async def test_a_server_that_disagrees_with_the_contract_is_refused_until_it_is_right(
    stack: str, transport: str
) -> None:
    """Under the same version even, as a server that was started again has it; both sides are named."""
    model = double()
    own = contract("double", inputs=model.inputs, outputs=model.outputs)
    async with FakeTfServing(model, mark=None) if stack == "tfserving" else FakeOip(model) as server:
        address = server.rest_url if transport == "rest" else server.grpc_address
        settings = Settings(
            server={"rest_port": 0, "grpc_port": 0},
            endpoints={"only": {"stack": stack, "transport": transport, transport: address}},
            models={"double": {"contract": "unused", "targets": [{"endpoint": "only"}]}},
        )
        async with gateway(settings, own) as running:
            await running.until("/predict/double", 200, ROWS)
            server.models["double"] = replace(model, inputs=echo("INT64").inputs)
            await running.until("/v2/models/double/ready", 503)
            _, answer = await running.post("/predict/double", ROWS)
            assert "endpoint 'only' is mismatch: disagrees with the contract: input 'x'" in answer["detail"]
            assert "the contract has FP32 [-1, 2], the server INT64 [-1, 2]" in answer["detail"]
            server.models["double"] = model
            await running.until("/predict/double", 200, ROWS)
            async with running.http.get(f"http://127.0.0.1:{running.addresses.rest_port}/metrics") as reply:
                name = "TensorFlow Serving (version not stated)" if stack == "tfserving" else "fakeserver 2.1"
                assert f'server="{name}"' in await reply.text()


async def test_a_server_that_is_away_keeps_its_models() -> None:
    """They are known and not ready, with the reason, until it is back; before it was heard, nothing is ready."""
    async with FakeOip(double()) as server, gateway(flagged("--oip", server.rest_url)) as running:
        await running.until("/v2/health/ready", 200)
        await server.close()
        await running.until("/v2/models/double/ready", 503)
        _, answer = await running.post("/predict/double", ROWS)
        assert "endpoint 'oip' is unverified: does not answer" in answer["detail"]
    async with gateway(flagged("--oip", "http://127.0.0.1:1")) as running:
        assert (await running.get("/v2/health/ready"))[0] == 503
        assert (await running.get("/readyz"))[0] == 200


async def test_a_model_that_no_server_can_list_is_found_when_it_is_first_asked_for() -> None:
    """The first client is told to ask again, at any door; a name that is not there is looked for only once."""
    async with FakeTfServing(double()) as server, gateway(flagged("--tfserving", server.grpc_address)) as running:
        await running.until("/v2/health/ready", 200)
        status, answer = await running.post("/v1/models/double:predict", ROWS)
        assert (status, "is being looked for" in answer["error"]) == (503, True)
        assert (await running.until("/v1/models/double:predict", 200, ROWS))["outputs"]["sum"] == [3.0]
        await running.until("/v2/models/nope", 404)
        before = server.calls["status"]
        for _ in range(50):
            assert (await running.get("/v2/models/nope"))[0] == 404
        assert server.calls["status"] - before < 10
