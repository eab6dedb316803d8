"""Requests on the way without coroutines end as on the general way, and count the same."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field

import pytest

from gateway.batching.entries import Entry
from gateway.core.backend import Cancel, Done, Outcome, into
from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import NullObserver
from gateway.dataplane import DataPlane, Flying
from gateway.resilience.deadline import deadline
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Route, RouteTable, Traffic
from gateway.stacks import EndpointStack
from tests.builders import FakeBackend, contract, doubled, request


@dataclass
class Counts(NullObserver):
    """What was counted, in order."""

    told: list[object] = field(default_factory=list)
    slots: tuple[int, int] = (0, 0)

    def attempt_finished(self, *, model: str, endpoint: str, stack: str, cause: Cause | None, seconds: float) -> None:
        self.told.append(("attempt", cause))

    def queue_left(self, *, endpoint: str, model: str, seconds: float) -> None:
        self.told.append("queue")

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        self.told.append(("sent", requests))

    def retried(self, *, model: str, outcome: str) -> None:
        self.told.append(("retry", outcome))

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        self.slots = busy, queued


class Server(FakeBackend):
    """A model server that answers when it is told to, asked in either form."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[tuple[InferenceRequest, Done]] = []
        self.cancelled = 0
        # What cannot be written in the server's protocol fails before it is sent.
        self.cannot_write: float | None = None

    def _write(self, request: InferenceRequest) -> None:
        if request.inputs[0].array[0, 0] == self.cannot_write:
            raise GatewayError(Cause.UNSUPPORTED_DATATYPE, "as told")

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        self._write(request)
        answer: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        self.pending.append((request, into(answer)))
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def start(self, request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
        self._write(request)
        self.pending.append((request, done))

        def cancel() -> None:
            self.cancelled += 1
            done(asyncio.CancelledError())

        return cancel

    async def end(self, outcome: Outcome | None = None) -> None:
        """Ends the oldest call, with what the model answers unless told otherwise."""
        await settled()
        asked, done = self.pending.pop(0)
        done(doubled(asked) if outcome is None else outcome)
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class World:
    """One model on one server, asked in one of two ways."""

    def __init__(self, way: str, *, queue: int = 2, traffic: Traffic | None = None) -> None:
        self.way = way
        self.server = Server()
        self.counts = Counts()
        self.clock = SystemClock()
        self.stack = EndpointStack("e", "tfserving", slots=1, queue=queue, clock=self.clock, observer=self.counts)
        self.endpoint = Endpoint("e", "tfserving", self.server, self.stack)
        self.health = HealthMonitor([self.endpoint], observer=self.counts)
        route = Route.of(contract(), (Target("e", "doubler"),), traffic=traffic or Traffic())
        self.router = Router(
            RouteTable({"doubler": route}), {"e": self.endpoint}, self.health, clock=self.clock, observer=self.counts
        )
        self.plane = DataPlane(self.router, deadline(self.clock), clock=self.clock)
        self.flying: list[Flying] = []
        self.contexts: list[CallContext] = []

    def ask(self, values: object = ((1.0, 2.0),), seconds: float = 30.0) -> asyncio.Future[InferenceResponse]:
        """The answer that is to come."""
        context = CallContext("id", "predict", self.clock.now() + seconds, "caller")
        self.contexts.append(context)
        if self.way == "general":
            return asyncio.ensure_future(self.plane.infer(request(values), context))
        answer: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        flying = self.plane.begin(request(values), context, into(answer))
        assert flying is not None, "it went the general way"
        self.flying.append(flying)
        return answer

    def quiet(self) -> bool:
        """Whether nothing is under way, as far as anybody counts."""
        loads = [path.load.outstanding for path in self.router._prepared["doubler"].every]
        return (self.counts.slots, self.router.under_way.count, loads) == ((0, 0), 0, [0])


@pytest.fixture(params=["general", "straight"])
async def world(request: pytest.FixtureRequest) -> World:
    """In both ways."""
    world = World(request.param)
    await world.health.check_all()
    return world


async def cause_of(answer: asyncio.Future[InferenceResponse]) -> Cause:
    with pytest.raises(GatewayError) as raised:
        await answer
    return raised.value.cause


async def test_an_answer_says_what_gave_it(world: World) -> None:
    """And is counted as one call."""
    answer = world.ask()
    await world.server.end()
    response = await answer
    assert response.outputs[0].array.tolist() == [[2.0, 4.0]]
    assert response.served_by == world.contexts[0].served_by
    assert (response.version, str(response.served_by and response.served_by.endpoint)) == (1, "e")
    assert sorted(map(str, world.counts.told)) == sorted(map(str, ["queue", ("sent", 1), ("attempt", None)]))
    assert "upstream" in world.contexts[0].timings.seconds
    assert world.quiet()


@pytest.mark.parametrize(
    ("error", "cause", "retry"),
    [
        (GatewayError(Cause.UPSTREAM_LOST, "as told"), Cause.UPSTREAM_LOST, []),
        (GatewayError(Cause.UPSTREAM_UNREACHABLE, "as told"), Cause.UPSTREAM_UNREACHABLE, [("retry", "candidates")]),
        (GatewayError(Cause.UPSTREAM_REJECTED, "as told"), Cause.UPSTREAM_REJECTED, []),
    ],
)
async def test_a_failure_is_told_as_it_is(world: World, error: GatewayError, cause: Cause, retry: list[object]) -> None:
    """With the server that it came from, and why it was not tried elsewhere."""
    answer = world.ask()
    await world.server.end(error)
    assert await cause_of(answer) is cause
    assert world.contexts[0].served_by is not None
    assert world.counts.told[2:] == [("attempt", cause), *retry]
    assert world.quiet()


async def test_a_bug_is_no_failure_of_the_servers(world: World) -> None:
    """It is counted as INTERNAL, and comes out as it is."""
    answer = world.ask()
    await world.server.end(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await answer
    assert world.counts.told[2:] == [("attempt", Cause.INTERNAL)]
    assert world.quiet()


async def test_a_reply_that_breaks_the_contract_is_the_servers_fault(world: World) -> None:
    """Also where it comes without a coroutine."""
    answer = world.ask()
    await world.server.end(InferenceResponse("doubler", 1, ()))
    assert await cause_of(answer) is Cause.UPSTREAM_BAD_REPLY
    assert world.quiet()


async def test_what_waits_travels_together(world: World) -> None:
    """Each gets its own rows."""
    first, *others = [world.ask([[value, value]]) for value in (1.0, 2.0, 3.0)]
    await world.server.end()
    await world.server.end()
    answers = [await answer for answer in (first, *others)]
    assert [answer.outputs[0].array.tolist() for answer in answers] == [[[2.0, 2.0]], [[4.0, 4.0]], [[6.0, 6.0]]]
    assert ("sent", 2) in world.counts.told
    assert world.quiet()


async def test_a_batch_leaves_nothing_for_the_garbage_collector(world: World) -> None:
    """Its members, with all that they hold, are gone as soon as they are answered."""
    gc.collect()
    gc.disable()
    try:
        answers = [world.ask([[value, value]]) for value in (1.0, 2.0, 3.0)]
        await world.server.end()
        await world.server.end()
        assert all([(await answer).outputs for answer in answers])
        world.flying.clear()
        assert [item for item in gc.get_objects() if type(item) is Entry] == []
    finally:
        gc.enable()


async def test_a_full_queue_refuses_what_comes_next(world: World) -> None:
    """It was not sent, so that nobody is said to have failed it."""
    answers = [world.ask() for _ in range(3)]
    await settled()
    assert await cause_of(world.ask()) is Cause.OVERLOADED
    assert world.contexts[-1].served_by is None
    await world.server.end()
    await world.server.end()
    assert all([(await answer).outputs for answer in answers])
    assert world.quiet()


async def test_a_batch_that_blames_a_member_is_asked_one_by_one(world: World) -> None:
    """As whoever sent it."""
    answers = [world.ask([[value, value]]) for value in (1.0, 2.0, 3.0)]
    await world.server.end()
    await world.server.end(GatewayError(Cause.UPSTREAM_REJECTED, "one of them"))
    await world.server.end(GatewayError(Cause.UPSTREAM_REJECTED, "this one"))
    await world.server.end()
    assert await cause_of(answers[1]) is Cause.UPSTREAM_REJECTED
    assert (await answers[2]).outputs[0].array.tolist() == [[6.0, 6.0]]
    await answers[0]
    assert world.quiet()


async def test_an_open_breaker_refuses(world: World) -> None:
    """After as many failures as on the other way, before anything is sent."""
    for _ in range(5):
        answer = world.ask()
        await world.server.end(GatewayError(Cause.UPSTREAM_LOST, "as told"))
        assert await cause_of(answer) is Cause.UPSTREAM_LOST
    world.way = "general"
    assert await cause_of(world.ask()) is Cause.NOT_READY
    assert not world.server.pending
    assert world.quiet()


async def test_a_deadline_ends_the_call(world: World) -> None:
    """The call under way is cancelled, and so is the one that waits."""
    answers = [world.ask(seconds=0.02), world.ask(seconds=0.02)]
    assert [await cause_of(answer) for answer in answers] == [Cause.DEADLINE] * 2
    await settled()
    assert world.server.cancelled == 1
    assert world.quiet()


async def test_a_request_may_be_given_up() -> None:
    """Whether it is under way, waits, or travels with others that go on."""
    world = World("straight")
    await world.health.check_all()
    gone = GatewayError(Cause.CLIENT_GONE, "as told")
    answers = [world.ask([[value, value]]) for value in (1.0, 2.0, 3.0)]
    world.flying[0].end(gone)
    assert await cause_of(answers[0]) is Cause.CLIENT_GONE
    world.flying[1].end(gone)
    world.flying[1].end(gone)
    assert await cause_of(answers[1]) is Cause.CLIENT_GONE
    assert world.counts.slots == (1, 0)
    world.server.pending.pop(0)
    await world.server.end()
    assert (await answers[2]).outputs[0].array.tolist() == [[6.0, 6.0]]
    assert world.server.cancelled == 1
    assert world.quiet()


async def test_a_request_that_was_sent_may_be_given_up_after_it_waited() -> None:
    """Its caller hears its own reason, not that of the call's end."""
    world = World("straight")
    await world.health.check_all()
    first, left, late = world.ask([[1.0, 1.0]]), world.ask([[2.0, 2.0]]), world.ask([[3.0, 3.0]], seconds=0.05)
    world.flying[1].end(GatewayError(Cause.CLIENT_GONE, "as told"))
    another = world.ask([[4.0, 4.0]])
    await world.server.end()
    await first
    world.flying[-1].end(GatewayError(Cause.CLIENT_GONE, "as told"))
    assert [await cause_of(answer) for answer in (left, another)] == [Cause.CLIENT_GONE] * 2
    assert await cause_of(late) is Cause.DEADLINE
    assert world.server.cancelled == 1
    assert world.quiet()


@pytest.mark.parametrize("way", ["general", "straight"])
async def test_many_calls_that_end_before_they_begin_leave_nothing_behind(way: str) -> None:
    """However many wait for one slot, each hears its end, and the slot comes back."""
    world = World(way, queue=256, traffic=Traffic(batching=None))
    await world.health.check_all()
    world.server.cannot_write = -1.0
    good, bad = world.ask(), [world.ask([[-1.0, 0.0]]) for _ in range(250)]
    await world.server.end()
    await good
    assert {await cause_of(answer) for answer in bad} == {Cause.UNSUPPORTED_DATATYPE}
    assert world.quiet()


async def test_what_has_a_choice_goes_the_general_way() -> None:
    """A version, a selection, a trace, a deadline that is over: nothing is counted before that is known."""
    world = World("straight")
    await world.health.check_all()
    context = CallContext("id", "predict", world.clock.now() + 30.0, "caller")
    assert world.plane.begin(request(version=1), context, lambda _: None) is None
    context.deadline = 0.0
    with pytest.raises(GatewayError, match="deadline had passed"):
        world.plane.begin(request(), context, lambda _: None)
    assert not world.counts.told
    assert world.quiet()
