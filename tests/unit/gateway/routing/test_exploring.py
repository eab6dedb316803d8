"""The health watch as it discovers, and the router as its table is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import DEFAULT_SIGNATURE, InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.observer import NullObserver
from gateway.routing.discovery import Discovery, Plan
from gateway.routing.endpoint import Endpoint, Status, Target, judge
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Route, RouteTable
from tests.builders import FakeBackend, context, contract, doubled, request

METADATA = contract().metadata((1,))
SERVED = ModelState((1,), METADATA)
INTS = replace(METADATA, inputs=(TensorSpec("x", "INT64", (-1, 2)),))


class World:
    """A router over two endpoints, of which everything is discovered."""

    def __init__(self, *, lists: bool = True) -> None:
        self.a = FakeBackend(has={"m": SERVED}, lists=lists)
        self.b = FakeBackend(has={})
        self.endpoints = {
            "a": Endpoint("a", "tfserving", self.a),
            "b": Endpoint("b", "oip", self.b),
        }
        self.health = HealthMonitor(
            self.endpoints.values(), observer=NullObserver(), interval_s=0.002, retry_interval_s=0.001
        )
        self.router = Router(RouteTable({}), self.endpoints, self.health)
        self.health.discover(Discovery(Plan({}, {"a": None, "b": None})), self.router.replace)

    async def checked(self) -> World:
        for endpoint in self.endpoints.values():
            await self.health.check(endpoint)
        return self

    def status(self, endpoint: str, model: str = "m") -> Status:
        return self.health.verdict(model, Target(endpoint, model)).status

    async def answer(self, model: str = "m") -> InferenceResponse:
        return await self.router.dispatch(request(model=model), context())


async def test_a_discovered_model_answers_after_one_check() -> None:
    """Its verdict comes with the answer that it was discovered by."""
    world = await World().checked()
    assert (await world.answer()).outputs[0].array.tolist() == [[2.0, 4.0]]
    assert world.router.versions("m") == (1,)


async def test_a_server_that_disagrees_is_refused_and_comes_back_when_it_is_right() -> None:
    """Both sides are named; what the other endpoint serves is not touched."""
    world = await World().checked()
    world.b.has = {"m": ModelState((1,), INTS)}
    await world.checked()
    assert (world.status("a"), world.status("b")) == (Status.READY, Status.MISMATCH)
    reason = world.health.verdict("m", Target("b", "m")).reason
    assert reason == (
        "disagrees with the contract, which is what endpoint 'a' says: input 'x': the contract has FP32 [-1, 2], "
        "the server INT64 [-1, 2]"
    )
    world.b.has = {"m": SERVED}
    await world.checked()
    assert world.status("b") is Status.READY


async def test_the_contract_follows_the_server_that_it_was_made_of() -> None:
    """A new version with other tensors is answered as it is."""
    world = await World().checked()
    assert world.a.has is not None
    world.a.has["m"] = ModelState((2,), INTS)
    await world.checked()
    assert world.router.route("m").main.inputs[0].datatype == "INT64"
    assert world.status("a") is Status.READY


async def test_a_list_that_cannot_be_had_is_told_once_and_takes_nothing_away(caplog: pytest.LogCaptureFixture) -> None:
    """The models that were known are watched as before."""
    world = await World().checked()
    listing = world.a.models

    async def refused() -> tuple[str, ...] | None:
        raise GatewayError(Cause.INTERNAL, "token refused")

    world.a.models = refused  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        await world.checked()
        await world.checked()
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint a: its models cannot be listed: token refused"
    ]
    assert world.health.trouble("a") == "its models cannot be listed: token refused"
    assert world.status("a") is Status.READY
    world.a.models = listing  # type: ignore[method-assign]
    await world.checked()
    assert world.health.trouble("a") == ""


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[None]:
    """The body runs while the endpoints are watched."""
    watch = asyncio.create_task(world.health.run())
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_a_model_that_no_list_has_is_looked_for_when_it_is_asked_for() -> None:
    """Until it is found its clients are told to ask again, and of one that is nowhere that it is unknown."""
    world = World(lists=False)
    with pytest.raises(GatewayError, match="unknown model 'm'"):
        world.router.route("m")
    await world.checked()
    for name in ("m", "nope"):
        with pytest.raises(GatewayError, match="is being looked for") as caught:
            world.router.resolve(ModelSpec(name))
        assert (caught.value.cause, caught.value.retry_after_s) == (Cause.NOT_READY, 1.0)
    async with watched(world), asyncio.timeout(5):
        while world.status("a") is not Status.READY:
            await asyncio.sleep(0)
    assert world.router.versions("m") == (1,)
    with pytest.raises(GatewayError, match="unknown model 'nope'"):
        world.router.route("nope")


async def test_a_request_under_way_ends_by_the_table_it_began_with() -> None:
    """Replacing the table changes what is routed from now on, and nothing else."""
    world = await World().checked()
    world.a.hold = asyncio.Event()
    answering = asyncio.create_task(world.answer())
    while not world.a.requests:
        await asyncio.sleep(0)
    world.router.replace(RouteTable({}))
    world.a.hold.set()
    assert (await answering).model == "m"
    with pytest.raises(GatewayError, match="unknown model 'm'"):
        await world.answer()


async def test_a_replaced_table_is_judged_by_what_was_heard() -> None:
    """A route to servers that have been asked is ready at once; one to servers that have not is not."""
    world = await World().checked()
    targets = (Target("a", "m"), Target("b", "m"))
    world.router.replace(RouteTable({"other": Route.of(contract("other"), targets)}))
    assert world.health.verdict("other", targets[0]).status is Status.READY
    assert world.health.verdict("other", targets[1]).status is Status.UNVERIFIED
    assert world.health.verdict("m", Target("a", "m")).status is Status.UNVERIFIED


async def test_an_answer_is_checked_by_the_contract_of_its_signature() -> None:
    """And the server is told the signature, unless it is the default one."""
    ints = replace(contract(), outputs=(TensorSpec("y", "INT64", (-1, 2)),))
    world = World()
    route = Route({DEFAULT_SIGNATURE: contract(), "ints": ints}, (Target("a", "m"),))
    world.router.replace(RouteTable({"doubler": route}))
    world.a.has = {"m": ModelState((1,), METADATA, {"ints": ints.metadata((1,))})}
    await world.health.check(world.endpoints["a"])
    world.router.replace(RouteTable({"doubler": route}))

    def asked(signature: str) -> InferenceRequest:
        spec = world.router.resolve(ModelSpec("doubler", signature_name=signature))
        return replace(request(), model=spec)

    assert (await world.router.dispatch(asked(DEFAULT_SIGNATURE), context())).outputs[0].datatype == "FP32"
    assert world.a.requests[-1].model.signature_name is None
    with pytest.raises(GatewayError, match=r"output 'y' is FP32 \[1, 2\]; the contract says INT64"):
        await world.router.dispatch(asked("ints"), context())
    assert world.a.requests[-1].model.signature_name == "ints"
    world.a.answer = lambda sent: replace(doubled(sent), outputs=())
    with pytest.raises(GatewayError, match="output 'y' is missing"):
        await world.router.dispatch(asked("ints"), context())


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ModelState((1,), METADATA), "signature 'ints': the contract has it, the server has 'serving_default'"),
        (
            ModelState((1,), METADATA, {"ints": METADATA}),
            "signature 'ints', input 'x': the contract has INT64 [-1, 2], the server FP32 [-1, 2]",
        ),
    ],
)
def test_every_signature_is_judged(state: ModelState, reason: str) -> None:
    """A server that lacks one, or has it otherwise, disagrees with the contract."""
    contracts = {DEFAULT_SIGNATURE: contract(), "ints": replace(contract(), inputs=INTS.inputs)}
    verdict = judge(contracts, Target("a", "m"), state)
    assert (verdict.status, verdict.reason) == (Status.MISMATCH, f"disagrees with the contract: {reason}")


def test_a_model_without_the_contracts_signature_disagrees() -> None:
    """Whoever names no signature would be refused by it."""
    verdict = judge({DEFAULT_SIGNATURE: contract()}, Target("a", "m"), ModelState((1,), None, {"ints": INTS}))
    assert verdict.status is Status.MISMATCH
    assert "signature 'serving_default': the contract has it, the server has 'ints'" in verdict.reason
