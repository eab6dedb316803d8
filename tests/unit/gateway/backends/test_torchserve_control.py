"""Tests of gateway.backends.torchserve_control: versions and their spelling, and what a refusal meant."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.backends.errors import TakesNoWorkError
from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve_control import TorchServeControl
from gateway.core.errors import Cause
from gateway.core.messages import ModelSpec
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import double
from tests.unit.gateway.backends.support import failure

REFUSED = TakesNoWorkError('Model "double" has no worker to serve inference request.')


@pytest.fixture
async def fake() -> AsyncIterator[FakeTorchServe]:
    """A server with versions 1, 2 and 3 of `double`."""
    async with FakeTorchServe(double(versions=(1, 2, 3))) as fake:
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[HttpPool]:
    """A pool of connections."""
    pool = HttpPool(server="TorchServe")
    yield pool
    await pool.close()


@pytest.fixture
def control(fake: FakeTorchServe, http: HttpPool) -> TorchServeControl:
    """Questions to the fake."""
    return TorchServeControl(http, fake.rest_url, fake.management_url)


async def test_integer_versions_are_listed_newest_first(fake: FakeTorchServe, control: TorchServeControl) -> None:
    """`N` and `N.0` are the integer N; any other string is no version here."""
    fake.spellings = {1: "1.0", 2: "2024-05a"}
    assert (await control.model_state("double")).versions == (3, 1)
    assert await control.spelling("double", 1, 5) == "1.0"
    assert await control.spelling("double", 3, 5) == "3"


async def test_the_plain_spelling_wins(fake: FakeTorchServe, control: TorchServeControl) -> None:
    """Where `2.0` and `2` are both registered, 2 means `2`."""
    for spellings in ({1: "2.0", 2: "2"}, {1: "2", 2: "2.0"}):
        fake.spellings = spellings
        assert (await control.model_state("double")).versions == (3, 2)
        assert await control.spelling("double", 2, 5) == "2"


async def test_only_versions_with_a_ready_worker_answer(fake: FakeTorchServe, control: TorchServeControl) -> None:
    """A loading worker shows UNLOADING; one READY worker among several is enough."""
    fake.workers = ["UNLOADING"]
    assert not (await control.model_state("double")).ready
    fake.workers = []
    assert not (await control.model_state("double")).ready
    fake.workers = ["UNLOADING", "READY"]
    assert (await control.model_state("double")).ready


async def test_spellings_are_asked_once_and_renewed_with_the_state(
    fake: FakeTorchServe, control: TorchServeControl
) -> None:
    """Inference asks the management port at most once per model; the state's poll keeps the answer fresh."""
    assert [await control.spelling("double", 1, 5) for _ in range(3)] == ["1", "1", "1"]
    assert fake.calls["describe"] == 1
    fake.spellings = {1: "1.0"}
    await control.model_state("double")
    assert await control.spelling("double", 1, 5) == "1.0"


async def test_an_unknown_version_is_spelled_plainly(control: TorchServeControl) -> None:
    """TorchServe itself says best that it does not have it."""
    assert await control.spelling("double", 99, 5) == "99"
    assert await control.spelling("nope", 1, 5) == "1"


async def test_inference_does_not_need_the_management_port(fake: FakeTorchServe, control: TorchServeControl) -> None:
    """Without it versions are spelled plainly, and a refusal stays NOT_READY, which is not tried again."""
    await fake.management_relay.close()
    assert await control.spelling("double", 1, 5) == "1"
    assert (await control.refusal(ModelSpec("double"), REFUSED, 5)).cause is Cause.NOT_READY


@pytest.mark.parametrize("version", [None, 2])
async def test_a_refusal_is_told_apart_by_the_workers(
    fake: FakeTorchServe, control: TorchServeControl, version: int | None
) -> None:
    """With a ready worker it was the queue; without one there is nobody to answer, however many are starting."""
    spec = ModelSpec("double", version=version)
    assert (await control.refusal(spec, REFUSED, 5)).cause is Cause.OVERLOADED
    for workers in ([], ["UNLOADING"]):
        fake.workers = workers
        assert (await control.refusal(spec, REFUSED, 5)).cause is Cause.NOT_READY


async def test_the_version_is_that_of_the_api_description(http: HttpPool) -> None:
    """Where it states none, the configured name counts."""
    async with FakeTorchServe(api_version=None) as fake:
        for configured, name in ((None, "TorchServe (version not stated)"), ("TorchServe 0.11.1", "TorchServe 0.11.1")):
            control = TorchServeControl(http, fake.rest_url, fake.management_url, server=configured)
            assert await control.server() == name
        fake.api_version = "0.12.0"
        assert await control.server() == "TorchServe 0.12.0"


async def test_ports_that_are_mixed_up_are_named(http: HttpPool, fake: FakeTorchServe) -> None:
    """The management port in place of the inference port, the other way round, and another server altogether."""
    swapped = TorchServeControl(http, fake.management_url, fake.rest_url)
    assert (await failure(swapped.server())).cause is Cause.UPSTREAM_BAD_REPLY
    error = await failure(swapped.model_state("double"))
    assert error.cause is Cause.UPSTREAM_BAD_REPLY
    async with FakeTfServing(double()) as other:
        control = TorchServeControl(http, other.rest_url, other.rest_url)
        assert (await failure(control.server())).cause is Cause.UPSTREAM_BAD_REPLY


async def test_models_are_listed_page_by_page(fake: FakeTorchServe, control: TorchServeControl) -> None:
    """Until the last one, which has no token for another."""
    fake.models |= {name: double(name) for name in ("a", "b", "c")}
    fake.page = 3
    assert await control.models() == ("a", "b", "c", "double")
    assert fake.calls["list"] == 2
