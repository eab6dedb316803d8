"""What waits for a slot, and what travels in one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from gateway.batching.fair_queue import BatchLimits
from gateway.batching.forecast import Forecast
from gateway.core.backend import Cancel, Done, Handler, Outcome, Start
from gateway.core.context import CallContext
from gateway.core.errors import GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse

# What a request's batch may hold; None for one that travels alone.
LimitsOf = Callable[[InferenceRequest], BatchLimits | None]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """What all requests to one target share: its call in both forms, how its requests may be batched, how long it
    takes."""

    inner: Handler
    limits_of: LimitsOf
    forecast: Forecast
    start: Start | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """One waiting request; `done` is called by the batch that takes it, and None once it was, or its caller left."""

    request: InferenceRequest
    context: CallContext
    caller: str
    """The connection's peer."""
    line: Line
    key: Hashable
    rows: int
    nbytes: int
    limits: BatchLimits | None
    since: float
    turn: int
    """The turn in which it came and there was a free slot; -1 where there was none."""
    done: Done | None
    batch: Batch | None = None

    def tell(self, outcome: Outcome) -> None:
        """Tells its caller, unless that has left, or was told already."""
        done, self.done = self.done, None
        if done is not None:
            done(outcome)

    def fail(self, exc: Exception) -> None:
        """Tells its caller a failure; each gets an exception of its own."""
        if self.done is not None:
            self.tell(exc.again() if isinstance(exc, GatewayError) else exc)


@dataclass(slots=True, eq=False)
class Batch:
    """Entries under way together, how many of them somebody still waits for, and whether they have a slot.

    `cancel` ends the call that it is, where it runs; it is the task's own where it has one.
    """

    members: list[Entry]
    wanted: int
    context: CallContext
    started: float
    task: asyncio.Task[None] | None = None
    cancel: Cancel | None = None
    holds_slot: bool = True

    def left(self) -> bool:
        """One of its members has left: whether a call is under way that nobody waits for any more."""
        if self.cancel is None:
            return False
        self.wanted -= 1
        return not self.wanted

    def ended(self) -> None:
        """Its slot is another's. What refers to each other only the garbage collector would find, so it parts."""
        self.holds_slot = False
        for entry in self.members:
            entry.batch = None


def fail_all(members: Iterable[Entry], exc: Exception, context: CallContext) -> None:
    """Tells all members of a call that failed."""
    for entry in members:
        entry.context.timings.take_over(context.timings)
        entry.fail(exc)


def retrieved(call: asyncio.Task[InferenceResponse]) -> None:
    """Looks at the end of a call that nobody waits for, so that asyncio does not report it as forgotten."""
    with suppress(asyncio.CancelledError):
        call.exception()
