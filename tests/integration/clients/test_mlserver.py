"""A third-party server of the Open Inference Protocol, MLServer, as a backend: what its own words are turned into."""

from __future__ import annotations

from typing import Any

import aiohttp
import numpy as np
import pytest

from gateway.backends.registry import connect
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import DATATYPES, Tensor
from tests.contract.worlds import deadline_in, sample
from tests.integration.clients.world import World

pytestmark = pytest.mark.clients

NAME = "mlserver 1.7.1"


def backend(world: World, transport: str) -> Any:
    """The gateway's backend for the running server."""
    rest = f"http://{world.mlserver.rest}"
    return connect(stack="oip", transport=transport, rest=rest, grpc=world.mlserver.grpc)


async def test_the_direct_answer_is_the_golden_one(world: World) -> None:
    """MLServer itself, asked as its documentation shows: the gateway changes nothing."""
    image = world.golden.inputs["image"][: world.rows]
    tensor = {"name": "image", "shape": list(image.shape), "datatype": "FP32", "data": image.reshape(-1).tolist()}
    url = f"http://{world.mlserver.rest}/v2/models/digits/infer"
    async with aiohttp.ClientSession() as http, http.post(url, json={"inputs": [tensor]}) as reply:
        answer = await reply.json()
    (output,) = answer["outputs"]
    world.agrees({"dtype": "float32", "shape": output["shape"], "data": output["data"]})


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_it_is_described_and_its_refusals_understood(world: World, transport: str) -> None:
    """Name, tensors and versions are discovered; unknown models and versions and refused inputs keep their causes."""
    server = backend(world, transport)
    try:
        assert await server.server() == NAME
        state = await server.model_state("digits")
        assert state.versions == (1,)
        assert world.golden.contract.differences(state.metadata) == []
        for model, name, cause in (
            (ModelSpec("nope"), "image", Cause.MODEL_NOT_FOUND),
            (ModelSpec("digits", version=99), "image", Cause.VERSION_NOT_FOUND),
            (ModelSpec("digits"), "picture", Cause.UPSTREAM_REJECTED),
        ):
            tensor = Tensor(name, "FP32", world.golden.inputs["image"][:1])
            with pytest.raises(GatewayError) as caught:
                await server.infer(InferenceRequest(model, (tensor,)), deadline_in(10))
            assert caught.value.cause is cause, caught.value
    finally:
        await server.close()


@pytest.mark.parametrize(("transport", "unsupported"), [("rest", {"FP16", "BF16"}), ("grpc", {"BF16"})])
async def test_every_datatype_comes_back_to_the_bit(world: World, transport: str, unsupported: set[str]) -> None:
    """An identity model returns what it was sent, scalars and no rows included; MLServer has no BF16."""
    server = backend(world, transport)
    scalar, empty = np.array(2.5, np.float32), np.zeros((0, 2), np.float32)
    tensors = [sample(datatype) for datatype in sorted(DATATYPES)]
    try:
        for tensor in [*tensors, Tensor("x", "FP32", scalar), Tensor("x", "FP32", empty)]:
            asked = InferenceRequest(ModelSpec("echo"), (tensor,), wanted=("y",), id="mine")
            if tensor.datatype in unsupported:
                with pytest.raises(GatewayError) as caught:
                    await server.infer(asked, deadline_in(10))
                assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE, tensor.datatype
                continue
            response = await server.infer(asked, deadline_in(10))
            (output,) = response.outputs
            assert (response.version, response.id) == (1, "mine")
            assert (output.datatype, output.shape) == (tensor.datatype, tensor.shape)
            assert output.array.tolist() == tensor.array.tolist(), tensor.datatype
    finally:
        await server.close()
