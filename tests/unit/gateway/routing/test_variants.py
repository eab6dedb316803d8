"""Targets that answer only by name: never by policy, failover or retry, and each for itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.backend import ModelState
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.routing.endpoint import Target
from tests.builders import context, doubled, request, selected, tensor
from tests.unit.gateway.routing.test_router import World, failing

POLICIES = ("compare", "failover", "fastest", "least_request", "pinned", "round_robin", "sticky", "weighted")
INT8 = Target("ts", "doubler-int8", variant="int8", by_name=True)


@pytest.mark.parametrize("policy", POLICIES)
async def test_what_answers_by_name_is_never_chosen_by_a_policy(policy: str) -> None:
    """Neither first nor as a way out, wherever it is listed: its answers may be another datatype's."""
    world = await World().verified()
    world.route((INT8, Target("ts2", "doubler"), replace(INT8, endpoint="tf")), policy=policy, cross_stack=True)
    await world.verified()
    assert [await world.ask() for _ in range(4)] == ["ts2"] * 4
    world.backends["ts2"].answer = failing(Cause.UPSTREAM_UNREACHABLE)
    assert await world.refusal() is Cause.UPSTREAM_UNREACHABLE
    assert set(world.sent) == {"ts2"}


async def test_a_variant_is_asked_under_its_own_name() -> None:
    """The answer names it; the model is ready, and has versions, without it."""
    world = await World().verified()
    world.route((Target("ts", "doubler"), INT8))
    await world.verified()
    response = await world.router.dispatch(request(selection=selected(variant="int8")), context())
    assert response.served_by is not None
    assert (response.model, response.served_by.variant) == ("doubler", "int8")
    assert world.backends["ts"].requests[-1].model.name == "doubler-int8"
    world.backends["ts"].has = {"doubler-int8": ModelState((7,))}
    await world.verified()
    assert world.router.model_ready(ModelSpec("doubler"), selected(variant="int8"))
    assert not world.router.model_ready(ModelSpec("doubler"), selected())
    assert world.router.versions("doubler") == ()


async def test_a_variant_that_fails_opens_its_own_breaker() -> None:
    """The model's others at the same endpoint go on."""
    world = await World().verified()
    world.route((Target("ts", "doubler"), INT8))
    await world.verified()

    def only_the_variant_fails(asked: InferenceRequest) -> InferenceResponse:
        return failing(Cause.UPSTREAM_LOST)(asked) if asked.model.name == INT8.model else doubled(asked)

    world.backends["ts"].answer = only_the_variant_fails
    causes = {await world.refusal(request(selection=selected(variant="int8"))) for _ in range(10)}
    assert Cause.NOT_READY in causes
    assert ("ts", "open") in world.counts.breakers
    assert await world.ask() == "ts"


def quantized(asked: InferenceRequest) -> InferenceResponse:
    """As a network that is quantized dynamically: one scale for all rows of a run."""
    values = asked.inputs[0].array
    scale = np.abs(values).max() / 127
    return InferenceResponse(asked.model.name, 1, (tensor("y", np.round(values / scale) * scale * 2),))


@pytest.mark.parametrize("together", [True, False])
async def test_an_outlier_changes_no_neighbour_where_a_target_does_not_batch(together: bool) -> None:
    """Of targets that do, a waiting request would travel with it, and get another answer than alone."""
    world = await World("ts", slots=1).verified()
    world.route((Target("ts", "doubler"), replace(INT8, batching=together)))
    await world.verified()
    backend = world.backends["ts"]
    backend.answer, backend.hold = quantized, asyncio.Event()

    async def ask(rows: list[list[float]]) -> list[list[float]]:
        response = await world.router.dispatch(request(rows, selection=selected(variant="int8")), context())
        return [[float(value) for value in row] for row in response.outputs[0].array]

    # The first takes the only slot; the others wait together.
    asked = [asyncio.create_task(ask([row])) for row in ([1.0, 2.0], [1.0, 2.0], [1e6, 0.0])]
    for _ in range(5):
        await asyncio.sleep(0)
    backend.hold.set()
    alone, neighbour, _ = await asyncio.gather(*asked)
    assert [len(sent.inputs[0].array) for sent in backend.requests] == ([1, 2] if together else [1, 1, 1])
    assert (neighbour == alone) is not together
