"""The slots of one endpoint, and the queue before them: the endpoint's concurrency limit and its batcher in one.

A request that finds a free slot goes out at once, alone; at a server that goes on when it is cancelled, whose calls are
tasks of the batcher's anyway, with what the same turn of the loop brought: the first of a burst has no call to itself.
What comes while all slots are busy waits, and each slot that becomes free takes as many waiting requests as may travel
together: no timer, no delay when idle, larger batches under load. A batch outlives the leaving of its members; what it
fails with is told to each of them (docs/errors.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Iterable
from functools import partial
from typing import Any

from gateway.batching.coalesce import batch_key, bytes_of, joined, rows_of, split
from gateway.batching.entries import Batch, Entry, LimitsOf, Line, fail_all, retrieved
from gateway.batching.fair_queue import BatchLimits, FairQueue
from gateway.batching.forecast import Forecast
from gateway.batching.quarantine import BLAMES_A_MEMBER, MAYBE_A_MEMBER, Quarantine
from gateway.batching.refusals import full, no_time, shutting_down
from gateway.core.backend import Cancel, Done, Handler, Middleware, Outcome, Start, into
from gateway.core.clock import Clock
from gateway.core.context import CallContext, together
from gateway.core.digest import digest
from gateway.core.errors import GatewayError, RefusedError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import Observer


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
        self._queue: FairQueue[Entry] = FairQueue()
        self._quarantine = Quarantine(clock)
        self._turn = 0
        self._turn_ends = False
        self._dispatching = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started: set[Batch] = set()  # under way without a task
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
        return self.handler(self.line(inner, lambda _: None))

    def coalescing(self, limits_of: LimitsOf) -> Middleware:
        """The middleware for a target that takes batches: of requests whose contract says that dimension 0 is one."""
        return lambda inner: self.handler(self.line(inner, limits_of))

    def line(self, inner: Handler, limits_of: LimitsOf, start: Start | None = None) -> Line:
        """A target's requests; `start` is `inner` in its other form, where it has one. It raises nothing."""
        return Line(inner, limits_of, Forecast(self._clock), start)

    async def quiet(self) -> None:
        """Returns once no call runs and no request waits."""
        while self._busy or len(self._queue):
            self._quiet = self._quiet or asyncio.Event()
            await self._quiet.wait()

    async def close(self) -> None:
        """Ends the calls that run on their own; requests that wait are refused."""
        for entry in list(self._queue):
            self._queue.discard(entry)
            entry.fail(shutting_down(self._endpoint))
        for batch in list(self._started):
            if batch.cancel is not None:
                batch.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def handler(self, line: Line) -> Handler:
        """What a request of a line goes through."""

        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            limits = line.limits_of(request)
            if self._goes_at_once(limits):
                self._take_slot(request)
                if not self._cancels:
                    return await self._left_alone(line, request, context)
                try:
                    return await self._call(line, request, context)
                finally:
                    self._release()
            answer: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
            entry = self._enter(line, request, context, limits, into(answer))
            try:
                return await answer
            except asyncio.CancelledError:
                self._leave(entry)
                raise

        return handle

    def start(self, line: Line, request: InferenceRequest, context: CallContext, done: Done) -> Cancel | None:
        """The same without a coroutine, where the request has to wait or its server's backend can be asked so."""
        limits = line.limits_of(request)
        if not self._goes_at_once(limits):
            entry = self._enter(line, request, context, limits, done)

            def leave() -> None:
                # First of all it has left: the end of its call, if that is now, is not told to it.
                left, entry.done = entry.done, None
                if left is not None:
                    self._leave(entry)
                    left(asyncio.CancelledError())

            return leave
        if line.start is None or not self._cancels:
            return None
        started = self._clock.now()

        def ended(outcome: Outcome) -> None:
            if isinstance(outcome, InferenceResponse):
                line.forecast.took(self._clock.now() - started)
            self._release()
            done(outcome)

        self._busy += 1
        cancel = line.start(request, context, ended)
        self._busy -= 1
        if cancel is not None:
            self._take_slot(request)
            self._observer.batch_sent(endpoint=self._endpoint, model=request.model.name, requests=1)
        return cancel

    def _goes_at_once(self, limits: BatchLimits | None) -> bool:
        # Nobody waits longer than this turn where a slot is free: every release hands its slot on.
        return (limits is None or self._cancels) and self._busy < self._slots and not len(self._queue)

    def _take_slot(self, request: InferenceRequest) -> None:
        self._observer.queue_left(endpoint=self._endpoint, model=request.model.name, seconds=0.0)
        self._busy += 1
        self._changed()

    async def _left_alone(self, line: Line, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """A call that the server would go on with: a task of the batcher's, which a caller may leave."""
        call = self._spawn(self._call(line, request, context))
        call.add_done_callback(lambda _: self._release())
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if call.cancelled():
                raise shutting_down(self._endpoint) from None
            if not call.done():
                call.add_done_callback(retrieved)
                self._observer.call_orphaned(endpoint=self._endpoint)
            raise

    async def _call(self, line: Line, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        started = self._clock.now()
        self._observer.batch_sent(endpoint=self._endpoint, model=request.model.name, requests=1)
        response = await line.inner(request, context)
        line.forecast.took(self._clock.now() - started)
        return response

    def _enter(
        self,
        line: Line,
        request: InferenceRequest,
        context: CallContext,
        limits: BatchLimits | None,
        done: Done,
    ) -> Entry:
        now = self._clock.now()
        turn = self._turn if self._busy < self._slots else -1
        if turn >= 0:
            if len(self._queue) >= self._places:
                self._dispatch()
            if not self._turn_ends:
                self._turn_ends = True
                asyncio.get_running_loop().call_soon(self._end_turn)
        elif context.deadline - now <= line.forecast.at_least(now):
            raise no_time(self._endpoint)
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
        entry = Entry(request, context, caller, line, key, rows, bytes_of(request), limits, now, turn, done)
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

    def refusal(self, caller: str) -> RefusedError | None:
        """What one more request of `caller` would be refused with now; None where it would be taken."""
        if self._busy < self._slots or len(self._queue) < self._places or self._queue.giving_way(caller) is not None:
            return None
        return full(self._endpoint, self._slots, self._places)

    def _make_room(self, caller: str) -> None:
        """Gives a place of the caller that has most to one that would still have fewer; raises OVERLOADED."""
        longest = self._queue.giving_way(caller)
        if longest is None:
            raise full(self._endpoint, self._slots, self._places)
        self._queue.discard(longest)
        longest.fail(full(self._endpoint, self._slots, self._places))

    def _leave(self, entry: Entry) -> None:
        """The caller is gone: a waiting entry gives up its place; a batch goes on for its other members."""
        if self._queue.discard(entry):
            self._changed()
            return
        batch = entry.batch
        if batch is None or not batch.left():
            return
        if self._cancels and batch.cancel is not None:
            batch.cancel()
        else:
            self._observer.call_orphaned(endpoint=self._endpoint)

    def _release(self) -> None:
        self._busy -= 1
        if len(self._queue):
            self._dispatch()
        self._changed()

    def _dispatch(self) -> None:
        # A call that ends before it has begun gives its slot back in here: the loop is the one to go on with it.
        if not self._dispatching:
            self._dispatching = True
            try:
                while self._busy < self._slots and len(self._queue):
                    self._send_next(self._clock.now())
            finally:
                self._dispatching = False

    def _send_next(self, now: float) -> None:
        members = [entry for entry in self._queue.take() if self._in_time(entry, now)]
        if not members:
            return
        self._busy += 1
        batch = Batch(members, len(members), together([entry.context for entry in members]), now)
        for entry in members:
            entry.batch = batch
            waited = now - entry.since
            entry.context.queued(self._endpoint, waited)
            self._observer.queue_left(endpoint=self._endpoint, model=entry.request.model.name, seconds=waited)
        self._send(batch)

    def _in_time(self, entry: Entry, now: float) -> bool:
        if entry.context.deadline - now > (0.0 if entry.turn == self._turn else entry.line.forecast.at_least(now)):
            return True
        entry.fail(no_time(self._endpoint))
        return False

    def _send(self, batch: Batch) -> None:
        """Makes the call that a batch is: without a task where its server's backend can be asked so."""
        members = batch.members
        line, first = members[0].line, members[0].request
        self._observer.batch_sent(endpoint=self._endpoint, model=first.model.name, requests=len(members))
        try:
            whole = first if len(members) == 1 else joined([entry.request for entry in members])
        except Exception as exc:
            self._finished(batch, exc)
            return
        if line.start is not None and self._cancels:
            self._started.add(batch)
            cancel = line.start(whole, batch.context, partial(self._finished, batch))
            if cancel is not None:
                if batch in self._started:
                    batch.cancel = cancel
                return
            self._started.discard(batch)
        self._spawn_for(batch, self._run(batch, line, whole))

    async def _run(self, batch: Batch, line: Line, whole: InferenceRequest) -> None:
        outcome: Outcome
        try:
            outcome = await line.inner(whole, batch.context)
        except Exception as exc:
            outcome = exc
        self._finished(batch, outcome)

    def _finished(self, batch: Batch, outcome: Outcome) -> None:
        """Tells the members of a call how it ended, or asks each again."""
        self._started.discard(batch)
        batch.cancel = None
        members = batch.members
        if isinstance(outcome, InferenceResponse):
            members[0].line.forecast.took(self._clock.now() - batch.started)
            # Before its members go on with their answers: they are many, and the server need not wait for that.
            self._let_go(batch)
            try:
                parts = [outcome] if len(members) == 1 else split(outcome, [entry.rows for entry in members])
            except GatewayError as exc:
                if exc.cause in MAYBE_A_MEMBER:
                    self._quarantine.add(digest(entry.request) for entry in members)
                fail_all(members, exc, batch.context)
                return
            for entry, part in zip(members, parts, strict=True):
                entry.context.timings.take_over(batch.context.timings)
                entry.tell(part)
            return
        if isinstance(outcome, GatewayError) and len(members) > 1:
            if outcome.cause in BLAMES_A_MEMBER:
                self._spawn_for(batch, self._one_by_one(members))
                return
            if outcome.cause in MAYBE_A_MEMBER:
                self._quarantine.add(digest(entry.request) for entry in members)
        fail_all(members, outcome if isinstance(outcome, Exception) else shutting_down(self._endpoint), batch.context)
        self._let_go(batch)

    def _spawn_for(self, batch: Batch, call: Coroutine[Any, Any, None]) -> None:
        """Runs a batch's call in a task."""
        task = batch.task = self._spawn(call)
        batch.cancel = task.cancel
        # Also where the task is cancelled before its first step.
        task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: Batch, task: asyncio.Task[None]) -> None:
        if batch.task is not task:
            # Its members are asked one by one now.
            return
        batch.cancel = None
        for entry in [entry for entry in batch.members if entry.done is not None]:
            entry.fail(shutting_down(self._endpoint))
        self._let_go(batch)

    def _let_go(self, batch: Batch) -> None:
        """Hands a batch's slot on, once."""
        if batch.holds_slot:
            batch.ended()
            self._release()

    async def _one_by_one(self, members: Iterable[Entry]) -> None:
        """Each member that is still waited for and has time, alone, one after the other, in the batch's slot."""
        for entry in members:
            if entry.done is None or not self._in_time(entry, self._clock.now()):
                continue
            try:
                response = await self._call(entry.line, entry.request, entry.context)
            except Exception as exc:
                entry.fail(exc)
            else:
                entry.tell(response)

    def _spawn(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(call, name=f"batch:{self._endpoint}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _changed(self) -> None:
        if self._quiet is not None and not self._busy:
            self._quiet.set()
            self._quiet = None
        self._observer.slots_changed(endpoint=self._endpoint, busy=self._busy, queued=len(self._queue))
