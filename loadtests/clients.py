"""What sends a request, and the HTTP/1.1 client: one connection, one request at a time, nothing retried or followed.

A reply's time runs from just before the send until its last byte is read. gRPC's is `engine.grpc_client`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import gevent
from gevent import socket
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from loadtests.errors import LoadTestError
from loadtests.replies import Outcome, Reply, outcome_of_status

MARKS = ("x-served-by", "x-server", "server-timing")
_MARKS = {name.encode(): name for name in MARKS}
_READ_BYTES = 64 * 1024
_DETAIL_CHARACTERS = 200


class Client(Protocol):
    """What a user needs of a transport. `opened` counts the connections that it has made."""

    opened: int

    def prepared(self, body: bytes) -> bytes:
        """The bytes that `send` takes for a request body; made once, outside every timer."""
        ...

    def send(self, request: bytes) -> Reply:
        """Sends one prepared request and reads its reply; failures are outcomes, never exceptions."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


class _Replies:
    """The replies on one connection, one after the other: what httptools' parser calls back, kept where it is needed.

    One parser lasts as long as its connection. They know each other, and a worker collects no garbage while it sends.
    """

    __slots__ = ("_framed", "_parser", "_parts", "marks", "reusable", "status", "whole")

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.expect()

    def expect(self) -> None:
        """The next reply begins."""
        self.status, self.reusable, self.whole, self._framed = 0, True, False, False
        self.marks: dict[str, str] = {}
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Takes what was read, nothing for the connection's end.

        Raises ConnectionError where that comes too early, or what came is no reply to a POST.
        """
        if data:
            try:
                self._parser.feed_data(data)
            except (HttpParserError, HttpParserUpgrade) as exc:
                if not self.whole:
                    raise ConnectionError(f"no HTTP/1.1 reply: {type(exc).__name__} {exc}") from exc
                self.reusable = False  # the rest of the packet is nobody's
        elif self.status and not self._framed:
            self.whole, self.reusable = True, False
        else:
            raise ConnectionError("the server closed the connection before its reply was whole")

    @property
    def body(self) -> bytes:
        """The content."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def on_message_begin(self) -> None:
        """A second reply to one request is nobody's: it ends the parsing, which `feed` hears as an error."""
        if self.whole:
            raise ConnectionError("a reply that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field of a reply, or of an interim one before it."""
        name = name.lower()
        if (mark := _MARKS.get(name)) is not None:
            self.marks[mark] = value.decode("latin-1")
        # Where neither says how long the body is, it ends with the connection (RFC 9112, section 6.3).
        elif name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            self._framed = value.rpartition(b",")[2].strip().lower() == b"chunked"

    def on_headers_complete(self) -> None:
        """The status is known."""
        self.status = int(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        """A piece of the content."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """The end of the reply; an interim one (1xx) has another after it."""
        if self.status < 200:
            self.expect()
        else:
            self.whole, self.reusable = True, bool(self._parser.should_keep_alive())

    def close(self) -> None:
        """Parts the two."""
        del self._parser


class HttpClient:
    """HTTP/1.1 POST over one kept-alive connection, which is reopened after an error. Plain http only."""

    def __init__(self, address: str, path: str, headers: Mapping[str, str], *, timeout: float) -> None:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if parts.scheme not in ("", "http") or not parts.hostname:
            raise LoadTestError(f"'{address}': expected host:port or http://host:port")
        self._host, self._port = parts.hostname, parts.port or 80
        self._timeout = timeout
        self._socket: Any = None
        self._replies: Any = None  # of the connection
        self.opened = 0
        lines = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "Accept": "application/json",
            # A compressed answer would measure the compressor.
            "Accept-Encoding": "identity",
            "User-Agent": "twinserve-loadtest",
            **headers,
        }
        head = f"POST {parts.path.rstrip('/')}{path} HTTP/1.1\r\n"
        self._head = head + "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    def prepared(self, body: bytes) -> bytes:
        """The whole request: head and body."""
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body

    def send(self, request: bytes) -> Reply:
        """One request. Its time includes the connection's set-up where there is none yet."""
        started = time.perf_counter()
        timer = gevent.Timeout.start_new(self._timeout)
        try:
            status, body, marks = self._exchange(request)
        except gevent.Timeout as expired:
            self.close()
            if expired is not timer:
                raise
            return Reply(Outcome.TIMEOUT, time.perf_counter() - started, detail=f"no reply in {self._timeout:g} s")
        except OSError as exc:
            self.close()
            return Reply(Outcome.CONN_ERROR, time.perf_counter() - started, detail=str(exc) or type(exc).__name__)
        finally:
            timer.close()
            del timer  # its traceback has this frame, which has it
        seconds = time.perf_counter() - started
        outcome = outcome_of_status(status)
        detail = "" if outcome is Outcome.OK else f"HTTP {status}: {_text(body)}"
        return Reply(outcome, seconds, body, detail, marks)

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._replies.close()
            self._socket = self._replies = None

    def _exchange(self, request: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self._socket is not None and self._left():
            self.close()
        if self._socket is None:
            self.opened += 1
            self._socket = socket.create_connection((self._host, self._port))
            self._replies = _Replies()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reply, read = self._replies, self._socket.recv
        self._socket.sendall(request)
        while not reply.whole:
            reply.feed(read(_READ_BYTES))
        if not reply.reusable:
            self.close()
        found = reply.status, reply.body, reply.marks
        reply.expect()  # an idle connection keeps no body
        return found

    def _left(self) -> bool:
        """Whether the server closed the idle connection (or wrote what nobody asked for): it carries no request."""
        self._socket.settimeout(0.0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(None)
        return True


def _text(body: bytes) -> str:
    return " ".join(body[:_DETAIL_CHARACTERS].decode("utf-8", "replace").split())
