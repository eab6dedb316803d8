"""Tests of gateway.backends.oip_grpc, beside the contract suite: versions, readiness, what is no OIP server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.backends.oip_grpc import OipGrpc
from gateway.core.errors import Cause
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.script import Status, double
from tests.unit.gateway.backends.support import call, failure, request


@pytest.fixture
async def fake() -> AsyncIterator[FakeOip]:
    """A server with versions 1 and 3 of `double`."""
    async with FakeOip(double(versions=(1, 3))) as fake:
        yield fake


@pytest.fixture
async def backend(fake: FakeOip) -> AsyncIterator[OipGrpc]:
    """A backend for the fake."""
    backend = OipGrpc(fake.grpc_address)
    yield backend
    await backend.close()


async def test_metadata_is_asked_once(fake: FakeOip, backend: OipGrpc) -> None:
    """The first call of a model asks for its versions; later ones only infer."""
    for _ in range(3):
        assert (await backend.infer(request(), call())).version == 3
    assert fake.calls == {"metadata": 1, "predict": 3}


async def test_versions_are_sent_as_the_server_spells_them(fake: FakeOip, backend: OipGrpc) -> None:
    """A number here, a word there; none where none was asked for."""
    fake.spellings = {1: "1.0"}
    assert (await backend.infer(request(version=1), call())).version == 1
    await backend.infer(request(), call())
    assert [path for path, _ in fake.sent] == ["/double/1.0", "/double"]


async def test_a_model_without_versions_answers_version_1(fake: FakeOip, backend: OipGrpc) -> None:
    """It is sent none, and its answer states none."""
    fake.unversioned.add("double")
    assert (await backend.model_state("double")).versions == (1,)
    assert (await backend.infer(request(version=1), call())).version == 1
    assert fake.sent == [("/double", "")]


async def test_a_model_that_loads_has_no_version(fake: FakeOip, backend: OipGrpc) -> None:
    """Not ready is an answer, not an error."""
    fake.loading.add("double")
    assert (await backend.model_state("double")).versions == ()


async def test_statuses_and_texts_reach_the_table(fake: FakeOip, backend: OipGrpc) -> None:
    """An error's text is the server's, its cause the table's."""
    fake.then(Status("UNAVAILABLE", "Request for unknown model: 'double' version 3 is not at ready state"))
    assert (await failure(backend.infer(request(), call()))).cause is Cause.NOT_READY


async def test_another_kind_of_server_is_told() -> None:
    """A TensorFlow Serving on the configured port knows no such method."""
    async with FakeTfServing(double()) as other:
        backend = OipGrpc(other.grpc_address)
        assert (await failure(backend.server())).cause is Cause.UPSTREAM_BAD_REPLY
        await backend.close()


async def test_a_server_without_the_index_lists_nothing() -> None:
    """The method is unknown to it, which is an answer; one that does not answer is an error."""
    async with FakeOip(double()) as fake:
        fake.lists = None
        backend = OipGrpc(fake.grpc_address)
        assert await backend.models() is None
        await fake.close()
        assert (await failure(backend.models())).cause in (Cause.UPSTREAM_UNREACHABLE, Cause.UPSTREAM_LOST)
        await backend.close()
