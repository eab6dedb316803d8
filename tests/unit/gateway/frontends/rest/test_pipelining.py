"""Requests that are sent ahead of the answers before theirs."""

from __future__ import annotations

import pytest

from gateway.frontends.rest.body import LINGER_SECONDS
from gateway.frontends.rest.http_protocol import MAX_WAITING, READ_WAITING
from tests.unit.gateway.frontends.rest.test_http_protocol import Connection, answer, asked


@pytest.fixture
async def connection() -> Connection:
    return Connection()


async def test_a_connection_has_a_largest_number_of_requests_that_wait(connection: Connection) -> None:
    """Those up to it are answered, the last of them says that the connection ends, and more are thrown away unread."""
    connection.protocol.data_received(asked() * 1000)
    assert len(connection.protocol.pipeline) == MAX_WAITING
    connection.protocol.data_received(asked() * 1000)
    assert len(connection.protocol.pipeline) == MAX_WAITING
    assert connection.wire.events == ["pause", "resume"]
    for number in range(MAX_WAITING + 1):
        assert connection.protocol.ends is (number == MAX_WAITING)
        assert answer(connection)
    assert connection.loop.tasks == MAX_WAITING + 1
    *_, before, last = connection.wire.written.split(b"HTTP/1.1 200 OK\r\n")
    assert (b"connection: close" in before, b"connection: close" in last) == (False, True)
    # The client is given the time to read them all.
    assert connection.wire.events == ["pause", "resume", "eof"]
    assert LINGER_SECONDS in [timer.seconds for timer in connection.loop.pending]


@pytest.mark.parametrize("behind", [READ_WAITING + 2, MAX_WAITING + 1])
async def test_what_waits_behind_an_answer_that_ends_the_connection_is_not_answered(
    connection: Connection, behind: int
) -> None:
    """However much it is: where a refusal closes the connection, that is its last answer."""
    connection.protocol.data_received(asked() * (1 + behind))
    running = connection.protocol._running
    assert running is not None
    running.keep_alive = False
    assert answer(connection)
    assert connection.loop.tasks == 1
    assert connection.wire.events[-1] == "close"


async def test_a_hundred_requests_at_once_are_all_answered(connection: Connection) -> None:
    """And the connection goes on."""
    connection.protocol.data_received(asked() * 100)
    for _ in range(100):
        assert answer(connection)
    connection.protocol.data_received(asked())
    assert answer(connection)
    assert connection.wire.written.count(b"HTTP/1.1 200 OK") == 101
    assert b"connection: close" not in connection.wire.written


async def test_no_more_is_read_while_many_requests_wait(connection: Connection) -> None:
    """Watching for the client's leaving makes a long queue no longer; behind a short one there is room."""
    connection.protocol.data_received(asked() * (READ_WAITING + 3))
    for _ in range(2):
        assert len(connection.protocol.pipeline) > READ_WAITING
        connection.protocol.watch(lambda: None)
        assert connection.wire.events[-1] == "pause"
        assert answer(connection)
    assert len(connection.protocol.pipeline) == READ_WAITING
    connection.protocol.watch(lambda: None)
    assert connection.wire.events[-1] == "resume"
