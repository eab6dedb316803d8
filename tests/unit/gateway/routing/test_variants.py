"""Targets that answer only by name: never by policy, failover or retry, and each for itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.backend import ModelState
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.routing.endpoint import Target
from tests.builders import context, doubled, request, selected
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
