"""A refused request is gone with its answer, however large it was: nobody counts what the garbage collector has yet to
find.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import pytest

from gateway._generated import oip_pb2, tfserving_pb2, torchserve_pb2
from tests.unit.gateway.frontends.world import World

BYTES = 1 << 20
OFTEN = 12
Send = Callable[[], Awaitable[None]]


def _oip() -> bytes:
    message = oip_pb2.ModelInferRequest(model_name="doubler", raw_input_contents=[bytes(BYTES)])
    message.inputs.add(name="x", datatype="FP64", shape=[1, BYTES // 8])
    return message.SerializeToString()


def _tfserving() -> bytes:
    message = tfserving_pb2.PredictRequest()
    message.model_spec.name = "doubler"
    message.inputs["x"].CopyFrom(tfserving_pb2.TensorProto(dtype=2, tensor_content=bytes(BYTES)))
    message.inputs["x"].tensor_shape.dim.add(size=BYTES // 8)
    return message.SerializeToString()


def _torchserve() -> bytes:
    return torchserve_pb2.PredictionsRequest(model_name="doubler", input={"data": bytes(BYTES)}).SerializeToString()


METHODS = {
    "/inference.GRPCInferenceService/ModelInfer": _oip,
    "/tensorflow.serving.PredictionService/Predict": _tfserving,
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions": _torchserve,
}


@asynccontextmanager
async def over_grpc(world: World, method: str) -> AsyncIterator[Send]:
    """Calls a method, which refuses what it is sent."""
    message = METHODS[method]()
    async with world.grpc() as channel:
        call = channel.unary_unary(method)

        async def send() -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await call(message)

        yield send


@asynccontextmanager
async def over_rest(world: World, path: str) -> AsyncIterator[Send]:
    """Posts what is refused, over a real socket."""
    body = b'{"inputs": {"x": [[[1.0]]]}}' + b" " * BYTES
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with world.rest_port() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send() -> None:
            writer.writelines([head.encode(), body])
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 4")
            (length,) = (line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))

        yield send
        writer.close()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Cycles stay, and what is allocated is known."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("door", "where"),
    [(over_rest, path) for path in ("/predict/doubler", "/v2/models/doubler/infer", "/v1/models/doubler:predict")]
    + [(over_grpc, method) for method in METHODS],
)
async def test_nothing_is_left_of_a_refused_request(
    door: Callable[[World, str], AbstractAsyncContextManager[Send]], where: str
) -> None:
    """Of a dozen, less than two are in memory."""
    world = await World.started()
    async with door(world, where) as send:
        await send()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(OFTEN):
            await send()
        after, _ = tracemalloc.get_traced_memory()
    assert (after - before) / BYTES < 2
