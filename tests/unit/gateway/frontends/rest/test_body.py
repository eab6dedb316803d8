"""Reading bodies under caps, and watching for clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import pytest
from starlette.types import Message

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import Admission, Limits
from gateway.frontends.rest.body import LINGER_SECONDS, SMALL_BODY_BYTES, Body, while_connected
from tests.unit.gateway.frontends.rest.asgi import GONE, chunk, receiving

CAP = 100


def body_of(messages: Iterable[Message], length: bytes | None = None) -> Body:
    return Body(receiving(messages), [] if length is None else [(b"content-length", length)], cap=CAP)


async def read(body: Body, timeout_s: float = 5, room: int = 1000) -> bytes:
    admission = Admission(Limits(in_flight_bytes=room))
    with admission.receive() as ticket:
        data = await body.read(ticket, timeout_s)
        assert ticket.taken == len(data)
        assert (admission.arriving, admission.in_flight) == (0, 1)
    assert admission.in_flight_bytes == 0
    return data


async def refusal(body: Body, timeout_s: float = 5, room: int = 1000) -> Cause:
    with pytest.raises(GatewayError) as refused:
        await read(body, timeout_s, room)
    return refused.value.cause


@pytest.mark.parametrize(
    ("messages", "length"),
    [
        ([chunk(b"x" * CAP)], b"100"),
        ([chunk(b"x" * CAP)], None),
        ([chunk(b"x" * 60, True), chunk(b"x" * 40, True), chunk()], None),
        ([chunk(b"x", True)] * CAP + [chunk()], b"000100"),
    ],
)
async def test_a_body_up_to_the_cap_is_read(messages: list[Message], length: bytes | None) -> None:
    """Declared or chunked, in one part or many."""
    body = body_of(messages, length)
    assert await read(body) == b"x" * CAP
    assert body.complete


async def test_no_body_is_an_empty_one() -> None:
    """What it means is the codec's to say."""
    assert await read(body_of([chunk()])) == b""


@pytest.mark.parametrize("length", [b"101", b"9" * 5000])
async def test_a_declared_length_over_the_cap_is_refused_unread(length: bytes) -> None:
    """Nothing is received, however long the number is."""
    assert await refusal(body_of([], length)) is Cause.TOO_LARGE


async def test_a_chunked_body_over_the_cap_is_refused_as_it_passes_it() -> None:
    """The count is of what came, whatever was, or was not, declared."""
    assert await refusal(body_of([chunk(b"x" * 60, True), chunk(b"x" * 41, True)])) is Cause.TOO_LARGE
    assert await refusal(body_of([chunk(b"x" * 101)], b"5")) is Cause.TOO_LARGE


@pytest.mark.parametrize("length", [b"-1", b"+5", b"5,5", b"0x5", b"", b" 5", "٣".encode()])
async def test_a_length_that_is_no_number_cannot_be_parsed(length: bytes) -> None:
    """Nothing is guessed about where a body ends."""
    body = body_of([chunk(b"x")], length)
    assert await refusal(body) is Cause.UNPARSEABLE
    assert not body.skippable


async def test_a_body_for_which_there_is_no_room_is_refused() -> None:
    """A declared length is refused before it is read; a chunked body where it no longer fits."""
    assert await refusal(body_of([], b"51"), room=50) is Cause.OVERLOADED
    assert await refusal(body_of([chunk(b"x" * 50, True), chunk(b"x")]), room=50) is Cause.OVERLOADED


async def test_only_bytes_that_came_take_room() -> None:
    """A declared length is checked, not counted, and the request is not in flight before its body is whole."""
    admission = Admission(Limits(in_flight_bytes=100))
    seen: list[tuple[int, int]] = []

    async def receive() -> Message:
        seen.append((admission.in_flight_bytes, admission.in_flight))
        return chunk(b"x" * 10, len(seen) < 3)

    with admission.receive() as ticket:
        await Body(receive, [(b"content-length", b"30")], cap=CAP).read(ticket, 5)
        assert (admission.in_flight_bytes, admission.in_flight) == (30, 1)
    assert seen == [(0, 0), (10, 0), (20, 0)]


async def test_a_slow_body_is_given_up() -> None:
    """A client that stalls gets its answer, and its place goes to another."""
    assert await refusal(body_of([chunk(b"x", True)], b"50"), timeout_s=0.01) is Cause.CLIENT_TOO_SLOW


async def test_a_client_that_leaves_in_the_middle_is_gone() -> None:
    """There is nobody to answer."""
    body = body_of([chunk(b"x", True), GONE], b"50")
    assert await refusal(body) is Cause.CLIENT_GONE
    assert body.complete


@pytest.mark.parametrize(
    ("length", "skippable"),
    [
        (None, False),
        (b"10", True),
        (str(SMALL_BODY_BYTES).encode(), True),
        (str(SMALL_BODY_BYTES + 1).encode(), False),
        (b"9" * 5000, False),
    ],
)
async def test_only_a_small_declared_body_can_be_skipped(length: bytes | None, skippable: bool) -> None:
    """Only then is it known, and soon, where the connection's next request starts."""
    assert body_of([], length).skippable is skippable


async def test_the_rest_of_a_refused_body_is_thrown_away() -> None:
    """Until it ends, or its client leaves."""
    for last in (chunk(b"end"), GONE):
        body = body_of([chunk(b"x" * 200, True), chunk(b"x", True), last])
        assert await refusal(body) is Cause.TOO_LARGE
        await body.discard(5)
        assert body.complete


class Skipping(asyncio.SelectorEventLoop):
    """An event loop whose time is moved on by the test."""

    skipped = 0.0

    def time(self) -> float:
        """What it would be, and what was skipped."""
        return super().time() + self.skipped


@pytest.mark.parametrize(("allowed_s", "whole"), [(60, True), (3, False)])
def test_a_refused_client_may_be_slow_but_not_silent(allowed_s: float, whole: bool) -> None:
    """Each part of its body may take its time, all of them together no longer than any body may."""
    loop = Skipping()
    left = 10

    async def receive() -> Message:
        nonlocal left
        left -= 1
        loop.skipped += 0.6 * LINGER_SECONDS
        await asyncio.sleep(0)
        return chunk(b"x", left > 0)

    body = Body(receive, [(b"content-length", b"1000")], cap=CAP)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body.discard(allowed_s))
    assert body.complete is whole


async def test_a_small_body_is_not_skipped_where_the_connection_ends_with_the_answer() -> None:
    """Closed on what was not read, it would be reset, and the answer lost."""
    connection = Knowing()
    body = Body(receiving([]), [(b"content-length", b"10")], cap=CAP, connection=connection)
    assert body.skippable
    connection.ends = True
    assert not body.skippable


async def test_the_result_comes_while_the_client_stays() -> None:
    """Late parts of a body are no disconnect."""

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await while_connected(receiving([chunk(), chunk()]), work()) == "done"


async def test_work_ends_when_its_client_leaves() -> None:
    """The work is cancelled, its cleaning up is waited for, and the task goes on."""
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    with pytest.raises(GatewayError) as gone:
        await while_connected(receiving([GONE]), work())
    assert gone.value.cause is Cause.CLIENT_GONE
    assert cleaned
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_broken_connection_is_a_client_that_left() -> None:
    """A receive that raises has nothing more to give."""

    async def receive() -> Message:
        raise ConnectionResetError

    with pytest.raises(GatewayError) as gone:
        await while_connected(receive, asyncio.Event().wait())
    assert gone.value.cause is Cause.CLIENT_GONE


class Knowing:
    """A connection that knows by itself whether the body is there, and when its client leaves."""

    def __init__(self, body: bytes | None = None) -> None:
        self.body = body
        self.gone: Callable[[], None] | None = None
        self.ends = False

    def take(self) -> bytes | None:
        return self.body

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        raise AssertionError("nothing is answered here")

    def watch(self, gone: Callable[[], None] | None) -> None:
        self.gone = gone


async def test_a_connection_that_knows_its_client_needs_no_task_to_watch() -> None:
    """It tells of the client's leaving, which ends the work, and is asked only as long as the work goes on."""
    connection = Knowing()

    async def work() -> None:
        assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"watch for disconnect"})
        assert connection.gone is not None
        connection.gone()
        await asyncio.Event().wait()

    with pytest.raises(GatewayError) as gone:
        await while_connected(receiving([]), work(), connection)
    assert gone.value.cause is Cause.CLIENT_GONE
    assert connection.gone is None
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_body_that_has_arrived_is_bounded_as_any_other(arrived: bool) -> None:
    """Only the timer is left out."""

    def known(size: int) -> Body:
        body = b"a" * size
        connection = Knowing(body if arrived else None)
        return Body(receiving([] if arrived else [chunk(body)]), [], cap=CAP, connection=connection)

    assert await read(known(CAP)) == b"a" * CAP
    assert await refusal(known(CAP + 1)) is Cause.TOO_LARGE
    assert await refusal(known(CAP), room=CAP - 1) is Cause.OVERLOADED


async def test_somebody_elses_cancel_stays_a_cancel() -> None:
    """A server that ends its tasks is not a client that left."""
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(while_connected(receiving([]), work()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_goes_through() -> None:
    """And the watch for the disconnect ends with it."""

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await while_connected(receiving([]), work())
    await asyncio.sleep(0)
    assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"watch for disconnect"})
