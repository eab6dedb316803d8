"""HTTP/1.1 as uvicorn speaks it, with bounds on what it takes before a request is whole, and without upgrades."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.frontends.rest.body import CONNECTION, LINGER_BYTES, LINGER_SECONDS

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

# The parser has no limits of its own, and joins a long header piece by piece at quadratic cost.
MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 200
# So many requests may wait on a connection for the answers before theirs: they take memory that nothing else counts.
MAX_WAITING = 128
# While more than this wait, no more is read.
READ_WAITING = 8
# How long a request's head may take to arrive, and how long a connection may stay open that never sent one.
HEAD_SECONDS = 10.0
# How long a connection without a request stays open when the gateway ends: one may be on its way.
PARTING_SECONDS = 0.25
CLOSE = (b"connection", b"close")
# A body up to this size is copied behind its head, which costs less than to write two pieces.
JOINED_BYTES = 65_536
_LAST_LINES = b"connection: close\r\n\r\n"
# The server's own headers, which it makes anew each second, and their lines.
_defaults: tuple[Sequence[tuple[bytes, bytes]], bytes] = ((), b"")


def lines_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The headers' lines, each with its end; raises ValueError where one of them would be more than a line."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers):
        raise ValueError("a header holds a line end")
    return lines


def _default_lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    global _defaults  # noqa: PLW0603 - the same for all connections, and looked for with each answer
    known, lines = _defaults
    if known is not headers:
        lines = lines_of(headers)
        _defaults = headers, lines
    return lines


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A head, or the framing between two parts of a body, is refused (431) when it grows too large
    and (408) when it takes too long; `Upgrade` is ignored, as RFC 9110, section 7.8, allows. With more than
    `MAX_WAITING` requests ahead of their answers the connection ends once those are answered: a client sends the others
    again, as RFC 9112, section 9.3.2, has it.
    """

    head_seconds = HEAD_SECONDS

    _running: RequestResponseCycle | None = None
    _clock: asyncio.TimerHandle | None = None
    _gone: Callable[[], None] | None = None
    # When the last answer went out, while its timer runs: it is set anew only when it is due, not with each answer.
    _idle_since = 0.0
    # Bytes since the request, or its body, last made progress.
    _framing = 0
    _head_open = False
    _upgrading = False
    # The gateway ends: so does this connection, with the next answer.
    _parting = False
    # Whatever a refused client still sends is thrown away, this much so far.
    _refused = False
    _discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts waiting for the first request."""
        super().connection_made(transport)
        self._start_clock()

    def take(self) -> bytes | None:
        """The running request's body; None where not all of it is there, or the client waits to be told to send it."""
        running = self._running
        if running is None or running.more_body or running.waiting_for_100_continue or running.disconnected:
            return None
        body, running.body = running.body, bytearray()
        # As `receive` would: nothing tells the client of more that is to come.
        running.message_event.clear()
        return bytes(body)

    @property
    def ends(self) -> bool:
        """Whether the connection ends with the running request's answer."""
        return self._running is not None and not self._running.keep_alive

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Sends the running request's whole answer in one go; false, and nothing is sent, where that is not simple.

        uvicorn's `send` searches each header for what may not be in it, and takes two calls.
        """
        return self.answer_lines(status, lines_of(headers), body)

    def answer_lines(self, status: int, lines: bytes, body: bytes) -> bool:
        """The same of headers that are lines already, each with its end."""
        cycle = self._running
        if cycle is None or cycle.response_started or cycle.disconnected or cycle.scope["method"] == "HEAD":
            return False
        if self.flow.write_paused or self.transport.is_closing():
            return False
        end = b"\r\n" if cycle.keep_alive else _LAST_LINES
        head = STATUS_LINE[status], _default_lines(self.server_state.default_headers), lines, end
        if len(body) <= JOINED_BYTES:
            self.transport.write(b"".join((*head, body)))
        else:
            self.transport.writelines((*head, body))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            if self._refused and not self.pipeline:
                self._linger()
            else:
                self.transport.close()
        cycle.on_response()
        return True

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Calls `gone` once when the client leaves, soon where it has left already; None ends that."""
        self._gone = gone
        if gone is None or self._running is None:
            return
        if self._running.disconnected:
            self.loop.call_soon(self._tell_gone)
        # Who does not read cannot see the client leave.
        if len(self.pipeline) <= READ_WAITING:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells every request that has no whole answer yet; the base class tells the latest only."""
        self._stop_clock()
        self._tell_gone()
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in waiting if self._running is None else [self._running, *waiting]:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, no more at a time than may still belong to a head."""
        if self._refused:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        rest: bytes | memoryview = data
        while rest and not self._refused:
            room = MAX_HEAD_BYTES - self._framing
            if room <= 0:
                self._refuse(431, f"the head of the request is larger than {MAX_HEAD_BYTES} bytes")
                return
            part = rest if len(rest) <= room else memoryview(rest)[:room]
            self._framing += len(part)
            done = self._feed(part)
            rest = b"" if done == len(rest) else memoryview(rest)[done:]
        if self._refused or self.timeout_keep_alive_task is not None:
            return
        if self._head_open or self.cycle is None or self.cycle.response_complete:
            self._start_clock()

    def shutdown(self) -> None:
        """The gateway ends. What is being answered is, and so is a request that may be on its way, which a closed
        connection would cut off without a word; each answer from now on says that the connection ends with it.
        """
        self._parting = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(PARTING_SECONDS, self._part)
        else:
            self._announce_end()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP."""
        self._refuse(400, msg)

    def on_message_begin(self) -> None:
        """A head starts, with a time of its own."""
        self._stop_clock()
        self._unset_keepalive_if_required()
        self._head_open = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header of the head, and discards those after a body, as RFC 9110, section 6.5.1, allows."""
        if not self._head_open:
            return
        # As the base class has it, which would be one more call for each header.
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            raise ValueError(f"more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        """Starts the request, unless its head has to be parsed again without `Upgrade`."""
        self._framing = 0
        self._head_open = False
        self._stop_clock()
        self._upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self._upgrading:
            if len(self.pipeline) >= MAX_WAITING:
                raise ValueError(f"more than {MAX_WAITING} requests wait")
            super().on_headers_complete()
            if self._parting:
                self._announce_end()

    def on_body(self, body: bytes) -> None:
        """Progress."""
        self._framing = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Progress; the parser claims it of an upgrade too, whose body it skips."""
        self._framing = 0
        if not self._upgrading:
            super().on_message_complete()
            if self.cycle.response_complete:
                # Answered before it was whole: only from now on does the connection wait for the next request.
                self._stop_clock()
                self._wait_for_next()

    def on_response_complete(self) -> None:
        """Goes on with the next request, and reads more once few of them wait."""
        if not self.pipeline:
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self.flow.resume_reading()
                self._wait_for_next()
            return
        super().on_response_complete()
        if len(self.pipeline) > READ_WAITING and not self._refused and not self.transport.is_closing():
            self.flow.pause_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that nobody has used for that long."""
        self.timeout_keep_alive_task = None
        if not self.cycle.response_complete:
            # The answer sets it anew.
            return
        left = self._idle_since + self.timeout_keep_alive - time.monotonic()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _wait_for_next(self) -> None:
        """Waits for the next request, as long as a connection is kept."""
        self._idle_since = time.monotonic()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _should_upgrade(self) -> bool:
        return False

    def _announce_end(self) -> None:
        """Ends the connection with the answer to its latest request, as if its client had asked for that."""
        self.cycle.keep_alive = False
        headers = cast("list[tuple[bytes, bytes]]", self.cycle.scope["headers"])
        if CLOSE not in headers:
            headers.append(CLOSE)

    def _part(self) -> None:
        """Closes a connection on which nothing is asked; a head that has begun has its own time."""
        if not self._head_open and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    def _tell_gone(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cast("dict[str, Any]", cycle.scope)[CONNECTION] = self
        super()._start_asgi_task(cycle, app)

    def _feed(self, data: bytes | memoryview) -> int:
        """Parses, and returns how many bytes of `data` are done with."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            return self._ignore_upgrade(int(stopped.args[0]), len(data))
        except httptools.HttpParserError:
            if self._head_open and len(self.headers) > MAX_HEADERS:
                self._refuse(431, f"the request has more than {MAX_HEADERS} headers")
            else:
                self._refuse(400, "the request is not valid HTTP/1.1")
        return len(data)

    def _ignore_upgrade(self, offset: int, size: int) -> int:
        if not self._upgrading:
            # CONNECT is answered like any unknown method; what follows it is no HTTP.
            self._refused = True
            self.cycle.keep_alive = False
            return size
        self._upgrading = False
        head = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        # The parser has made up its mind to skip the body, so that another one takes over, from the same head.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(memoryview(b"".join([*head, b"\r\n"])))
        return offset

    def _refuse(self, status: int, detail: str) -> None:
        """Answers what cannot be served, and closes once the client had the time to read it."""
        self._refused = True
        self._stop_clock()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline or not cycle.more_body:
                # Requests before it are still being answered; the connection ends with the last of them.
                cycle.keep_alive = False
                # What stays unread would reset the connection as it closes.
                self.flow.resume_reading()
                return
            # What cannot be parsed is this request's body, which will never be whole.
            cycle.disconnected = True
            cycle.message_event.set()
        if self.transport.is_closing():
            return
        body = orjson.dumps({"error": detail})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        """Closes later: under a client that still writes it resets the connection, and the answer is lost with it."""
        self._stop_clock()
        self.transport.write_eof()
        self._clock = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self.head_seconds, self._late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self.flow.read_paused:
            # It is the gateway that does not read.
            self._start_clock()
        elif self._head_open:
            self._refuse(408, f"the head of the request did not arrive within {self.head_seconds:g} s")
        else:
            self.transport.close()
