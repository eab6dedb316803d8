"""What every gRPC method shares."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest

from gateway._generated import oip_pb2
from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import Edge
from gateway.frontends.grpc.calls import MAX_DETAIL, Context, metadata_of, parsed, request_id, selection, trailing
from tests.builders import request
from tests.unit.gateway.frontends.world import World


class FakeContext:
    """What the client sent along."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        """The metadata, or None where there is none."""
        return self._metadata or None


def sent(*metadata: tuple[str, str | bytes]) -> list[tuple[str, str]]:
    return metadata_of(cast(Context, FakeContext(*metadata)))


def test_a_sane_id_is_the_clients_own() -> None:
    """Anything else is replaced."""
    assert request_id(sent(("x-request-id", "mine"))) == "mine"
    assert len(request_id(sent(("x-request-id", "a b")))) == 32
    assert len(request_id(sent())) == 32


def test_metadata_chooses_who_answers() -> None:
    """The same four words as in HTTP headers; binary metadata is not ours."""
    told = sent(("x-stack", "tfserving"), ("x-label", "stable"), ("x-stack-bin", b"\xff"), ("user-agent", "x"))
    assert selection(told) == {"stack": "tfserving", "label": "stable"}
    with pytest.raises(GatewayError, match="x-stack is sent twice"):
        selection(sent(("x-stack", "a"), ("x-stack", "b")))


async def test_answers_end_with_who_gave_them() -> None:
    """Failures end with the id and the times only."""
    world = await World.started()
    edge = Edge(world.plane, limits=world.limits, observer=world.observer, clock=world.clock, admission=world.admission)
    call = edge.open("oip-grpc", "the-id")
    assert [key for key, _ in trailing(call)] == ["x-request-id", "server-timing"]
    await edge.infer(call, request(), {})
    assert (
        dict(trailing(call))["x-served-by"]
        == 'endpoint=ts; stack=torchserve; server="ts 1.0"; version=1; variant=torchscript'
    )


def test_garbage_is_the_clients_error() -> None:
    """It names the message that was expected."""
    with pytest.raises(GatewayError, match="expected a ModelReadyRequest") as refused:
        parsed(oip_pb2.ModelReadyRequest(), b"\xff\xff")
    assert refused.value.cause is Cause.UNPARSEABLE
    message = oip_pb2.ModelReadyRequest(name="a")
    assert parsed(oip_pb2.ModelReadyRequest(), message.SerializeToString()) == message


async def refusal(channel: grpc.aio.Channel, method: str, data: bytes = b"", **call: Any) -> grpc.aio.AioRpcError:
    """The error that a unary call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(method)(data, **call)
    return refused.value


async def test_unknown_methods_are_refused_and_counted() -> None:
    """Of our service, of another one, and of a streaming kind."""
    world = await World.started()
    async with world.grpc() as channel:
        for method in (
            "/inference.GRPCInferenceService/Nope",
            "/a.B/C",
            "/a.B/",
        ):
            refused = await refusal(channel, method, metadata=(("x-request-id", "mine"),))
            assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
            assert ("x-request-id", "mine") in tuple(refused.trailing_metadata())
            assert world.last.cause is Cause.ROUTE_NOT_FOUND
        stream = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
        await stream.write(b"")
        assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_texts_are_short_enough_for_a_header() -> None:
    """A name that came back must not be larger than clients take."""
    world = await World.started()
    async with world.grpc() as channel:
        asked = oip_pb2.ModelReadyRequest(name="é" * 100_000)
        refused = await refusal(channel, "/inference.GRPCInferenceService/ModelReady", asked.SerializeToString())
        assert refused.code() is grpc.StatusCode.NOT_FOUND
        assert len(refused.details() or "") <= MAX_DETAIL
