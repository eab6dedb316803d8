"""When to leave one model on one endpoint alone, and when to try it again. Decides without I/O; the clock is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

from gateway.core.clock import Clock
from gateway.core.errors import Cause

# What a server, or the way to it, is to blame for. The gateway's own refusals and a client's mistakes never count.
COUNTED = frozenset(
    {
        Cause.UPSTREAM_UNREACHABLE,
        Cause.UPSTREAM_LOST,
        Cause.UPSTREAM_BAD_REPLY,
        Cause.UPSTREAM_FAILED,
        Cause.DEADLINE,
    }
)

# A busy endpoint's window holds this many of its last calls, however many there were.
_KEPT = 1024


class BreakerState(StrEnum):
    """`closed` lets everything through, `open` nothing, `half_open` one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admittance(Enum):
    """As what a request was let through."""

    ORDINARY = "ordinary"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, and for how long, in seconds.

    It opens after `consecutive` failures in a row, or `unanswered` of them that ended by a deadline: each of those has
    already cost somebody all of its time. Or where `share` of at least `calls` within `window_s` failed. First for
    `open_s`, twice as long each time a probe fails, at most `max_open_s`.
    """

    consecutive: int = 5
    unanswered: int = 3
    share: float = 0.5
    calls: int = 20
    window_s: float = 10.0
    open_s: float = 1.0
    max_open_s: float = 5.0


class CircuitBreaker:
    """The state of one (endpoint, model). `enter` before, `record` once per upstream call, `leave` after."""

    def __init__(
        self,
        clock: Clock,
        limits: BreakerLimits = BreakerLimits(),
        on_change: Callable[[BreakerState], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._in_a_row = 0
        self._unanswered = 0
        self._calls: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._open_s = limits.open_s
        self._until = 0.0
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """The state now; an open breaker whose time is over is half-open."""
        if self._state is BreakerState.OPEN and self._clock.now() >= self._until:
            self._to(BreakerState.HALF_OPEN)
        return self._state

    @property
    def closed(self) -> bool:
        """Whether it lets everything through, without a word."""
        return self._state is BreakerState.CLOSED

    @property
    def retry_after_s(self) -> float:
        """Seconds until it may be tried again."""
        return max(0.0, self._until - self._clock.now())

    @property
    def allows(self) -> bool:
        """Whether `enter` would let a request through now."""
        state = self.state
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self._probing)

    def enter(self) -> Admittance | None:
        """Lets a request through, or not (None); in the half-open state the one let through is the probe."""
        if self._state is BreakerState.CLOSED:
            return Admittance.ORDINARY
        if not self.allows:
            return None
        if self._state is not BreakerState.HALF_OPEN:
            return Admittance.ORDINARY
        self._probing = True
        return Admittance.PROBE

    def leave(self, admittance: Admittance) -> None:
        """A request that `enter` let through has ended, whether it reached the server or not."""
        if admittance is Admittance.PROBE:
            self._probing = False

    def record(self, cause: Cause | None) -> None:
        """One upstream call ended; None is an answer."""
        failed = cause is not None and cause in COUNTED
        if self._state is BreakerState.CLOSED:
            self._count(failed, unanswered=cause is Cause.DEADLINE)
        elif self.state is BreakerState.HALF_OPEN:
            self._judge_probe(failed)

    def _judge_probe(self, failed: bool) -> None:
        self._probing = False
        if failed:
            self._open_s = min(self._open_s * 2, self._limits.max_open_s)
            self._open()
            return
        self._open_s = self._limits.open_s
        self._in_a_row = self._unanswered = self._failed = 0
        self._calls.clear()
        self._to(BreakerState.CLOSED)

    def _count(self, failed: bool, *, unanswered: bool) -> None:
        now = self._clock.now()
        while self._calls and (self._calls[0][0] <= now - self._limits.window_s or len(self._calls) >= _KEPT):
            self._failed -= self._calls.popleft()[1]
        self._calls.append((now, failed))
        self._failed += failed
        if not failed:
            self._in_a_row = self._unanswered = 0
            return
        self._in_a_row += 1
        self._unanswered += unanswered
        limits = self._limits
        row = self._in_a_row >= limits.consecutive or self._unanswered >= limits.unanswered
        if row or (len(self._calls) >= limits.calls and self._failed >= limits.share * len(self._calls)):
            self._open()

    def _open(self) -> None:
        self._until = self._clock.now() + self._open_s
        self._to(BreakerState.OPEN)

    def _to(self, state: BreakerState) -> None:
        if state is not self._state:
            self._state = state
            self._on_change(state)
