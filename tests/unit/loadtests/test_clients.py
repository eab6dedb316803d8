"""The HTTP/1.1 client of the load tests, and servers that answer in every way HTTP allows and in some it does not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.server import StreamServer

from loadtests.clients import HttpClient, _Replies
from loadtests.replies import Outcome, Reply

HEAD = b"HTTP/1.1 200 OK\r\n"
UPGRADE = b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\nX-Served-By: b\r\n\r\n"
MARKED = b"X-Served-By: a/tfserving\r\nSERVER-TIMING: total;dur=1\r\nDate: now\r\n"


class Scripted:
    """A server that answers each request with the next of its pieces, then closes where it is told to."""

    def __init__(self, answers: Sequence[Sequence[bytes]], close: bool) -> None:
        self._answers, self._close = iter(answers), close
        self.connections = 0
        self.server = StreamServer(("127.0.0.1", 0), self._answer)
        self.server.start()

    def _answer(self, taken: Any, address: object) -> None:
        del address
        self.connections += 1
        with taken:
            while taken.recv(65_536):
                for piece in next(self._answers):
                    taken.sendall(piece)
                    gevent.sleep(0.002)
                if self._close:
                    return


@contextmanager
def asked(
    *answers: Sequence[bytes], close: bool = False, timeout: float = 5.0
) -> Iterator[tuple[Scripted, Callable[[], Reply]]]:
    """The server, and what asks it once."""
    server = Scripted(answers, close)
    client = HttpClient(f"127.0.0.1:{server.server.server_port}", "/x", {}, timeout=timeout)
    try:
        yield server, lambda: client.send(client.prepared(b"{}"))
    finally:
        client.close()
        server.server.stop(timeout=0)


ANSWERS = {
    "with its length": [HEAD + MARKED + b"Content-Length: 4\r\n\r\nbody"],
    "byte after byte": [bytes([byte]) for byte in HEAD + MARKED + b"Content-Length: 4\r\n\r\nbody"],
    "in chunks": [HEAD + MARKED + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n", b"2\r\ndy\r\n0\r\n\r\n"],
    "after an interim reply": [INTERIM, HEAD + MARKED + b"Content-Length: 4\r\n\r\nbody"],
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_reply_is_read_however_it_comes_and_its_connection_is_used_again(answer: Sequence[bytes]) -> None:
    """Body, status and the header fields that say who answered."""
    with asked(answer, answer) as (server, ask):
        for _ in range(2):
            reply = ask()
            assert (reply.outcome, reply.body) == (Outcome.OK, b"body")
            assert reply.marks == {"x-served-by": "a/tfserving", "server-timing": "total;dur=1"}
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"\r\nbody",
        HEAD + b"Transfer-Encoding: identity\r\n\r\nbody",
        b"HTTP/1.0 200 OK\r\n\r\nbody",
        HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody",
    ],
    ids=["to the end of the connection", "in a coding without an end", "HTTP/1.0", "which is the last"],
)
def test_a_connection_that_ends_with_its_reply_is_followed_by_another(answer: bytes) -> None:
    """The reply is right all the same."""
    with asked([answer], [answer], close=True) as (server, ask):
        assert [(reply.outcome, reply.body) for reply in (ask(), ask())] == [(Outcome.OK, b"body")] * 2
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [b"", HEAD[:9], HEAD + b"Content-Length: 9\r\n\r\nbody", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n"],
    ids=["at once", "in the status line", "in the body", "between chunks"],
)
def test_a_reply_that_is_cut_off_is_a_lost_connection(answer: bytes) -> None:
    """Never half an answer; the next request has a connection of its own."""
    with asked([answer], [answer], close=True) as (server, ask):
        for _ in range(2):
            reply = ask()
            assert reply.outcome is Outcome.CONN_ERROR
            assert "closed the connection" in reply.detail
        assert server.connections == 2


@pytest.mark.parametrize("answer", [b"SSH-2.0-server\r\n", UPGRADE], ids=["no HTTP", "another protocol"])
def test_what_is_no_reply_is_a_lost_connection(answer: bytes) -> None:
    """With the parser's word for it; the next request has a connection of its own."""
    with asked([answer], [answer]) as (server, ask):
        for _ in range(2):
            reply = ask()
            assert (reply.outcome, reply.detail[:18]) == (Outcome.CONN_ERROR, "no HTTP/1.1 reply:")
        assert server.connections == 2


@pytest.mark.parametrize("more", [b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 5", b"?!", UPGRADE])
def test_what_follows_a_reply_unasked_answers_no_request(more: bytes) -> None:
    """It came in the same packet; the next request goes over another connection."""
    answer = HEAD + b"Content-Length: 4\r\n\r\nbody"
    with asked([answer + more], [answer]) as (server, ask):
        assert [ask().body for _ in range(2)] == [b"body", b"body"]
        assert server.connections == 2


def test_a_refusal_has_its_status_and_the_servers_words() -> None:
    """A body that is empty is none."""
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull"
    with asked([refusal], [empty], [refusal]) as (server, ask):
        refused, nothing, again = ask(), ask(), ask()
        assert (refused.detail, refused.outcome) == ("HTTP 503: full", again.outcome)
        assert (nothing.body, server.connections) == (b"", 1)


def test_nothing_waits_for_the_garbage_collector() -> None:
    """It does not run in a worker while that sends: neither replies, connections nor timers may be left to it."""
    last = HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody"
    answers = [[last], [HEAD + b"Content-Length: 9\r\n\r\nbody"]]
    gc.collect()
    gc.disable()
    try:
        with asked(*answers * 3, timeout=0.05) as (_, ask):
            outcomes = [ask().outcome for _ in range(6)]
        assert outcomes == [Outcome.OK, Outcome.TIMEOUT] * 3
        # The last of each may still be in somebody's hand.
        for kind in (_Replies, gevent.Timeout):
            assert sum(type(found) is kind for found in gc.get_objects()) <= 1
    finally:
        gc.enable()
