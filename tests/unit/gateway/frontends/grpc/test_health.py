"""grpc.health.v1 over the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.frontends.grpc.health import HealthServicer
from tests.unit.gateway.frontends.grpc.test_calls import refusal
from tests.unit.gateway.frontends.world import World

Answer = health_pb2.HealthCheckResponse
INFERENCE = "inference.GRPCInferenceService"


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    """A server with nothing but this service, whose watchers hear of changes at once."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((HealthServicer(world.plane, watch_interval_s=0.005).handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_the_official_client_is_told_the_truth_now(world: World, channel: grpc.aio.Channel) -> None:
    """The whole server serves while it takes requests; the inference service only while all models are ready."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def statuses() -> list[int]:
        return [(await stub.Check(asked(service))).status for service in ("", INFERENCE)]

    assert await statuses() == [Answer.SERVING, Answer.SERVING]
    for name, backend in world.backends.items():
        backend.reachable = False
        await world.health.check(world.endpoints[name])
    assert await statuses() == [Answer.SERVING, Answer.NOT_SERVING]
    world.plane.drain()
    assert await statuses() == [Answer.NOT_SERVING, Answer.NOT_SERVING]


async def test_a_service_that_is_not_here_is_not_found(channel: grpc.aio.Channel) -> None:
    """And garbage is the client's error."""
    data = asked("nope").SerializeToString()
    assert (await refusal(channel, "/grpc.health.v1.Health/Check", data)).code() is grpc.StatusCode.NOT_FOUND
    refused = await refusal(channel, "/grpc.health.v1.Health/Check", b"\xff")
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watcher_hears_of_every_change_until_the_gateway_drains(
    world: World, channel: grpc.aio.Channel
) -> None:
    """The stream ends with the drain, so that it does not hold up the server's end."""
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(asked(INFERENCE))
    async with asyncio.timeout(5):
        assert (await watch.read()).status == Answer.SERVING
        for backend in world.backends.values():
            backend.reachable = False
        for endpoint in world.endpoints.values():
            await world.health.check(endpoint)
        assert (await watch.read()).status == Answer.NOT_SERVING
        world.plane.drain()
        assert await watch.read() == grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_a_watcher_of_an_unknown_service_waits(channel: grpc.aio.Channel) -> None:
    """The protocol says SERVICE_UNKNOWN, and to keep the stream open: the service may come."""
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(asked("nope"))
    assert (await watch.read()).status == Answer.SERVICE_UNKNOWN
    watch.cancel()
