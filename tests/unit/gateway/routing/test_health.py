"""Verdicts on endpoints."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.backend import ModelState
from gateway.core.messages import DEFAULT_SIGNATURE, TensorSpec
from gateway.core.observer import NullObserver
from gateway.routing.endpoint import Endpoint, Status, Target, judge
from gateway.routing.health import HealthMonitor
from gateway.routing.table import Route, RouteTable
from tests.builders import FakeBackend, contract

TARGET = Target("ts", "doubler")


def monitor(backend: FakeBackend, target: Target = TARGET) -> tuple[HealthMonitor, Endpoint]:
    endpoint = Endpoint("ts", "torchserve", backend)
    health = HealthMonitor([endpoint], observer=NullObserver(), interval_s=0.001, retry_interval_s=0.001)
    health.follow(RouteTable({"doubler": Route.of(contract(), (target,))}))
    return health, endpoint


OTHER = replace(contract(), inputs=(TensorSpec("x", "INT64", (-1, 2)),)).metadata((1,))
RENAMED = replace(contract(), inputs=(TensorSpec("image", "FP32", (-1, 2)),)).metadata((1,))


@pytest.mark.parametrize(
    ("target", "state", "status", "reason"),
    [
        (TARGET, ModelState((2, 1)), Status.READY, ""),
        (TARGET, ModelState(()), Status.NOT_READY, "no version"),
        (
            Target("ts", "doubler", version=3),
            ModelState((2, 1)),
            Status.NOT_READY,
            "versions 2, 1 of model 'doubler', not 3",
        ),
        (TARGET, ModelState((1,), contract().metadata((1,))), Status.READY, ""),
        (TARGET, ModelState((1,), OTHER), Status.MISMATCH, "the contract has FP32 [-1, 2], the server INT64 [-1, 2]"),
        (TARGET, ModelState((1,), RENAMED), Status.MISMATCH, "the server has none"),
        (Target("ts", "doubler", names={"x": "image"}), ModelState((1,), RENAMED), Status.READY, ""),
    ],
)
def test_a_servers_word_is_judged_by_the_contract(
    target: Target, state: ModelState, status: Status, reason: str
) -> None:
    """A model is ready where it can answer and its metadata agrees."""
    verdict = judge({DEFAULT_SIGNATURE: contract()}, target, state)
    assert verdict.status is status
    assert reason in verdict.reason


async def test_an_endpoint_is_unverified_until_it_answers() -> None:
    """The gateway starts without it and takes it in when it comes."""
    backend = FakeBackend(reachable=False)
    health, endpoint = monitor(backend)
    assert health.verdict("doubler", TARGET).status is Status.UNVERIFIED
    assert not await health.check(endpoint)
    assert "connection refused" in health.verdict("doubler", TARGET).reason
    backend.reachable = True
    assert await health.check(endpoint)
    assert health.verdict("doubler", TARGET).status is Status.READY
    assert endpoint.server == "fake 1.0"


async def test_the_watch_notices_a_server_that_went_away() -> None:
    """A server that stops answering gets no more requests; one that comes back does."""
    backend = FakeBackend()
    health, _ = monitor(backend)
    watch = asyncio.create_task(health.run())
    try:
        for reachable in (True, False, True):
            backend.reachable = reachable
            wanted = Status.READY if reachable else Status.UNVERIFIED
            async with asyncio.timeout(5):
                while health.verdict("doubler", TARGET).status is not wanted:
                    await asyncio.sleep(0)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_two_versions_on_one_endpoint_have_a_verdict_each() -> None:
    """A route may name the same server twice, with a version each; one verdict never overwrites the other."""
    targets = (Target("ts", "doubler", version=1), Target("ts", "doubler", version=2))
    endpoint = Endpoint("ts", "torchserve", FakeBackend())
    health = HealthMonitor([endpoint], observer=NullObserver())
    health.follow(RouteTable({"doubler": Route.of(contract(), targets)}))
    await health.check(endpoint)
    assert [health.verdict("doubler", target).status for target in targets] == [Status.READY, Status.NOT_READY]


async def test_a_stand_in_is_known_by_its_name() -> None:
    """The mark in the server's name is what every metric and answer shows."""
    health, endpoint = monitor(FakeBackend(name="savedmodel-server 1.0 (stand-in)"))
    await health.check(endpoint)
    assert endpoint.stand_in
