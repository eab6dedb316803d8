"""Tests of gateway.backends.torchserve_grpc, beside the contract suite: versions, frame errors, codes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.backends.torchserve_grpc import TorchServeGrpc
from gateway.core.errors import Cause
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import Status, double
from tests.unit.gateway.backends.support import call, failure, request


@pytest.fixture
async def fake() -> AsyncIterator[FakeTorchServe]:
    """A server with versions 2 (the default) and 5 of `double`, spelled 2 and 5.0."""
    async with FakeTorchServe(double(versions=(2, 5))) as fake:
        fake.spellings = {5: "5.0"}
        yield fake


@pytest.fixture
async def backend(fake: FakeTorchServe) -> AsyncIterator[TorchServeGrpc]:
    """A backend for the fake."""
    backend = TorchServeGrpc(fake.grpc_address, fake.rest_url, fake.management_url)
    yield backend
    await backend.close()


async def test_versions_are_sent_as_they_are_spelled(fake: FakeTorchServe, backend: TorchServeGrpc) -> None:
    """Without a version TorchServe's default answers, and says which it is."""
    assert (await backend.infer(request(), call())).version == 2
    assert (await backend.infer(request(version=5), call())).version == 5
    assert fake.paths == ["/double", "/double/5.0"]


async def test_an_error_in_the_frame_keeps_its_cause(fake: FakeTorchServe, backend: TorchServeGrpc) -> None:
    """The handler says what was wrong, in an answer of gRPC status OK."""
    fake.frame_error = ("input 'x' has 3 columns; expected 2", "invalid_input")
    error = await failure(backend.infer(request(), call()))
    assert error.cause is Cause.INVALID_INPUT
    assert "expected 2" in error.detail


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (Status("INTERNAL", "Worker died."), Cause.UPSTREAM_LOST),
        (Status("INTERNAL", "Out of resources"), Cause.UPSTREAM_FAILED),
        (Status("INVALID_ARGUMENT", "my own words"), Cause.UPSTREAM_REJECTED),
        (Status("PERMISSION_DENIED", "Token Authorization failed.", "InvalidKeyException"), Cause.UPSTREAM_BAD_REPLY),
        (Status("DEADLINE_EXCEEDED", "late"), Cause.DEADLINE),
    ],
)
async def test_statuses_of_the_server_itself(
    fake: FakeTorchServe, backend: TorchServeGrpc, status: Status, cause: Cause
) -> None:
    """What TorchServe says by its code and text arrives as the cause of the table."""
    fake.then(status)
    assert (await failure(backend.infer(request(), call()))).cause is cause
