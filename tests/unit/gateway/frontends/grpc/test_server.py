"""The gRPC server as a whole: its limits and its services."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.core.errors import Cause
from gateway.frontends.edge import Limits
from gateway.frontends.grpc.server import create_server
from tests.unit.gateway.frontends.grpc.test_calls import refusal
from tests.unit.gateway.frontends.grpc.test_oip import INFER, infer_request
from tests.unit.gateway.frontends.world import World, admitted


async def test_a_message_over_the_cap_is_refused_by_grpc_itself() -> None:
    """The cap of bodies holds for gRPC too."""
    world = await World.started(Limits(body_bytes=1000))
    async with world.grpc() as channel:
        assert (await refusal(channel, INFER, b"x" * 1001)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await channel.unary_unary(INFER)(infer_request())


async def test_compressed_messages_are_refused() -> None:
    """gRPC inflates before it checks sizes."""
    world = await World.started()
    async with world.grpc() as channel:
        refused = await refusal(channel, INFER, infer_request(), compression=grpc.Compression.Gzip)
        assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
        assert world.sent == 0


async def test_inference_and_health_share_the_port() -> None:
    """Both services answer."""
    world = await World.started()
    async with world.grpc() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        await channel.unary_unary(INFER)(infer_request())


async def test_rest_and_grpc_share_one_limit() -> None:
    """A place taken at one door is missing at the other."""
    world = await World.started(Limits(in_flight=1))
    async with world.grpc() as channel, world.rest() as client:
        with admitted(world.admission):
            assert (await refusal(channel, INFER, infer_request())).code() is grpc.StatusCode.UNAVAILABLE
            answer = await client.post("/predict", json={"model": "doubler", "inputs": [[1, 2]]})
            assert answer.status_code == 503
        assert {finished.cause for finished in world.observer.finished} == {Cause.OVERLOADED}


async def test_more_calls_than_a_connection_takes_at_once_wait_for_their_turn() -> None:
    """A client with many callers on one connection is not refused for it."""
    world = await World.started()
    async with world.grpc() as channel:
        call = channel.unary_unary(INFER)

        async def caller() -> None:
            for _ in range(10):
                await call(infer_request())

        async with asyncio.timeout(30):
            await asyncio.gather(*(caller() for _ in range(150)))
        assert world.sent == 1500


async def test_a_connection_of_some_age_is_moved_on_and_its_calls_are_answered() -> None:
    """The client opens another, by which another worker may get it; what was under way ends on the old one."""
    world = await World.started()
    server = create_server(
        world.plane, limits=world.limits, observer=world.observer, clock=world.clock, max_connection_age_s=0.1
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    hold = asyncio.Event()
    for backend in world.backends.values():
        backend.hold = hold
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        under_way = asyncio.ensure_future(channel.unary_unary(INFER)(infer_request()))
        await world.until_sent()
        async with asyncio.timeout(5):
            while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
        assert not under_way.done()
        hold.set()
        await under_way
        await channel.unary_unary(INFER)(infer_request())
    await server.stop(0)


@pytest.mark.parametrize("age", [None, 60.0])
async def test_two_servers_do_not_share_a_port_by_accident(age: float | None) -> None:
    """A second gateway on a taken port is told so, instead of getting half of the requests."""
    world = await World.started()
    servers = [
        create_server(
            world.plane, limits=world.limits, observer=world.observer, clock=world.clock, max_connection_age_s=age
        )
        for _ in range(2)
    ]
    port = servers[0].add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError):
        servers[1].add_insecure_port(f"127.0.0.1:{port}")
    for server in servers:
        await server.stop(0)
