"""Slots, queue and batches of one endpoint."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from gateway.batching.batcher import BLAMES_A_MEMBER, MAYBE_A_MEMBER, Batcher
from gateway.batching.fair_queue import BatchLimits
from gateway.core.backend import Handler
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import NullObserver
from tests.builders import FakeClock, doubled, request

Answer = Callable[[InferenceRequest], InferenceResponse]


class Server:
    """An inner handler whose calls wait until they are let go, oldest first."""

    def __init__(self, answer: Answer = doubled) -> None:
        self.answer = answer
        self.calls: list[InferenceRequest] = []
        self.contexts: list[CallContext] = []
        self.cancelled = 0
        self._waiting: deque[asyncio.Event] = deque()

    @property
    def rows(self) -> list[list[list[float]]]:
        return [call.inputs[0].array.tolist() for call in self.calls]

    async def __call__(self, asked: InferenceRequest, context: CallContext) -> InferenceResponse:
        self.calls.append(asked)
        self.contexts.append(context)
        gate = asyncio.Event()
        self._waiting.append(gate)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.answer(asked)

    async def let_go(self, calls: int = 1) -> None:
        for _ in range(calls):
            self._waiting.popleft().set()
            await settled()


@dataclass
class Counts(NullObserver):
    """Keeps what the batcher tells."""

    slots: list[tuple[int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    orphans: int = 0

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        self.slots.append((busy, queued))

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        self.batches.append(requests)

    def queue_left(self, *, endpoint: str, model: str, seconds: float) -> None:
        self.waits.append(seconds)

    def call_orphaned(self, *, endpoint: str) -> None:
        self.orphans += 1


class Bench:
    """A batcher in front of a server, and requests sent to it."""

    def __init__(
        self, *, slots: int = 1, queue: int = 8, cancels: bool = True, limits: BatchLimits | None = None
    ) -> None:
        self.clock = FakeClock()
        self.counts = Counts()
        self.server = Server()
        self.batcher = Batcher("e", slots=slots, queue=queue, clock=self.clock, observer=self.counts, cancels=cancels)
        self.handler: Handler = self.batcher.coalescing(lambda _: limits or BatchLimits(4, 10_000))(self.server)

    async def send(
        self, value: float, *, caller: str = "a", seconds: float = 60.0, handler: Handler | None = None
    ) -> asyncio.Task[InferenceResponse]:
        call = CallContext(f"r{value:g}", "predict", self.clock.now() + seconds, caller=caller)
        asked = request([[value, -value]], id=f"{value:g}")
        task = asyncio.create_task((handler or self.handler)(asked, call))  # type: ignore[arg-type]
        await settled()
        return task

    async def send_all(self, *values: float) -> list[asyncio.Task[InferenceResponse]]:
        return [await self.send(value) for value in values]

    @property
    def at_rest(self) -> bool:
        return (self.batcher.busy, self.batcher.queued, self.batcher._tasks) == (0, 0, set())


async def settled() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def answer_of(task: asyncio.Task[InferenceResponse]) -> float:
    """The first value of its one row, as the server doubled it."""
    ((first, _),) = task.result().outputs[0].array.tolist()
    return float(first)


def cause_of(task: asyncio.Task[InferenceResponse]) -> Cause:
    error = task.exception()
    assert isinstance(error, GatewayError)
    return error.cause


async def test_a_free_slot_is_used_at_once_and_alone() -> None:
    """Nobody waits for company."""
    bench = Bench(slots=2)
    tasks = await bench.send_all(1, 2)
    assert bench.server.rows == [[[1, -1]], [[2, -2]]]
    await bench.server.let_go(2)
    assert [answer_of(task) for task in tasks] == [2, 4]
    assert bench.counts.batches == [1, 1]
    assert bench.at_rest


async def test_what_queues_goes_out_together_and_comes_back_apart() -> None:
    """Each answer with its own rows, as soon as the slot is free."""
    bench = Bench()
    tasks = await bench.send_all(1, 2, 3, 4)
    await bench.server.let_go()
    assert bench.server.rows == [[[1, -1]], [[2, -2], [3, -3], [4, -4]]]
    await bench.server.let_go()
    assert [answer_of(task) for task in tasks[1:]] == [4, 6, 8]
    assert bench.counts.batches == [1, 3]
    assert bench.at_rest


async def test_a_batch_never_holds_more_rows_than_it_may() -> None:
    """What does not fit goes next."""
    bench = Bench()
    await bench.send_all(1, 2, 3, 4, 5, 6)
    await bench.server.let_go(3)
    assert [len(rows) for rows in bench.server.rows] == [1, 4, 1]
    assert bench.at_rest


async def test_a_target_without_a_batch_dimension_queues_one_by_one() -> None:
    """Slots and queue all the same."""
    bench = Bench()
    handler = bench.batcher(bench.server)
    tasks = [await bench.send(value, handler=handler) for value in (1.0, 2.0, 3.0)]
    await bench.server.let_go(3)
    assert [len(rows) for rows in bench.server.rows] == [1, 1, 1]
    assert all(task.done() for task in tasks)


async def test_targets_of_one_endpoint_share_its_slots_and_do_not_mix() -> None:
    """Two models on one server: one slot, two batches."""
    bench = Bench()
    other = bench.batcher.coalescing(lambda _: BatchLimits(4, 10_000))(bench.server)
    await bench.send_all(1, 2)
    await bench.send(3, handler=other)
    await bench.server.let_go(3)
    assert [len(rows) for rows in bench.server.rows] == [1, 1, 1]


async def test_a_full_queue_refuses_at_once() -> None:
    """As a gate's refusal, of which the router may make an attempt elsewhere."""
    bench = Bench(queue=2)
    await bench.send_all(1, 2, 3)
    refused = await bench.send(4)
    assert isinstance(refused.exception(), RefusedError)
    assert cause_of(refused) is Cause.OVERLOADED
    await bench.server.let_go(2)
    assert max(bench.counts.slots) == (1, 2)
    assert bench.at_rest


async def test_a_flood_gives_up_places_to_other_callers() -> None:
    """The one with most in the queue loses its last; the newcomer is served in turn."""
    bench = Bench(queue=3)
    flood = await bench.send_all(1, 2, 3, 4)
    polite = await bench.send(9, caller="b")
    assert cause_of(flood[3]) is Cause.OVERLOADED
    await bench.server.let_go(2)
    assert answer_of(polite) == 18
    another = await bench.send(10, caller="b")
    await bench.server.let_go()
    assert another.done()
    assert bench.at_rest


async def test_a_waiting_request_whose_caller_leaves_is_never_sent() -> None:
    """Its place is free again."""
    bench = Bench()
    _, gone, stays = await bench.send_all(1, 2, 3)
    gone.cancel()
    await settled()
    assert bench.batcher.queued == 1
    await bench.server.let_go(2)
    assert bench.server.rows == [[[1, -1]], [[3, -3]]]
    assert answer_of(stays) == 6
    assert bench.at_rest


async def test_a_members_leaving_lets_the_batch_go_on() -> None:
    """The others get their own answers."""
    bench = Bench()
    _, gone, stays = await bench.send_all(1, 2, 3)
    await bench.server.let_go()
    gone.cancel()
    await settled()
    await bench.server.let_go()
    assert answer_of(stays) == 6
    assert gone.cancelled()
    assert bench.server.cancelled == 0
    assert bench.at_rest


async def test_a_batch_that_nobody_waits_for_is_cancelled() -> None:
    """Where the server stops working then; the slot is free at once."""
    bench = Bench()
    _, *members = await bench.send_all(1, 2, 3)
    await bench.server.let_go()
    for member in members:
        member.cancel()
    await settled()
    assert bench.server.cancelled == 1
    assert bench.at_rest


@pytest.mark.parametrize("queued", [False, True], ids=["sent at once", "sent from the queue"])
async def test_a_server_that_cannot_cancel_keeps_its_slot_until_it_has_ended(queued: bool) -> None:
    """The call goes on, is counted as an orphan, and its late answer goes to nobody."""
    bench = Bench(cancels=False)
    tasks = await bench.send_all(*([1.0, 2.0] if queued else [1.0]))
    if queued:
        await bench.server.let_go()
    tasks[-1].cancel()
    await settled()
    assert (bench.server.cancelled, bench.batcher.busy, bench.counts.orphans) == (0, 1, 1)
    await bench.server.let_go()
    assert bench.at_rest


async def test_nothing_is_sent_that_cannot_be_answered_in_time() -> None:
    """Neither a request whose time runs out in the queue, nor one that comes with less than a call takes."""
    bench = Bench()
    first = await bench.send(1)
    late = await bench.send(2, seconds=5.0)
    bench.clock.advance(4.0)
    await bench.server.let_go()
    assert first.done()
    assert cause_of(late) is Cause.DEADLINE
    await bench.send(3)
    hopeless = await bench.send(4, seconds=3.9)
    assert cause_of(hopeless) is Cause.DEADLINE
    await bench.server.let_go()
    assert [rows[0][0] for rows in bench.server.rows] == [1, 3]
    assert bench.at_rest


async def test_a_batch_has_the_longest_of_its_members_deadlines() -> None:
    """A member with less time gives up alone."""
    bench = Bench()
    await bench.send(1)
    await bench.send(2, seconds=5.0)
    await bench.send(3, seconds=50.0)
    await bench.server.let_go(2)
    assert bench.server.contexts[1].deadline == bench.clock.now() + 50.0


@pytest.mark.parametrize("cause", sorted(BLAMES_A_MEMBER))
async def test_only_the_bad_member_fails(cause: Cause) -> None:
    """An answer that blames the data or the model's code: each is asked again alone, once."""

    def picky(asked: InferenceRequest) -> InferenceResponse:
        if 3 in asked.inputs[0].array:
            raise GatewayError(cause, "three is bad")
        return doubled(asked)

    bench = Bench()
    bench.server.answer = picky
    _, *tasks = await bench.send_all(1, 2, 3, 4)
    await bench.server.let_go(5)
    assert [len(rows) for rows in bench.server.rows] == [1, 3, 1, 1, 1]
    assert (answer_of(tasks[0]), cause_of(tasks[1]), answer_of(tasks[2])) == (4, cause, 8)
    assert bench.at_rest


@pytest.mark.parametrize("cause", sorted(MAYBE_A_MEMBER))
async def test_what_may_be_a_members_doing_fails_all_and_parts_them(cause: Cause) -> None:
    """Nothing is sent again; for five minutes those inputs travel alone, others together."""
    bench = Bench()
    failing = True

    def answer(asked: InferenceRequest) -> InferenceResponse:
        if failing and len(asked.inputs[0].array) > 1:
            raise GatewayError(cause, "gone")
        return doubled(asked)

    bench.server.answer = answer
    _, *tasks = await bench.send_all(1, 2, 3)
    await bench.server.let_go(2)
    assert [cause_of(task) for task in tasks] == [cause, cause]
    assert tasks[0].exception() is not tasks[1].exception()
    failing = False
    await bench.send_all(1, 2, 3, 8, 9)
    await bench.server.let_go(4)
    assert [len(rows) for rows in bench.server.rows[2:]] == [1, 1, 1, 2]
    bench.clock.advance(301)
    await bench.send_all(1, 2, 3)
    await bench.server.let_go(2)
    assert [len(rows) for rows in bench.server.rows[6:]] == [1, 2]
    assert bench.at_rest


@pytest.mark.parametrize("cause", [Cause.UPSTREAM_UNREACHABLE, Cause.OVERLOADED])
async def test_what_was_not_processed_is_told_to_all(cause: Cause) -> None:
    """And is no reason to part them: whether to try elsewhere is each request's own affair."""
    bench = Bench()
    await bench.send_all(1)

    def failing(_: InferenceRequest) -> InferenceResponse:
        raise GatewayError(cause, "no connection")

    tasks = await bench.send_all(2, 3)
    await bench.server.let_go()
    bench.server.answer = failing
    await bench.server.let_go()
    assert [cause_of(task) for task in tasks] == [cause, cause]
    assert not any(isinstance(task.exception(), RefusedError) for task in tasks)
    assert bench.at_rest


async def test_an_answer_of_the_wrong_length_is_nobodys() -> None:
    """A server that answers other rows than it was asked has answered none."""
    bench = Bench()
    tasks = await bench.send_all(1, 2, 3)
    bench.server.answer = lambda asked: doubled(request([[1.0, 2.0]]))
    await bench.server.let_go(2)
    assert [cause_of(task) for task in tasks[1:]] == [Cause.UPSTREAM_BAD_REPLY] * 2


async def test_a_bug_fails_the_batch_and_frees_the_slot() -> None:
    """Nothing hangs."""
    bench = Bench()
    tasks = await bench.send_all(1, 2, 3)

    def bug(_: InferenceRequest) -> InferenceResponse:
        raise KeyError("bug")

    bench.server.answer = bug
    await bench.server.let_go(2)
    assert [type(task.exception()) for task in tasks] == [KeyError] * 3
    assert bench.at_rest


async def test_times_are_told_apart() -> None:
    """Each member knows how long it waited, whoever it travelled with."""
    bench = Bench()
    await bench.send(1)
    call = CallContext("r", "predict", bench.clock.now() + 60)
    task = asyncio.create_task(bench.handler(request([[2.0, 2.0]]), call))  # type: ignore[arg-type]
    await settled()
    bench.clock.advance(0.25)
    await bench.server.let_go(2)
    assert task.done()
    assert call.timings.seconds["queue"] == pytest.approx(0.25)
    assert bench.counts.waits == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize("cancels", [True, False])
async def test_closing_leaves_nothing_behind(cancels: bool) -> None:
    """Whoever waits is told, and what runs by itself is ended."""
    bench = Bench(cancels=cancels)
    first, *waiting = await bench.send_all(1, 2, 3)
    await bench.batcher.close()
    await settled()
    assert [cause_of(task) for task in waiting] == [Cause.NOT_READY] * 2
    if cancels:
        await bench.server.let_go()
        assert answer_of(first) == 2
    else:
        assert cause_of(first) is Cause.NOT_READY
    assert bench.at_rest
