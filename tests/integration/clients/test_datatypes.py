"""Every datatype that a client library can send comes back through the gateway to the bit, from any stack.

Behind the gateway are the fakes of `tests/fakes`, whose models answer what they were sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from gateway.core.contract import ModelContract
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE
from gateway.server import Addresses, serve
from gateway.settings import Settings
from tests.contract.worlds import sample
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import echo
from tests.integration.clients.world import array, ask

pytestmark = pytest.mark.clients

MODELS = tuple(echo(datatype) for datatype in sorted(DATATYPES))
STACKS = ("torchserve", "tfserving", "oip")
# What the libraries themselves cannot send: KServe's and OpenVINO's know no BF16.
CANNOT = {"kserve": {"BF16"}, "ovms": {"BF16"}}
# Over REST, KServe's makes text of bytes.
TEXT_ONLY = ("rest_identity",)
BINARY = (("triton_http", "identity"), ("triton_grpc", "identity"), ("tensorflow_serving", "grpc_identity"))
BINARY += (("kserve", "rest_identity"), ("kserve", "grpc_identity"), ("ovms", "grpc_identity"))


@asynccontextmanager
async def gateway_of(stack: str) -> AsyncIterator[Addresses]:
    """A gateway in front of one fake server, once it is ready."""
    fakes = {"torchserve": FakeTorchServe, "tfserving": FakeTfServing, "oip": FakeOip}
    async with fakes[stack](*MODELS) as fake:
        transport = "rest" if stack == "torchserve" else "grpc"
        endpoint = {"stack": stack, "transport": transport, "rest": fake.rest_url, "grpc": fake.grpc_address}
        if isinstance(fake, FakeTorchServe):
            endpoint["management"] = fake.management_url
        settings = Settings(
            server={"rest_port": 0, "grpc_port": 0, "drain_seconds": 5},
            endpoints={"fake": endpoint},
            models={model.name: {"contract": "unused", "targets": [{"endpoint": "fake"}]} for model in MODELS},
        )
        contracts = {model.name: ModelContract(model.name, 1, model.inputs, model.outputs, 256) for model in MODELS}
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(settings, contracts, stop, listening.set_result))
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        try:
            addresses = await listening
            async with asyncio.timeout(60), aiohttp.ClientSession() as http:
                while not await is_ready(http, f"http://127.0.0.1:{addresses.rest_port}/v2/health/ready"):
                    await asyncio.sleep(0.05)
            yield addresses
        finally:
            stop.set()
            await asyncio.wait_for(serving, 15)


async def is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether a health check passes now."""
    async with http.get(url) as reply:
        return reply.status == 200


def tensors(datatypes: set[str], *, text: bool = False) -> dict[str, dict[str, Any]]:
    """A sample of each datatype for its identity model; BYTES hold no UTF-8 unless `text` is asked for."""
    told = {}
    for datatype in sorted(datatypes):
        values = sample(datatype).array.copy()
        if datatype == "BYTES" and not text:
            values[0, 1] = b"\xff\x00\xfe"
        flat = values.reshape(-1).tolist()
        data = [item.decode("latin-1") if isinstance(item, bytes) else item for item in flat]
        told[f"echo_{datatype.lower()}"] = {
            "datatype": datatype,
            "dtype": str(values.dtype),
            "shape": list(values.shape),
            "data": data,
        }
    return told


async def sent(addresses: Addresses, program: str, check: str, inputs: dict[str, Any], stubs: Path) -> dict[str, Any]:
    """What came back to a program for each identity model."""
    task = {
        "rest": f"127.0.0.1:{addresses.rest_port}",
        "grpc": f"127.0.0.1:{addresses.grpc_port}",
        **{"model": "unused", "input": "x", "output": "y", "golden": "unused", "rows": 1},
        "tensors": inputs,
        "checks": [check],
    }
    told: dict[str, Any] = (await asyncio.to_thread(ask, program, task, stubs))[check]
    assert "failed" not in told, told["failed"]
    return told


def same(told: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether an array came back with the values and the shape that were sent; bytes may have been made text."""
    text = [
        item.encode("latin-1").decode(errors="replace") if isinstance(item, str) else item for item in given["data"]
    ]
    return told.get("shape") == given["shape"] and told["data"] in (given["data"], text)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(("program", "check"), BINARY)
async def test_every_datatype_comes_back_to_the_bit(stubs: Path, program: str, check: str, stack: str) -> None:
    """FP16, BF16 and bytes that are no text included, by whichever protocol the server behind speaks."""
    inputs = tensors(set(DATATYPES) - CANNOT.get(program, set()), text=check in TEXT_ONLY)
    async with gateway_of(stack) as addresses:
        told = await sent(addresses, program, check, inputs, stubs)
    assert [model for model in inputs if not same(told[model], inputs[model])] == []


async def test_json_carries_what_it_can_and_the_rest_is_refused_by_name(stubs: Path) -> None:
    """Triton's library over JSON: everything but the 16-bit floats, for which it or the gateway names the way out."""
    inputs = tensors(set(DATATYPES), text=True)
    async with gateway_of("torchserve") as addresses:
        told = await sent(addresses, "triton_http", "identity_json", inputs, stubs)
    short = {"echo_fp16", "echo_bf16"}
    assert [model for model in set(inputs) - short if not same(told[model], inputs[model])] == []
    for model in short:
        assert "binary" in told[model]["text"], told[model]


async def test_numbers_are_what_numpy_says(stubs: Path) -> None:
    """The library's array has the datatype's own dtype, in Triton's words."""
    inputs = tensors(set(DATATYPES) - {"BF16"})
    async with gateway_of("oip") as addresses:
        told = await sent(addresses, "triton_grpc", "identity", inputs, stubs)
    for model, given in inputs.items():
        if given["datatype"] != "BYTES":
            assert array(told[model]).dtype == np.dtype(NUMPY_DTYPE[given["datatype"]])
