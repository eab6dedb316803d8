"""One HTTP/1.1 connection to a model server: one request at a time, one whole reply, every size bounded.

It knows no more of HTTP than model servers need: a request with its length announced; a reply whose body has a length,
comes in chunks or ends with the connection (RFC 9112, section 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import httptools

from gateway.backends.errors import bad_reply, lost, too_late
from gateway.core.backend import into
from gateway.core.deadlines import Deadlines
from gateway.core.errors import GatewayError
from gateway.core.http_head import Repeated, repeatable
from gateway.core.values import value_type

# The parser has no limits of its own: this much may come that is no body, between two parts of the body too.
MAX_FRAMING_BYTES = 256 << 10
# Model servers send a dozen; each costs many times its bytes.
MAX_HEADERS = 256
_IDENTITY = b"identity"
_CHUNKED = b"chunked"


class Headers(Mapping[str, str]):
    """A reply's headers, looked up whatever their case; the first of a name counts."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def __getitem__(self, key: str) -> str:
        wanted = key.lower().encode("latin-1")
        for name, value in self._raw:
            if name.lower() == wanted:
                return value.decode("latin-1").strip()
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower().decode("latin-1") for name, _ in self._raw))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@value_type(frozen=True, slots=True)
class HttpReply:
    """A complete HTTP answer; `headers` ignores case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> bool:
        """Whether the answer calls itself JSON."""
        return "json" in self.headers.get("Content-Type", "")


# How an exchange has ended: CancelledError where that was us.
Ended = Callable[[HttpReply | BaseException], None]


class HttpConnection(asyncio.Protocol):
    """The client's end of one connection. `opened` is told once it is there, `gone` once it is closed by either side.

    A reply of more than `max_reply_bytes`, one that is compressed, and what is no HTTP end the connection, since the
    rest of the reply would still be on it.
    """

    def __init__(
        self,
        *,
        server: str,
        max_reply_bytes: int,
        opened: Callable[[HttpConnection], None],
        gone: Callable[[HttpConnection], None],
        deadlines: Deadlines,
    ) -> None:
        self._server = server
        self._max_reply_bytes = max_reply_bytes
        self._opened = opened
        self._gone = gone
        self._deadlines = deadlines
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._ended: Ended | None = None
        # How the exchange has ended, until the parser, which may be what says so, has returned.
        self._outcome: HttpReply | BaseException | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        # The reply's, while those of `_headers` may be trailers.
        self._raw = self._headers
        # The last reply's head, which the next one's is likely to be.
        self._last: Repeated[tuple[int, Headers]] | None = None
        self._fields = Headers(self._headers)
        self._body: bytes | bytearray = b""
        self._framing = 0
        # A body without a length and without chunks ends with the connection.
        self._until_close = False
        self.answered = False
        self.idle_since = 0.0

    @property
    def reusable(self) -> bool:
        """Whether the next request may go this way."""
        return not self._transport.is_closing()

    async def exchange(self, head: bytes, body: bytes | None, deadline: float) -> HttpReply:
        """The reply to one request; raises UPSTREAM_LOST, UPSTREAM_BAD_REPLY, and DEADLINE at that time of the loop.

        However it fails, or is cancelled, the connection ends. Only for one that is `reusable`: nobody would tell of
        the end of one that has ended.
        """
        waiter: asyncio.Future[HttpReply] = asyncio.get_running_loop().create_future()
        self.start(head, body, deadline, into(waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            self.cancel()
            raise

    def start(self, head: bytes, body: bytes | None, deadline: float, ended: Ended) -> None:
        """The same without waiting: `ended` is called once, with the reply or with what `exchange` raises."""
        self._ended = ended
        self._deadlines.add(self, deadline)
        self.answered = False
        self._framing = 0
        if body is None:
            self._transport.write(head)
        elif len(body) <= 65536:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def cancel(self) -> None:
        """Ends the connection at once, and its call as one that was cancelled."""
        self._fail(asyncio.CancelledError())
        self._transport.abort()
        self._tell()

    def abort(self) -> None:
        """Ends the connection at once; a call on it fails with UPSTREAM_LOST."""
        self._fail(lost(self._server))
        self._transport.abort()
        self._tell()

    def expire(self) -> None:
        """The time of its call is over."""
        self._fail(too_late(self._server))
        self._tell()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once."""
        self._transport = transport  # type: ignore[assignment]
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what comes unasked ends the connection."""
        if self._ended is None:
            self._transport.abort()
            return
        self.answered = True
        last, first = self._last, not self._framing
        body = last.body(data) if last is not None and first else None
        if body is not None and last is not None and len(body) <= self._max_reply_bytes:
            self._end(*last.made, body)
            self._tell()
            return
        self._last = None
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(bad_reply(self._server, "it is no HTTP/1.1"))
            # Also where the reply was whole, and this came behind it: the parser is of no more use.
            self._transport.abort()
        if self._framing > MAX_FRAMING_BYTES:
            self._fail(bad_reply(self._server, f"more than {MAX_FRAMING_BYTES} bytes that are no body"))
        outcome = self._outcome
        if outcome is not None:
            if first and isinstance(outcome, HttpReply):
                self._last = repeatable(data, self._raw, outcome.body, (outcome.status, self._fields))
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the reply that ends so, and fails any other."""
        if exc is None and self._until_close:
            self._finish()
        self._fail(lost(self._server, exc or ConnectionError("the server closed the connection")))
        self._gone(self)
        self._tell()

    # -- httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A reply starts; one that comes right behind the one asked for would be the next request's."""
        if self._outcome is not None:
            self._transport.abort()
        self._headers = self._raw = []
        self._fields = Headers(self._headers)
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer, of which none is kept."""
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            self._fail(bad_reply(self._server, f"more than {MAX_HEADERS} headers"))
            # Stops the parser, which may still have many to tell.
            raise ValueError

    def on_headers_complete(self) -> None:
        """Refuses what is too large or compressed before any of it is kept.

        The parser has refused lengths that are none, two of them, and a length beside chunks: what ends a reply must
        not be a matter of opinion (RFC 9112, section 6.3).
        """
        if self._parser.get_status_code() < 200:
            # An interim reply has no body, and its end is not that of the connection. Their number is bounded, too.
            return
        self._framing = 0
        length: int | None = None
        chunked = False
        for name, value in self._headers:
            size = len(name)
            if size == 14 and name.lower() == b"content-length":
                length = int(value)
            elif size == 17 and name.lower() == b"transfer-encoding":
                if chunked or value.strip().lower() != _CHUNKED:
                    self._fail(bad_reply(self._server, "a transfer encoding that was not asked for"))
                chunked = True
            elif size == 16 and name.lower() == b"content-encoding" and value.strip().lower() != _IDENTITY:
                self._fail(bad_reply(self._server, "a content encoding that was not asked for"))
        if length is not None and length > self._max_reply_bytes:
            self._fail(self._too_large())
        self._until_close = length is None and not chunked
        # Trailers go where nobody looks: what is the body's must not pass for the reply's.
        self._headers = []

    def on_body(self, data: bytes) -> None:
        """Keeps one part of the body. An object for each would be many times the cap where parts are tiny."""
        self._framing = 0
        if len(self._body) + len(data) > self._max_reply_bytes:
            self._fail(self._too_large())
        elif not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body) + data

    def on_message_complete(self) -> None:
        """The reply is whole, unless it was but an interim one (RFC 9110, section 15.2)."""
        if self._parser.get_status_code() >= 200:
            self._finish()

    def _finish(self) -> None:
        self._until_close = False
        if self._ended is None or self._outcome is not None:
            return
        # bytes() of bytes is the same object.
        self._end(self._parser.get_status_code(), self._fields, bytes(self._body))
        self._body = b""
        if not self._parser.should_keep_alive():
            self._transport.abort()

    def _end(self, status: int, fields: Headers, body: bytes) -> None:
        """The reply is whole."""
        self._outcome = HttpReply(status, fields, body)
        # A server may answer before it has read everything: the rest of the request is then in the way of the next. An
        # orderly close would wait until it has been read, which a server that has its answer out may never do.
        if self._transport.get_write_buffer_size():
            self._transport.abort()

    def _fail(self, error: GatewayError | asyncio.CancelledError) -> None:
        if self._ended is not None and self._outcome is None:
            self._outcome = error
            self._transport.abort()

    def _tell(self) -> None:
        """Tells how the exchange has ended, once. Whoever hears it may start the next one."""
        ended, outcome = self._ended, self._outcome
        if ended is not None and outcome is not None:
            self._ended = self._outcome = None
            self._deadlines.remove(self)
            ended(outcome)

    def _too_large(self) -> GatewayError:
        return bad_reply(self._server, f"more than {self._max_reply_bytes} bytes")
