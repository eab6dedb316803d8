"""The bounds of a connection, with the event loop and the transport played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from gateway.frontends.rest.body import LINGER_BYTES, LINGER_SECONDS
from gateway.frontends.rest.direct import DirectHttpProtocol
from gateway.frontends.rest.http_protocol import (
    HEAD_SECONDS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    PARTING_SECONDS,
)

START = b"GET / HTTP/1.1\r\n"


class Timer:
    """What the protocol asked to be called later."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds = seconds
        self.call = call

    cancelled = False

    def cancel(self) -> None:
        """Forgets it."""
        self.cancelled = True


class Loop:
    """An event loop in which time stands still; tasks are kept, and closed, unstarted."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []
        self.tasks = 0

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Keeps the timer."""
        self.timers.append(Timer(seconds, call))
        return self.timers[-1]

    def create_task(self, work: Any) -> asyncio.Future[None]:
        """Counts the task."""
        work.close()
        self.tasks += 1
        return asyncio.get_running_loop().create_future()

    @property
    def pending(self) -> list[Timer]:
        """The timers that still run."""
        return [timer for timer in self.timers if not timer.cancelled]


class Wire(asyncio.Transport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.events: list[str] = []

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Keeps it."""
        self.written += bytes(data)

    def write_eof(self) -> None:
        """Says so."""
        self.events.append("eof")

    def close(self) -> None:
        """Says so."""
        self.events.append("close")

    def abort(self) -> None:
        """Says so."""
        self.events.append("abort")

    def pause_reading(self) -> None:
        """Says so."""
        self.events.append("pause")

    def resume_reading(self) -> None:
        """Says so."""
        self.events.append("resume")

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return "close" in self.events


async def nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """An application that is never started."""


class Connection:
    """A connection that has just been made."""

    def __init__(self) -> None:
        config = uvicorn.Config(nothing, http=DirectHttpProtocol, ws="none", log_config=None, lifespan="off")
        self.loop = Loop()
        self.wire = Wire()
        self.protocol = DirectHttpProtocol(config, ServerState(), {}, self.loop)  # type: ignore[arg-type]
        self.protocol.connection_made(self.wire)

    @property
    def status(self) -> int:
        """Of the one answer written."""
        assert self.wire.written.count(b"HTTP/1.1 ") == 1
        return int(self.wire.written.split()[1])


@pytest.fixture
async def connection() -> Connection:
    return Connection()


def head_of(size: int) -> bytes:
    """A head of exactly that many bytes."""
    return START + b"X: " + b"x" * (size - len(START) - 7) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [1000, 10**6])
@pytest.mark.parametrize(("size", "taken"), [(MAX_HEAD_BYTES, True), (MAX_HEAD_BYTES + 1, False)])
async def test_a_head_has_a_largest_size(connection: Connection, step: int, size: int, taken: bool) -> None:
    """However it is cut."""
    data = head_of(size)
    for start in range(0, size, step):
        connection.protocol.data_received(data[start : start + step])
    assert connection.loop.tasks == taken
    if not taken:
        assert connection.status == 431


@pytest.mark.parametrize(("count", "taken"), [(MAX_HEADERS, True), (MAX_HEADERS + 1, False)])
async def test_a_head_has_a_largest_number_of_headers(connection: Connection, count: int, taken: bool) -> None:
    """Each has its price, however short."""
    connection.protocol.data_received(START + b"X: y\r\n" * count + b"\r\n")
    assert connection.loop.tasks == taken
    if not taken:
        assert connection.status == 431


async def test_a_head_has_a_time_of_its_own(connection: Connection) -> None:
    """It starts with the head, not with the connection, and each part does not start it again."""
    (idle,) = connection.loop.pending
    connection.protocol.data_received(START)
    (timer,) = connection.loop.pending
    assert (timer.seconds, idle.cancelled) == (HEAD_SECONDS, True)
    connection.protocol.data_received(b"X: y\r\n")
    assert connection.loop.pending == [timer]
    timer.call()
    assert connection.status == 408


async def test_a_whole_head_needs_no_timer(connection: Connection) -> None:
    """In one piece or two, nothing runs on once it is there."""
    connection.protocol.data_received(START)
    connection.protocol.data_received(b"\r\n")
    assert connection.loop.tasks == 1
    assert connection.loop.pending == []


async def test_a_connection_that_says_nothing_is_closed(connection: Connection) -> None:
    """Without an answer, since nothing was asked."""
    (timer,) = connection.loop.pending
    timer.call()
    assert (connection.wire.written, connection.wire.events) == (b"", ["close"])


async def test_a_head_that_the_gateway_does_not_read_is_not_late(connection: Connection) -> None:
    """While requests before it are answered, its bytes wait in the socket."""
    connection.protocol.data_received((START + b"\r\n") * 2 + START)
    assert connection.wire.events == ["pause"]
    (timer,) = connection.loop.pending
    timer.cancel()
    timer.call()
    assert connection.wire.written == b""
    assert len(connection.loop.pending) == 1


async def test_a_refused_client_is_given_time_to_read(connection: Connection) -> None:
    """What it still sends is thrown away, up to a bound."""
    connection.protocol.data_received(b"no HTTP\r\n\r\n")
    assert connection.status == 400
    assert connection.wire.events == ["eof"]
    (timer,) = connection.loop.pending
    assert timer.seconds == LINGER_SECONDS
    connection.protocol.data_received(bytes(LINGER_BYTES))
    assert connection.wire.events == ["eof"]
    connection.protocol.data_received(b"x")
    assert connection.wire.events == ["eof", "abort"]
    timer.call()
    assert connection.wire.events[-1] == "close"


async def test_nothing_runs_on_when_the_connection_ends(connection: Connection) -> None:
    """No timer outlives it."""
    connection.protocol.data_received(START)
    connection.protocol.connection_lost(None)
    assert connection.loop.pending == []


async def test_what_follows_a_connect_is_not_read(connection: Connection) -> None:
    """It would be no HTTP, and there is no proxy here."""
    connection.protocol.data_received(b"CONNECT a:1 HTTP/1.1\r\n\r\n" + START + b"\r\n")
    assert connection.loop.tasks <= 1
    connection.protocol.data_received(START + b"\r\n")
    assert connection.loop.tasks <= 1


def ends_with_its_answer(connection: Connection) -> bool:
    """Whether the latest request is answered as if its client had asked for the connection's end."""
    cycle = connection.protocol.cycle
    return not cycle.keep_alive and (b"connection", b"close") in list(cycle.scope["headers"])


async def test_a_gateway_that_ends_leaves_an_idle_connection_time_for_a_request_on_its_way(
    connection: Connection,
) -> None:
    """It is answered, and its answer says that the connection ends; where none comes it is closed soon."""
    connection.protocol._stop_clock()
    connection.protocol.shutdown()
    (timer,) = connection.loop.pending
    assert (timer.seconds, connection.wire.events) == (PARTING_SECONDS, [])
    connection.protocol.data_received(START + b"\r\n")
    timer.call()
    assert ends_with_its_answer(connection)
    assert connection.wire.events == []
    connection.protocol.cycle.response_complete = True
    timer.call()
    assert connection.wire.events == ["close"]


async def test_a_gateway_that_ends_says_so_in_the_answers_that_are_under_way(connection: Connection) -> None:
    """A client that keeps connections would else send its next request on one that is being closed."""
    connection.protocol.data_received(START + b"\r\n")
    connection.protocol.shutdown()
    assert ends_with_its_answer(connection)
    assert connection.protocol.ends
    assert (connection.loop.pending, connection.wire.events) == ([], [])


def asked(method: bytes = b"POST", more: bytes = b"") -> bytes:
    """A whole request with a body."""
    return method + b" / HTTP/1.1\r\n" + more + b"Content-Length: 4\r\n\r\nbody"


async def test_a_body_that_is_there_is_taken_whole(connection: Connection) -> None:
    """Before its last byte, and where the client waits to be told to send it, it has to be received."""
    whole = asked()
    connection.protocol.data_received(whole[:-1])
    assert connection.protocol.take() is None
    connection.protocol.data_received(whole[-1:])
    assert connection.protocol.take() == b"body"
    other = Connection()
    other.protocol.data_received(asked(more=b"Expect: 100-continue\r\n"))
    assert other.protocol.take() is None


def answer(connection: Connection) -> bool:
    """Gives the running request its answer."""
    return connection.protocol.answer(200, [(b"content-length", b"2")], b"{}")


async def test_a_connection_whose_request_was_answered_early_is_kept_as_any_other(connection: Connection) -> None:
    """The time of what is left of its body ends with that; what starts then is the time between two requests."""
    whole = asked()
    connection.protocol.data_received(whole[:-2])
    assert answer(connection)
    connection.protocol.data_received(whole[-2:-1])
    (late,) = connection.loop.pending
    assert late.seconds == HEAD_SECONDS
    connection.protocol.data_received(whole[-1:])
    (idle,) = connection.loop.pending
    assert idle.seconds == connection.protocol.timeout_keep_alive
    connection.protocol.data_received(START)
    (head,) = connection.loop.pending
    assert head.seconds == HEAD_SECONDS
    connection.protocol.data_received(b"\r\n")
    assert connection.loop.pending == []


async def test_the_next_head_may_come_with_the_end_of_a_body_that_was_answered_early(connection: Connection) -> None:
    """It has the time of a head, and no other timer closes its connection."""
    whole = asked()
    connection.protocol.data_received(whole[:-2])
    assert answer(connection)
    connection.protocol.data_received(whole[-2:] + START)
    (head,) = connection.loop.pending
    assert head.seconds == HEAD_SECONDS


async def test_the_rest_of_a_body_that_was_answered_early_has_a_time(connection: Connection) -> None:
    """Nobody waits for it."""
    connection.protocol.data_received(asked()[:-2])
    assert answer(connection)
    connection.protocol.data_received(b"d")
    (late,) = connection.loop.pending
    late.call()
    assert connection.wire.events == ["close"]


async def test_a_whole_answer_goes_out_at_once(connection: Connection) -> None:
    """With the server's own headers; the connection is then ready for the next request."""
    connection.protocol.server_state.default_headers = [(b"date", b"today")]
    connection.protocol.data_received(asked())
    assert connection.protocol.answer(200, [(b"content-length", b"2")], b"{}")
    assert connection.wire.written == b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\n{}"
    assert not connection.protocol.answer(200, [], b"{}")
    connection.protocol.data_received(asked())
    assert connection.protocol.answer(404, [], b"")
    assert connection.wire.events == []


async def test_the_last_answer_of_a_connection_says_so(connection: Connection) -> None:
    """And closes it."""
    connection.protocol.data_received(asked(more=b"Connection: close\r\n"))
    assert connection.protocol.answer(200, [], b"")
    assert connection.wire.written.endswith(b"\r\nconnection: close\r\n\r\n")
    assert connection.wire.events == ["close"]


async def test_what_is_not_simple_to_answer_is_left_to_uvicorn(connection: Connection) -> None:
    """No answer to HEAD has a body, a slow reader has to be waited for, and who has gone reads nothing."""
    connection.protocol.data_received(asked(b"HEAD"))
    assert not connection.protocol.answer(200, [], b"{}")
    slow, gone = Connection(), Connection()
    for other in (slow, gone):
        other.protocol.data_received(asked())
    slow.protocol.pause_writing()
    gone.protocol.connection_lost(None)
    for other in (slow, gone):
        assert not other.protocol.answer(200, [], b"{}")
        assert other.wire.written == b""


@pytest.mark.parametrize("header", [(b"x-a", b"b\r\nx-c: d"), (b"x-a\n", b"b")])
async def test_a_header_cannot_hold_another(connection: Connection, header: tuple[bytes, bytes]) -> None:
    """Nothing is sent of an answer that would say more than it should."""
    connection.protocol.data_received(asked())
    with pytest.raises(ValueError, match="line end"):
        connection.protocol.answer(200, [header], b"{}")
    assert connection.wire.written == b""
