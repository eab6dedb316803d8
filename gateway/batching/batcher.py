"""The slots of one endpoint, and the queue before them: the endpoint's concurrency limit and its batcher in one.

A request that finds a free slot goes out at once, alone; at a server that goes on when it is cancelled, whose calls are
tasks of the batcher's anyway, with what the same turn of the loop brought: the first of a burst has no call to itself.
What comes while all slots are busy waits, and each slot that becomes free takes as many waiting requests as may travel
together: no timer, no delay when idle, larger batches under load. A batch outlives the leaving of its members; what it
fails with is told to each of them (docs/errors.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.batching.coalesce import batch_key, bytes_of, joined, rows_of, split
from gateway.batching.fair_queue import BatchLimits, FairQueue
from gateway.batching.forecast import Forecast
from gateway.batching.quarantine import Quarantine
from gateway.core.backend import Handler, Middleware
from gateway.core.clock import Clock
from gateway.core.context import CallContext, together
from gateway.core.digest import digest
from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import Observer

# The answer blames a member's data or the model's code: each is asked again alone, so that only the bad one fails.
BLAMES_A_MEMBER = frozenset({Cause.UPSTREAM_REJECTED, Cause.UPSTREAM_FAILED})
# Perhaps a member did it. None is sent again, and none of them travels with others for a while.
MAYBE_A_MEMBER = frozenset({Cause.UPSTREAM_LOST, Cause.UPSTREAM_BAD_REPLY, Cause.DEADLINE})

# What a request's batch may hold; None for one that travels alone.
LimitsOf = Callable[[InferenceRequest], BatchLimits | None]


@dataclass(frozen=True, slots=True)
class _Line:
    """What all requests to one target share: its handler, how its requests may be batched, how long it takes."""

    inner: Handler
    limits_of: LimitsOf
    forecast: Forecast


@dataclass(slots=True, eq=False)
class _Entry:
    """One waiting request; `answer` is done by the batch that takes it, or cancelled by its caller."""

    request: InferenceRequest
    context: CallContext
    caller: str
    """The connection's peer."""
    line: _Line
    key: Hashable
    rows: int
    nbytes: int
    limits: BatchLimits | None
    since: float
    turn: int
    """The turn in which it came and there was a free slot; -1 where there was none."""
    answer: asyncio.Future[InferenceResponse]
    batch: _Batch | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    """Entries under way together, how many of them somebody still waits for, and whether they have a slot."""

    members: list[_Entry]
    wanted: int
    task: asyncio.Task[None] | None = None
    holds_slot: bool = True


class Batcher:
    """At most `slots` calls run at an endpoint and `queue` requests wait; the next is refused with OVERLOADED.

    Callers take turns, and where the queue is full a caller with fewer requests in it takes the place of one with
    more. `cancels` says whether the server stops working when a call is cancelled: where it does not, a slot stays
    taken until the call has ended, whoever left meanwhile. One object serves all models of an endpoint and belongs
    to one event loop; `close` ends what it still runs.
    """

    def __init__(
        self, endpoint: str, *, slots: int, queue: int, clock: Clock, observer: Observer, cancels: bool = True
    ) -> None:
        self._endpoint = endpoint
        self._slots = slots
        self._places = queue
        self._clock = clock
        self._observer = observer
        self._cancels = cancels
        self._busy = 0
        self._queue: FairQueue[_Entry] = FairQueue()
        self._quarantine = Quarantine(clock)
        self._turn = 0
        self._turn_ends = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._quiet: asyncio.Event | None = None

    @property
    def slots(self) -> int:
        """Calls that may run at once."""
        return self._slots

    @property
    def busy(self) -> int:
        """Slots taken now."""
        return self._busy

    @property
    def queued(self) -> int:
        """Requests waiting for a slot now."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether a request sent now would go out at once."""
        return self._busy < self._slots and not len(self._queue)

    def __call__(self, inner: Handler) -> Handler:
        """The middleware for a target whose requests travel alone."""
        return self._handler(_Line(inner, lambda _: None, Forecast(self._clock)))

    def coalescing(self, limits_of: LimitsOf) -> Middleware:
        """The middleware for a target that takes batches: of requests whose contract says that dimension 0 is one."""
        return lambda inner: self._handler(_Line(inner, limits_of, Forecast(self._clock)))

    async def quiet(self) -> None:
        """Returns once no call runs and no request waits."""
        while self._busy or len(self._queue):
            self._quiet = self._quiet or asyncio.Event()
            await self._quiet.wait()

    async def close(self) -> None:
        """Ends the calls that run on their own; requests that wait are refused."""
        for entry in list(self._queue):
            self._queue.discard(entry)
            _fail(entry, self._shutting_down())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _handler(self, line: _Line) -> Handler:
        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            # Nobody waits longer than this turn where a slot is free: every release hands its slot on.
            limits = line.limits_of(request)
            alone = limits is None or self._cancels
            if alone and self._busy < self._slots and not len(self._queue):
                self._observer.queue_left(endpoint=self._endpoint, model=request.model.name, seconds=0.0)
                self._busy += 1
                self._changed()
                if not self._cancels:
                    return await self._left_alone(line, request, context)
                try:
                    return await self._call(line, request, context)
                finally:
                    self._release()
            entry = self._enter(line, request, context, limits)
            try:
                return await entry.answer
            except asyncio.CancelledError:
                self._leave(entry)
                raise

        return handle

    async def _left_alone(self, line: _Line, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """A call that the server would go on with: a task of the batcher's, which a caller may leave."""
        call = self._spawn(self._call(line, request, context))
        call.add_done_callback(lambda _: self._release())
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if call.cancelled():
                raise self._shutting_down() from None
            if not call.done():
                call.add_done_callback(_retrieved)
                self._observer.call_orphaned(endpoint=self._endpoint)
            raise

    async def _call(self, line: _Line, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        started = self._clock.now()
        self._observer.batch_sent(endpoint=self._endpoint, model=request.model.name, requests=1)
        response = await line.inner(request, context)
        line.forecast.took(self._clock.now() - started)
        return response

    def _enter(
        self, line: _Line, request: InferenceRequest, context: CallContext, limits: BatchLimits | None
    ) -> _Entry:
        now = self._clock.now()
        loop = asyncio.get_running_loop()
        turn = self._turn if self._busy < self._slots else -1
        if turn >= 0:
            if len(self._queue) >= self._places:
                self._dispatch()
            if not self._turn_ends:
                self._turn_ends = True
                loop.call_soon(self._end_turn)
        elif context.deadline - now <= line.forecast.at_least(now):
            raise self._no_time()
        caller = context.caller
        if len(self._queue) >= self._places and self._busy >= self._slots:
            self._make_room(caller)
        # Shared with nobody, unless it may travel in company.
        key: Hashable = object()
        rows = 1 if limits is None else rows_of(request)
        # A row more or less than none decides for the whole batch in some kernels: no rows travel alone.
        if limits is None or not rows or (self._quarantine and digest(request) in self._quarantine):
            limits = None
        else:
            key = (id(line), batch_key(request))
        answer: asyncio.Future[InferenceResponse] = loop.create_future()
        entry = _Entry(request, context, caller, line, key, rows, bytes_of(request), limits, now, turn, answer)
        self._queue.push(entry)
        self._changed()
        return entry

    def _end_turn(self) -> None:
        """Sends what this turn of the event loop brought, as far as there are slots."""
        self._turn_ends = False
        self._dispatch()
        # What is left has found no slot after all, and waits like the others.
        self._turn += 1
        self._changed()

    def _no_time(self) -> GatewayError:
        return GatewayError(
            Cause.DEADLINE, f"endpoint '{self._endpoint}' is busy, and too little time is left for its answer"
        )

    def refusal(self, caller: str) -> RefusedError | None:
        """What one more request of `caller` would be refused with now; None where it would be taken."""
        if len(self._queue) < self._places or self._busy < self._slots or self._queue.giving_way(caller) is not None:
            return None
        return self._full()

    def _make_room(self, caller: str) -> None:
        """Gives a place of the caller that has most to one that would still have fewer; raises OVERLOADED."""
        longest = self._queue.giving_way(caller)
        if longest is None:
            raise self._full()
        self._queue.discard(longest)
        _fail(longest, self._full())

    def _full(self) -> RefusedError:
        return RefusedError(
            Cause.OVERLOADED,
            f"endpoint '{self._endpoint}' is busy: {self._slots} calls run and {self._places} requests wait",
            retry_after_s=1.0,
        )

    def _leave(self, entry: _Entry) -> None:
        """The caller is gone: a waiting entry gives up its place; a batch goes on for its other members."""
        if self._queue.discard(entry):
            self._changed()
            return
        batch = entry.batch
        if batch is None or batch.task is None or batch.task.done():
            return
        batch.wanted -= 1
        if batch.wanted:
            return
        if self._cancels:
            batch.task.cancel()
        else:
            self._observer.call_orphaned(endpoint=self._endpoint)

    def _release(self) -> None:
        self._busy -= 1
        if len(self._queue):
            self._dispatch()
        self._changed()

    def _dispatch(self) -> None:
        while self._busy < self._slots and len(self._queue):
            now = self._clock.now()
            members = [entry for entry in self._queue.take() if self._in_time(entry, now)]
            if not members:
                continue
            self._busy += 1
            batch = _Batch(members, len(members))
            for entry in members:
                entry.batch = batch
                waited = now - entry.since
                entry.context.queued(self._endpoint, waited)
                self._observer.queue_left(endpoint=self._endpoint, model=entry.request.model.name, seconds=waited)
            batch.task = self._spawn(self._run(batch))
            # Also where the task is cancelled before its first step.
            batch.task.add_done_callback(partial(self._ended, batch))

    def _in_time(self, entry: _Entry, now: float) -> bool:
        if entry.context.deadline - now > (0.0 if entry.turn == self._turn else entry.line.forecast.at_least(now)):
            return True
        _fail(entry, self._no_time())
        return False

    def _ended(self, batch: _Batch, _task: asyncio.Task[None]) -> None:
        for entry in batch.members:
            if not entry.answer.done():
                _fail(entry, self._shutting_down())
        self._let_go(batch)

    def _let_go(self, batch: _Batch) -> None:
        """Hands a batch's slot on, once."""
        if batch.holds_slot:
            batch.holds_slot = False
            self._release()

    async def _run(self, batch: _Batch) -> None:
        members = batch.members
        line, model = members[0].line, members[0].request.model.name
        context = together([entry.context for entry in members])
        started = self._clock.now()
        self._observer.batch_sent(endpoint=self._endpoint, model=model, requests=len(members))
        try:
            whole = members[0].request if len(members) == 1 else joined([entry.request for entry in members])
            response = await line.inner(whole, context)
            line.forecast.took(self._clock.now() - started)
            # Before its members go on with their answers: they are many, and the server need not wait for that.
            self._let_go(batch)
            self._deliver(members, response, context)
        except GatewayError as exc:
            if len(members) > 1 and exc.cause in BLAMES_A_MEMBER:
                await self._one_by_one(line, members)
                return
            if len(members) > 1 and exc.cause in MAYBE_A_MEMBER:
                self._quarantine.add(digest(entry.request) for entry in members)
            _fail_all(members, exc, context)
        except Exception as exc:
            _fail_all(members, exc, context)

    async def _one_by_one(self, line: _Line, members: Iterable[_Entry]) -> None:
        """Each member that is still waited for and has time, alone, one after the other, in the batch's slot."""
        for entry in members:
            if entry.answer.done() or not self._in_time(entry, self._clock.now()):
                continue
            try:
                response = await self._call(line, entry.request, entry.context)
            except Exception as exc:
                _fail(entry, exc)
            else:
                _deliver(entry, response)

    def _deliver(self, members: list[_Entry], response: InferenceResponse, context: CallContext) -> None:
        parts = [response] if len(members) == 1 else split(response, [entry.rows for entry in members])
        for entry, part in zip(members, parts, strict=True):
            entry.context.timings.take_over(context.timings)
            _deliver(entry, part)

    def _spawn(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(call, name=f"batch:{self._endpoint}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _shutting_down(self) -> GatewayError:
        return GatewayError(Cause.NOT_READY, f"endpoint '{self._endpoint}' is shutting down", retry_after_s=1.0)

    def _changed(self) -> None:
        if self._quiet is not None and not self._busy:
            self._quiet.set()
            self._quiet = None
        self._observer.slots_changed(endpoint=self._endpoint, busy=self._busy, queued=len(self._queue))


def _deliver(entry: _Entry, response: InferenceResponse) -> None:
    if not entry.answer.done():
        entry.answer.set_result(response)


def _fail_all(members: Iterable[_Entry], exc: Exception, context: CallContext) -> None:
    for entry in members:
        entry.context.timings.take_over(context.timings)
        _fail(entry, exc)


def _fail(entry: _Entry, exc: Exception) -> None:
    """Each member gets an exception of its own."""
    if not entry.answer.done():
        entry.answer.set_exception(exc.again() if isinstance(exc, GatewayError) else exc)


def _retrieved(call: asyncio.Task[Any]) -> None:
    """Looks at the end of a call that nobody waits for, so that asyncio does not report it as forgotten."""
    with suppress(asyncio.CancelledError):
        call.exception()
