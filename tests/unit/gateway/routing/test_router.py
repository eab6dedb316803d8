"""Which endpoint answers, which is tried next, and which is never asked: routes over fake model servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.backend import ModelState
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse, Selection
from gateway.routing.endpoint import Target
from gateway.routing.table import Batching, Mirroring
from tests.builders import context, request, selected, tensor
from tests.unit.gateway.routing.world import ALL, World, failing


async def test_failover_takes_the_first_fit_target_of_the_first_stack() -> None:
    """The other stack is asked only where the route says so."""
    world = await World().verified()
    assert await world.ask() == "ts"
    world.backends["ts"].reachable = False
    await world.verified()
    assert await world.ask() == "ts2"
    world.backends["ts2"].reachable = False
    await world.verified()
    assert await world.refusal() is Cause.NOT_READY
    world.route(tuple(Target(name, "doubler") for name in ALL), cross_stack=True)
    assert await world.ask() == "tf"


async def test_pinned_never_leaves_its_target() -> None:
    """Neither for an unfit one nor for a retry; a client's own choice comes before it."""
    world = await World(policy="pinned", cross_stack=True).verified()
    assert await world.ask() == "ts"
    assert await world.ask(request(selection=selected(stack="tfserving"))) == "tf"
    world.backends["ts"].answer = failing(Cause.UPSTREAM_UNREACHABLE)
    assert await world.refusal() is Cause.UPSTREAM_UNREACHABLE
    assert world.sent == {"ts": 2, "tf": 1}


@pytest.mark.parametrize("chosen", [selected(stack="tfserving"), selected(endpoint="tf")], ids=["stack", "endpoint"])
async def test_a_clients_choice_is_never_overridden(chosen: Selection) -> None:
    """Whatever the policy, and though the route may cross stacks: an endpoint's failure is told."""
    world = await World("ts", "tf", policy="round_robin", cross_stack=True).verified()
    assert {await world.ask(request(selection=chosen)) for _ in range(4)} == {"tf"}
    world.backends["tf"].answer = failing(Cause.UPSTREAM_UNREACHABLE)
    assert await world.refusal(request(selection=chosen)) is Cause.UPSTREAM_UNREACHABLE
    assert "ts" not in world.sent


async def test_weights_choose_the_stack_and_failover_stays_in_it() -> None:
    """A tenth of the requests belongs to the other stack, also while that is down."""
    targets = (Target("ts", "doubler", weight=90), Target("tf", "doubler", weight=10))
    world = World()
    world.route(targets, policy="weighted")
    await world.verified()
    for _ in range(500):
        await world.ask()
    assert 25 <= world.sent["tf"] <= 80
    world.backends["tf"].reachable = False
    await world.verified()
    outcomes = [await _outcome(world) for _ in range(300)]
    assert 10 <= outcomes.count("not_ready") <= 60
    world.route(targets, policy="weighted", cross_stack=True)
    assert {await _outcome(world) for _ in range(100)} == {"ts"}


async def test_sticky_goes_by_header_and_else_by_digest() -> None:
    """One caller, one target; one input, one target."""
    world = await World(policy="sticky", cross_stack=True, sticky_header="x-user").verified()
    assert world.router.kept_headers == {"x-user"}

    def call(user: str) -> CallContext:
        return replace(context(), headers={"x-user": user})

    homes = {user: {await world.ask(request([[n, n]]), call(user)) for n in range(5)} for user in "abcdefgh"}
    assert all(len(places) == 1 for places in homes.values())
    assert len({place for places in homes.values() for place in places}) > 1
    assert len({await world.ask(request([[3.0, 4.0]])) for _ in range(5)}) == 1
    assert len({await world.ask(request([[n, 0.0]])) for n in range(40)}) > 1


async def test_least_request_keeps_away_from_the_busy() -> None:
    """A target with requests under way loses against an idle one."""
    world = await World("ts", "ts2", policy="least_request").verified()
    world.backends["ts"].hold = asyncio.Event()
    waiting = [asyncio.create_task(world.ask(request(selection=selected(endpoint="ts")))) for _ in range(3)]
    await asyncio.sleep(0)
    assert {await world.ask() for _ in range(10)} == {"ts2"}
    world.backends["ts"].hold.set()
    await asyncio.gather(*waiting)


async def test_versions_are_targets_too() -> None:
    """A request for a version goes to the target that has it; one without goes by weight."""
    world = World()
    for backend in world.backends.values():
        backend.state = ModelState((2, 1))
    world.route(
        (Target("ts", "doubler", 1, weight=1), Target("ts", "doubler", 2, weight=1)), policy="weighted", batching=None
    )
    await world.verified()
    for _ in range(40):
        await world.ask()
    assert {asked.model.version for asked in world.backends["ts"].requests} == {1, 2}
    world.backends["ts"].requests.clear()
    for _ in range(20):
        await world.ask(request(version=2))
    assert {asked.model.version for asked in world.backends["ts"].requests} == {2}
    assert await world.refusal(request(version=3)) is Cause.VERSION_NOT_FOUND


async def test_what_was_not_processed_is_tried_once_more_elsewhere() -> None:
    """In the same stack; the client never learns of it."""
    world = await World().verified()
    world.backends["ts"].answer = failing(Cause.UPSTREAM_UNREACHABLE)
    assert await world.ask() == "ts2"
    assert world.sent == {"ts": 1, "ts2": 1}
    assert world.counts.retries == []


@pytest.mark.parametrize(
    "cause",
    [Cause.UPSTREAM_LOST, Cause.UPSTREAM_BAD_REPLY, Cause.UPSTREAM_FAILED, Cause.UPSTREAM_REJECTED, Cause.DEADLINE],
)
async def test_what_may_have_been_processed_is_never_sent_again(cause: Cause) -> None:
    """It may be what killed the server."""
    world = await World(cross_stack=True).verified()
    world.backends["ts"].answer = failing(cause)
    assert await world.refusal() is cause
    assert world.sent == {"ts": 1}


async def test_a_second_failure_is_told() -> None:
    """Two attempts at most, however many endpoints there are."""
    world = await World(cross_stack=True).verified()
    for backend in world.backends.values():
        backend.answer = failing(Cause.UPSTREAM_UNREACHABLE)
    assert await world.refusal() is Cause.UPSTREAM_UNREACHABLE
    assert sum(world.sent.values()) == 2
    assert world.counts.retries == ["sent"]


async def test_retries_have_a_budget_counted_in_calls() -> None:
    """With a dead endpoint the servers see at most a fifth more calls than there are requests."""
    world = await World("ts", "ts2").verified()
    for name in ("ts", "ts2"):
        world.backends[name].answer = failing(Cause.OVERLOADED)
    for _ in range(200):
        assert await world.refusal() is Cause.OVERLOADED
    assert sum(world.sent.values()) <= 1.2 * 200
    assert "budget" in world.counts.retries


async def test_one_attempt_is_one_attempt() -> None:
    """`max_attempts: 1` turns retrying off."""
    world = await World(max_attempts=1).verified()
    world.backends["ts"].answer = failing(Cause.UPSTREAM_UNREACHABLE)
    assert await world.refusal() is Cause.UPSTREAM_UNREACHABLE
    assert world.sent == {"ts": 1}


async def test_a_request_ends_on_the_route_it_started_on() -> None:
    """A table that is replaced meanwhile is for the next one."""
    world = await World("ts").verified()
    world.backends["ts"].hold = asyncio.Event()
    started = asyncio.create_task(world.ask())
    await asyncio.sleep(0)
    world.route((Target("tf", "doubler"),))
    await world.verified()
    assert await world.ask() == "tf"
    world.backends["ts"].hold.set()
    assert await started == "ts"


async def test_waiting_requests_travel_together() -> None:
    """What queues while the only slot is busy is one call, within the contract's rows."""
    world = await World("ts", slots=1, batching=Batching(4)).verified()
    world.backends["ts"].hold = asyncio.Event()
    tasks = [asyncio.create_task(world.router.dispatch(request([[n, n]], id=str(n)), context())) for n in range(6)]
    await asyncio.sleep(0)
    world.backends["ts"].hold.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.outputs[0].array.tolist() for answer in answers] == [[[2.0 * n, 2.0 * n]] for n in range(6)]
    assert [answer.id for answer in answers] == [str(n) for n in range(6)]
    assert [len(call.inputs[0].array) for call in world.backends["ts"].requests] == [1, 4, 1]


async def test_compare_asks_everybody_and_answers_with_the_first() -> None:
    """Each target's outputs, time and distance, or its error; other doors get the first one's answer alone."""
    world = await World("ts", "tf", "tf2", policy="compare").verified()
    world.backends["tf"].answer = lambda asked: InferenceResponse(
        "doubler", 1, (tensor("y", asked.inputs[0].array * 2.5),)
    )
    world.backends["tf2"].answer = failing(Cause.UPSTREAM_LOST)
    response = await world.router.dispatch(request([[1.0, 2.0]]), context())
    assert response.outputs[0].array.tolist() == [[2.0, 4.0]]
    assert response.served_by is not None
    assert response.served_by.endpoint == "ts"
    first, second, third = response.comparison
    assert (first.endpoint, first.max_abs, first.agrees) == ("ts", 0.0, True)
    assert (second.endpoint, second.max_abs, second.agrees) == ("tf", 1.0, False)
    assert (third.endpoint, third.response, third.cause) == ("tf2", None, Cause.UPSTREAM_LOST)
    other_door = replace(context(), protocol="oip-rest")
    assert (await world.router.dispatch(request(), other_door)).comparison == ()


async def test_a_mirror_gets_its_share_and_changes_nothing() -> None:
    """Copies go to an endpoint that is fit; the client's answer is the primary's."""
    world = World("ts", mirror=Mirroring(Target("tf", "doubler"), 1.0))
    assert await _outcome(world) == "not_ready"
    await world.verified()
    assert [await world.ask() for _ in range(3)] == ["ts"] * 3
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.sent == {"ts": 3, "tf": 3}
    assert world.counts.mirrored == ["ok"] * 3
    assert world.router.mirrors()["doubler"].outcomes == {"ok": 3}
    world.backends["tf"].reachable = False
    await world.verified()
    await world.ask()
    assert world.sent["tf"] == 3
    await world.router.close()


async def test_a_route_explains_itself() -> None:
    """Every target in the order of the draw, with what keeps it from answering."""
    world = World("ts", "ts2", "tf")
    world.backends["ts"].reachable = False
    await world.verified()
    told = {target.endpoint: why for target, why in world.router.explain(request(), context())}
    assert told["ts"].startswith("not fit: unverified: does not answer")
    assert told["ts2"] == "fit"
    assert told["tf"].startswith("not tried")


async def _outcome(world: World) -> str:
    try:
        return await world.ask()
    except GatewayError as exc:
        return exc.cause.value
