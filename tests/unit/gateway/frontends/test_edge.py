"""What the front ends share: admission, deadlines, ids and the one report for each call."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack

import pytest

from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import (
    Admission,
    Edge,
    Limits,
    choose,
    failure,
    header_text,
    request_id_from,
    seconds_from_milliseconds,
)
from tests.builders import FakeClock, request
from tests.unit.gateway.frontends.world import Finished, World, admitted

LIMITS = Limits(in_flight=2, in_flight_bytes=100, timeout_s=30, max_timeout_s=120)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def world() -> World:
    return await World.started(LIMITS)


@pytest.fixture
def edge(world: World, clock: FakeClock) -> Edge:
    return Edge(world.plane, limits=LIMITS, observer=world.observer, clock=clock, admission=world.admission)


def enter(admission: Admission, *sizes: int) -> None:
    """One request with a body in parts."""
    with admitted(admission) as ticket:
        for size in sizes:
            ticket.take(size)


def test_requests_over_the_limit_are_refused() -> None:
    """The one too many is refused at once; a place is free again when a request ends."""
    admission = Admission(LIMITS)
    with admitted(admission), admitted(admission):
        assert admission.in_flight == 2
        with pytest.raises(GatewayError) as refused:
            enter(admission)
    assert refused.value.cause is Cause.OVERLOADED
    assert refused.value.retry_after_s
    assert admission.in_flight == 0


def test_a_whole_request_is_let_in_as_any_other() -> None:
    """Or refused, by number and by bytes, and then counted nowhere."""
    admission = Admission(LIMITS)
    first = admission.whole(60)
    with pytest.raises(GatewayError, match="100 bytes at most"):
        admission.whole(41)
    second = admission.whole(40)
    with pytest.raises(GatewayError, match="2 requests are in flight"):
        admission.whole(0)
    assert (admission.in_flight, admission.in_flight_bytes) == (2, 100)
    first.leave()
    with ExitStack() as stays:
        for _ in range(8):
            stays.enter_context(admission.receive())
        with pytest.raises(GatewayError, match="8 requests are still arriving"):
            admission.whole(0)
    second.leave()
    assert (admission.arriving, admission.in_flight, admission.in_flight_bytes) == (0, 0, 0)


def test_requests_that_arrive_have_a_bound_of_their_own() -> None:
    """They are in flight, and may find the gateway full, once they are whole; no place is lost either way."""
    admission = Admission(LIMITS)
    with ExitStack() as stays:
        tickets = [stays.enter_context(admission.receive()) for _ in range(8)]
        assert (admission.arriving, admission.in_flight) == (8, 0)
        with pytest.raises(GatewayError) as refused:
            enter(admission)
        assert refused.value.cause is Cause.OVERLOADED
        for ticket in tickets[:2]:
            ticket.whole()
        with pytest.raises(GatewayError) as full:
            tickets[2].whole()
        assert full.value.cause is Cause.OVERLOADED
        assert (admission.arriving, admission.in_flight) == (6, 2)
    assert (admission.arriving, admission.in_flight) == (0, 0)


def test_bytes_over_the_limit_are_refused() -> None:
    """Bodies share one budget of bytes, and give back exactly what they took, also where they fail."""
    admission = Admission(LIMITS)
    with admitted(admission) as first:
        first.take(60)
        with pytest.raises(GatewayError) as refused:
            enter(admission, 40, 1)
        assert admission.in_flight_bytes == 60
        first.check_room(40)
        with pytest.raises(GatewayError):
            first.check_room(41)
        assert admission.in_flight_bytes == 60
    assert refused.value.cause is Cause.OVERLOADED
    assert (admission.in_flight, admission.in_flight_bytes) == (0, 0)


def test_a_call_without_a_timeout_has_the_default_deadline(edge: Edge, clock: FakeClock) -> None:
    """It starts with the call."""
    call = edge.open("predict", "r")
    assert call.context.deadline == clock.now() + 30
    assert edge.seconds_left(call) == 30


@pytest.mark.parametrize(("asked", "given"), [(0.5, 0.5), (120, 120), (1e6, 120)])
def test_a_clients_own_deadline_is_capped(edge: Edge, clock: FakeClock, asked: float, given: float) -> None:
    """It counts from the start of the call, not from when it was read."""
    call = edge.open("predict", "r")
    started = clock.now()
    clock.advance(0.1)
    edge.allow(call, asked)
    assert call.context.deadline == started + given


def test_a_deadline_that_has_passed_is_an_error(edge: Edge, clock: FakeClock) -> None:
    """Nothing is done for a request that nobody waits for any more."""
    call = edge.open("predict", "r")
    clock.advance(30)
    with pytest.raises(GatewayError) as late:
        edge.seconds_left(call)
    assert late.value.cause is Cause.DEADLINE


def test_an_abandoned_call_is_its_clients_or_its_deadlines(edge: Edge, clock: FakeClock) -> None:
    """A cancelled call past its deadline ran out of time; before it, its client left."""
    call = edge.open("oip-grpc", "r")
    assert edge.abandoned(call) is Cause.CLIENT_GONE
    clock.advance(30)
    assert edge.abandoned(call) is Cause.DEADLINE


async def test_a_result_is_reported_with_what_gave_it(world: World, edge: Edge) -> None:
    """Model, version and stack are those of the answer."""
    call = edge.open("predict", "r")
    call.context.deadline = world.clock.now() + 30
    await edge.infer(call, request(), {"stack": "tfserving"})
    edge.finish(call, None)
    assert world.last == Finished("doubler", 1, "tfserving", "predict", None)


async def test_headers_must_agree_with_the_request(world: World, edge: Edge) -> None:
    """What the headers choose is merged into the request, and a contradiction is an error."""
    call = edge.open("predict", "r")
    with pytest.raises(GatewayError) as refused:
        await edge.infer(call, request(label="stable"), {"label": "canary"})
    assert refused.value.cause is Cause.INVALID_INPUT
    assert world.sent == 0


def test_unknown_models_share_a_label(world: World, edge: Edge) -> None:
    """A thousand made-up names are one time series."""
    for index in range(1000):
        call = edge.open("predict", "r")
        call.model = f"made-up-{index}"
        edge.finish(call, Cause.MODEL_NOT_FOUND)
    assert set(world.observer.finished) == {Finished("", None, "", "predict", Cause.MODEL_NOT_FOUND)}


def test_each_request_has_one_line_in_the_log(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    """The line names the request, not its payload."""
    caplog.set_level(logging.INFO, "gateway.access")
    edge.refuse("oip-rest", "the-id", Cause.ROUTE_NOT_FOUND)
    (record,) = caplog.records
    assert record.__dict__["fields"] == {
        "request_id": "the-id",
        "protocol": "oip-rest",
        "model": "",
        "stack": "",
        "endpoint": "",
        "cause": "route_not_found",
        "ms": 0.0,
    }


def test_a_bug_is_told_as_an_id(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns the id only; the log has the exception."""
    error = failure("the-id", KeyError("secret"))
    assert error.cause is Cause.INTERNAL
    assert "the-id" in error.detail
    assert "secret" not in error.detail
    assert caplog.records[0].exc_info is not None
    expected = GatewayError(Cause.DEADLINE, "late")
    assert failure("the-id", expected) is expected


@pytest.mark.parametrize("sane", ["a", "A.b_c-9", "x" * 128])
def test_a_sane_id_is_kept(sane: str) -> None:
    """The client's own id goes through."""
    assert request_id_from(sane) == sane


@pytest.mark.parametrize("odd", [None, "", "x" * 129, "a b", "a\r\nb", "\x1b[31m", "é", json.dumps({})])
def test_an_odd_id_is_replaced(odd: str | None) -> None:
    """Nothing that could break a log line or a header is repeated, and every replacement is a new one."""
    fresh = request_id_from(odd)
    assert fresh != odd
    assert len(fresh) == 32
    assert request_id_from(odd) != fresh


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("250", 0.25), ("1.5", 0.0015), ("1e9", 1e6)])
def test_timeouts_are_milliseconds(text: str, seconds: float) -> None:
    """Whole, fractional, or with an exponent."""
    assert seconds_from_milliseconds(text) == seconds


@pytest.mark.parametrize("text", ["", "abc", "-1", "NaN", "inf", "1_000", " 1", "٣", "1" * 16, "0x10", "1s"])
def test_what_is_no_timeout_cannot_be_parsed(text: str) -> None:
    """A typing mistake is told, not guessed at, and not repeated."""
    with pytest.raises(GatewayError) as refused:
        seconds_from_milliseconds(text)
    assert refused.value.cause is Cause.UNPARSEABLE


def test_a_header_sent_twice_must_say_the_same() -> None:
    """Two different values are a contradiction."""
    chosen: dict[str, str] = {}
    choose(chosen, "x-stack", "torchserve")
    choose(chosen, "x-stack", "torchserve")
    assert chosen == {"stack": "torchserve"}
    with pytest.raises(GatewayError, match="x-stack is sent twice"):
        choose(chosen, "x-stack", "tfserving")


def test_headers_are_printable_ascii() -> None:
    """A server's own name cannot add a header."""
    assert header_text('server="x\r\nset-cookie: é"') == 'server="x??set-cookie: ?"'


def test_contexts_are_the_calls_own(edge: Edge) -> None:
    """Timings start with the call and are shared with nobody."""
    one, other = edge.open("predict", "a").context, edge.open("predict", "b").context
    assert isinstance(one, CallContext)
    assert one.timings is not other.timings
