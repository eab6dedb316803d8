"""What accompanies one request on its way through the layers."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ServedBy
from gateway.core.trace import Trace

# A client's own timer starts before ours, by as long as its request travels, and ends as much earlier.
TRAVEL_S = 0.1

PHASES = ("decode", "queue", "upstream", "encode")
_SERVER_TIMING = ", ".join(f"{name};dur=%.3f" for name in (*PHASES, "total"))
# Milliseconds by microseconds, for what takes less than two: the code that writes a float is large, and its price on a
# busy gateway ten times that of a loop.
_SHORT = tuple([f"{micros / 1e3:.3f}" for micros in range(2000)])
_SHORT_SECONDS = (len(_SHORT) - 1) / 1e6


@dataclass(slots=True)
class Timings:
    """Where one request's time went, in seconds, by phase: decode, queue, upstream, encode."""

    started: float = field(default_factory=perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def phase(self, name: str) -> Phase:
        """For a `with` block, whose time is added to phase `name`, whether it ends or raises."""
        return Phase(self, name)

    def add(self, name: str, seconds: float) -> None:
        """Adds `seconds` to phase `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def take_over(self, other: Timings) -> None:
        """Adds the phases of a call that was made for this one, among others."""
        mine = self.seconds
        for name, seconds in other.seconds.items():
            mine[name] = mine.get(name, 0.0) + seconds

    def server_timing(self) -> str:
        """The value of the `Server-Timing` header (W3C Server Timing), durations in milliseconds."""
        took = self.seconds.get
        decode, queue = took("decode", 0.0), took("queue", 0.0)
        upstream, encode = took("upstream", 0.0), took("encode", 0.0)
        total = perf_counter() - self.started
        if max(decode, queue, upstream, encode, total) < _SHORT_SECONDS:
            # A phase by itself, since a list of them would cost as much again.
            return (
                f"decode;dur={_SHORT[int(decode * 1e6 + 0.5)]}, queue;dur={_SHORT[int(queue * 1e6 + 0.5)]}, "
                f"upstream;dur={_SHORT[int(upstream * 1e6 + 0.5)]}, encode;dur={_SHORT[int(encode * 1e6 + 0.5)]}, "
                f"total;dur={_SHORT[int(total * 1e6 + 0.5)]}"
            )
        return _SERVER_TIMING % (decode * 1e3, queue * 1e3, upstream * 1e3, encode * 1e3, total * 1e3)


class Phase:
    """The `with` block of one phase. Every request has several, and a generator would cost twice as much."""

    __slots__ = ("_begin", "_name", "_timings")

    def __init__(self, timings: Timings, name: str) -> None:
        self._timings = timings
        self._name = name
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = self._timings.seconds
        seconds[self._name] = seconds.get(self._name, 0.0) + perf_counter() - self._begin


@dataclass(slots=True)
class CallContext:
    """One call: who asked through which protocol, until when, and where its time went.

    `deadline` is an instant of the gateway's `Clock`, in seconds.
    """

    request_id: str
    protocol: str
    deadline: float
    caller: str = ""
    """Whose turn it is where callers take turns: the address of the connection's peer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those of the client's headers that some route holds on to, by their names in lower case."""
    timings: Timings = field(default_factory=Timings)
    served_by: ServedBy | None = None
    """The endpoint that was asked last, set by the router; with its version once it has answered."""
    trace: Trace | None = None
    """What is told of it to a tracing system, where there is one."""
    company: Sequence[Trace] = ()
    """Of a call that is made for several, where they are traced: the traces of all of them."""
    sent_along: Mapping[str, str] | None = None
    """Headers, by names in lower case, that backends send the server with the call."""

    def queued(self, endpoint: str, seconds: float) -> None:
        """Counts the time that it waited for one of the endpoint's slots, which it has just been given."""
        self.timings.add("queue", seconds)
        if self.trace is not None:
            self.trace.queued(endpoint=endpoint, seconds=seconds)

    def cancelled_for(self, now: float) -> Cause:
        """Why the call was cancelled at `now`: for its deadline, or else since its client left."""
        return Cause.DEADLINE if now >= self.deadline - TRAVEL_S else Cause.CLIENT_GONE

    def cause_of(self, outcome: BaseException, now: float) -> Cause:
        """Why the call ended at `now` without an answer."""
        if isinstance(outcome, GatewayError):
            return outcome.cause
        return self.cancelled_for(now) if isinstance(outcome, CancelledError) else Cause.INTERNAL


def together(contexts: Sequence[CallContext]) -> CallContext:
    """One call for all of these, until the last of their deadlines."""
    first = contexts[0]
    context = CallContext(
        first.request_id, first.protocol, max([each.deadline for each in contexts]), caller=first.caller
    )
    if first.trace is not None:
        context.trace = first.trace
        context.company = [each.trace for each in contexts if each.trace is not None]
    return context
