"""Tests of gateway.backends.torchserve_rest, beside the contract suite: paths, frame errors, statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.backends.torchserve_rest import TorchServeRest
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
async def backend(fake: FakeTorchServe) -> AsyncIterator[TorchServeRest]:
    """A backend for the fake."""
    backend = TorchServeRest(fake.rest_url, fake.management_url)
    yield backend
    await backend.close()


async def test_versions_go_into_the_path_as_they_are_spelled(fake: FakeTorchServe, backend: TorchServeRest) -> None:
    """Without a version TorchServe's default answers, and says which it is."""
    assert (await backend.infer(request(), call())).version == 2
    assert (await backend.infer(request(version=5), call())).version == 5
    assert fake.paths == ["/predictions/double", "/predictions/double/5.0"]


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("invalid_input", Cause.INVALID_INPUT),
        ("unparseable", Cause.UNPARSEABLE),
        ("unsupported_datatype", Cause.UNSUPPORTED_DATATYPE),
        ("upstream_failed", Cause.UPSTREAM_FAILED),
    ],
)
async def test_an_error_in_the_frame_keeps_its_cause(
    fake: FakeTorchServe, backend: TorchServeRest, cause: str, expected: Cause
) -> None:
    """The handler says what was wrong, in an answer of HTTP 200."""
    fake.frame_error = ("input 'x' has 3 columns; expected 2", cause)
    error = await failure(backend.infer(request(), call()))
    assert error.cause is expected
    assert "expected 2" in error.detail


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (Status(500, "Worker died."), Cause.UPSTREAM_LOST),
        (Status(507, "Out of resources"), Cause.UPSTREAM_FAILED),
        (Status(413, "", ""), Cause.TOO_LARGE),
        (
            Status(400, "Token Authorization failed. Token either incorrect", "InvalidKeyException"),
            Cause.UPSTREAM_BAD_REPLY,
        ),
        (Status(422, "my own words"), Cause.UPSTREAM_REJECTED),
        (Status(302, "", ""), Cause.UPSTREAM_BAD_REPLY),
        (Status(202, "", ""), Cause.UPSTREAM_BAD_REPLY),
    ],
)
async def test_statuses_of_the_server_itself(
    fake: FakeTorchServe, backend: TorchServeRest, status: Status, cause: Cause
) -> None:
    """What TorchServe says by its status arrives as the cause of the table."""
    fake.then(status)
    assert (await failure(backend.infer(request(), call()))).cause is cause


async def test_names_are_percent_encoded(fake: FakeTorchServe, backend: TorchServeRest) -> None:
    """A name with a slash does not become a version."""
    error = await failure(backend.infer(request("double/5.0"), call()))
    assert error.cause is Cause.MODEL_NOT_FOUND
    assert fake.paths == ["/predictions/double%2F5.0"]
