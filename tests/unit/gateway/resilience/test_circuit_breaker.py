"""When a breaker opens and closes."""

from __future__ import annotations

import pytest

from gateway.core.errors import Cause
from gateway.resilience.circuit_breaker import COUNTED, Admittance, BreakerState, CircuitBreaker
from tests.builders import FakeClock

LOST = Cause.UPSTREAM_LOST


def breaker_at(clock: FakeClock) -> tuple[CircuitBreaker, list[BreakerState]]:
    seen: list[BreakerState] = []
    return CircuitBreaker(clock, on_change=seen.append), seen


def failed(breaker: CircuitBreaker, times: int = 5) -> None:
    for _ in range(times):
        breaker.record(LOST)


def test_five_failures_in_a_row_open_it_for_a_second() -> None:
    """Then one probe may go, and its answer closes it."""
    clock = FakeClock()
    breaker, seen = breaker_at(clock)
    failed(breaker, 4)
    assert breaker.enter() is Admittance.ORDINARY
    failed(breaker, 1)
    assert breaker.enter() is None
    assert breaker.retry_after_s == pytest.approx(1.0)
    clock.advance(1.0)
    assert breaker.enter() is Admittance.PROBE
    assert breaker.enter() is None
    breaker.record(None)
    assert breaker.enter() is Admittance.ORDINARY
    assert seen == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


def test_three_deadlines_in_a_row_open_it() -> None:
    """Whatever else fails between them; an answer begins the count anew."""
    breaker, _ = breaker_at(FakeClock())
    for causes in ([Cause.DEADLINE] * 2, [None, Cause.DEADLINE, LOST, Cause.DEADLINE]):
        for cause in causes:
            breaker.record(cause)
        assert breaker.state is BreakerState.CLOSED
    breaker.record(Cause.DEADLINE)
    assert breaker.state is BreakerState.OPEN


def test_half_of_twenty_calls_open_it() -> None:
    """Though no five failed in a row."""
    breaker, _ = breaker_at(FakeClock())
    for _ in range(9):
        breaker.record(None)
        breaker.record(LOST)
    breaker.record(None)
    assert breaker.state is BreakerState.CLOSED
    breaker.record(LOST)
    assert breaker.state is BreakerState.OPEN


def test_old_failures_are_forgotten() -> None:
    """After ten seconds they count no more."""
    clock = FakeClock()
    breaker, _ = breaker_at(clock)
    for _ in range(10):
        failed(breaker, 4)
        breaker.record(None)
        clock.advance(11.0)
    assert breaker.state is BreakerState.CLOSED


def test_a_failing_probe_doubles_the_pause_up_to_five_seconds() -> None:
    """And a good one starts again with one second."""
    clock = FakeClock()
    breaker, _ = breaker_at(clock)
    failed(breaker)
    pauses = []
    for _ in range(4):
        clock.advance(breaker.retry_after_s)
        assert breaker.enter() is Admittance.PROBE
        breaker.record(LOST)
        pauses.append(breaker.retry_after_s)
    assert pauses == pytest.approx([2.0, 4.0, 5.0, 5.0])
    clock.advance(5.0)
    assert breaker.enter() is Admittance.PROBE
    breaker.record(None)
    failed(breaker)
    assert breaker.retry_after_s == pytest.approx(1.0)


def test_a_probe_that_never_reached_the_server_lets_the_next_one_go() -> None:
    """Its leaving is enough; an ordinary request's leaving is not."""
    clock = FakeClock()
    breaker, _ = breaker_at(clock)
    ordinary = breaker.enter()
    failed(breaker)
    clock.advance(1.0)
    probe = breaker.enter()
    assert ordinary is not None
    assert probe is not None
    breaker.leave(ordinary)
    assert breaker.enter() is None
    breaker.leave(probe)
    assert breaker.enter() is Admittance.PROBE


@pytest.mark.parametrize("cause", sorted(set(Cause) - COUNTED))
def test_what_is_not_the_servers_fault_never_opens_it(cause: Cause) -> None:
    """Clients' mistakes, refusals and a full server."""
    breaker, _ = breaker_at(FakeClock())
    for _ in range(50):
        breaker.record(cause)
    assert breaker.state is BreakerState.CLOSED


def test_memory_is_bounded() -> None:
    """However many calls there are in ten seconds, and the share stays right."""
    breaker, _ = breaker_at(FakeClock())
    for _ in range(100_000):
        breaker.record(None)
    assert len(breaker._calls) <= 1024
