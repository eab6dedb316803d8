"""Tests of gateway.backends.tfserving_grpc, beside the contract suite: labels, signatures, metadata, names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.backends.tfserving_grpc import TfServingGrpc
from gateway.core.errors import Cause
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.script import Status, double, echo
from tests.unit.gateway.backends.support import call, failure, request


@pytest.fixture
async def fake() -> AsyncIterator[FakeTfServing]:
    """A server with versions 1 and 3 of `double`, of which `stable` is 1."""
    async with FakeTfServing(replace(double(versions=(1, 3)), labels={"stable": 1})) as fake:
        yield fake


@pytest.fixture
async def backend(fake: FakeTfServing) -> AsyncIterator[TfServingGrpc]:
    """A backend for the fake."""
    backend = TfServingGrpc(fake.grpc_address)
    yield backend
    await backend.close()


async def test_the_version_that_answered_is_told(backend: TfServingGrpc) -> None:
    """The newest version, one by number, one by label: the answer says which it was."""
    assert (await backend.infer(request(), call())).version == 3
    assert (await backend.infer(request(version=1), call())).version == 1
    assert (await backend.infer(request(label="stable"), call())).version == 1


async def test_unknown_labels_and_signatures(backend: TfServingGrpc) -> None:
    """Each has a cause of its own; the default signature by its name is known."""
    assert (await failure(backend.infer(request(label="nope"), call()))).cause is Cause.LABEL_NOT_FOUND
    assert (await failure(backend.infer(request(signature_name="nope"), call()))).cause is Cause.SIGNATURE_NOT_FOUND
    assert (await backend.infer(request(signature_name="serving_default"), call())).version == 3


async def test_a_server_without_a_mark_is_tensorflow_serving() -> None:
    """Its version is unknown unless it is configured; a mark wins over configuration."""
    async with FakeTfServing(mark=None) as fake:
        for configured, name in (
            (None, "TensorFlow Serving (version not stated)"),
            ("TensorFlow Serving 2.20.0", "TensorFlow Serving 2.20.0"),
        ):
            backend = TfServingGrpc(fake.grpc_address, server=configured)
            assert await backend.server() == name
            fake.mark = "savedmodel-server/9"
            assert await backend.server() == "savedmodel-server 9"
            fake.mark = None
            await backend.close()


async def test_metadata_is_asked_each_time(fake: FakeTfServing, backend: TfServingGrpc) -> None:
    """A server that was started again may have something else under the same versions."""
    assert (await backend.model_state("double")).versions == (3, 1)
    fake.models["double"] = echo("INT64", "double", versions=(3, 1))
    state = await backend.model_state("double")
    assert state.metadata is not None
    assert state.metadata.versions == (3, 1)
    assert state.metadata.inputs[0].datatype == "INT64"


async def test_a_model_without_available_versions_is_not_ready(fake: FakeTfServing, backend: TfServingGrpc) -> None:
    """A known model that is loading has a state, without versions."""
    fake.models["double"] = double(versions=())
    state = await backend.model_state("double")
    assert not state.ready
    assert state.metadata is None


async def test_a_model_without_the_default_signature_is_ready_without_metadata() -> None:
    """Who names its signature is answered, so the model is ready; what `serving_default` takes is not known."""
    async with FakeTfServing(double(), signature="other") as fake:
        backend = TfServingGrpc(fake.grpc_address)
        state = await backend.model_state("double")
        assert (state.ready, state.metadata) == (True, None)
        assert (await backend.infer(request(signature_name="other"), call())).version == 1
        await backend.close()


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (Status("UNAVAILABLE", "Model labels does not init yet."), Cause.NOT_READY),
        (Status("RESOURCE_EXHAUSTED", "OOM when allocating tensor"), Cause.UPSTREAM_FAILED),
        (Status("DEADLINE_EXCEEDED", "session deadline"), Cause.DEADLINE),
        (Status("PERMISSION_DENIED", "no"), Cause.INTERNAL),
        (Status("FAILED_PRECONDITION", "Table not initialized."), Cause.UPSTREAM_REJECTED),
    ],
)
async def test_statuses_of_the_server_itself(
    fake: FakeTfServing, backend: TfServingGrpc, status: Status, cause: Cause
) -> None:
    """What the server says by its status arrives as the cause of the table."""
    fake.then(status)
    assert (await failure(backend.infer(request(), call()))).cause is cause
