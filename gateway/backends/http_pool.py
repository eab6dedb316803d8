"""The HTTP way to a model server: a pool of HTTP/1.1 connections.

A call is bounded in time by its deadline and in size by the reply cap; no redirect is followed, no proxy used, no
cookie kept, nothing inflated, and no POST sent twice: once a byte of it may have been read, its failure is
UPSTREAM_LOST.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from urllib.parse import urlsplit

from gateway.backends.channel import CONNECT_TIMEOUT_S, MAX_REPLY_BYTES
from gateway.backends.errors import lost, too_late, translated, unreachable
from gateway.backends.http_connection import Ended, HttpConnection, HttpReply
from gateway.backends.room import Room
from gateway.core.deadlines import Deadlines
from gateway.core.errors import Cause, GatewayError

__all__ = ["HttpPool", "HttpReply"]

# Shorter than any model server keeps an idle connection, so that it is we who close it.
_KEEPALIVE_S = 15.0
_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL taken apart: where to connect, and the request line's target with the Host header."""

    host: str
    port: int
    secure: bool
    target: str
    authority: str
    address: tuple[str, int, bool]
    """What connections are kept by."""


class HttpPool:
    """Pooled HTTP/1.1 connections to one model server. Construct it on the event loop that uses it."""

    def __init__(
        self, *, server: str, max_reply_bytes: int = MAX_REPLY_BYTES, connect_timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        self._server = server
        self._max_reply_bytes = max_reply_bytes
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[tuple[str, int, bool], deque[HttpConnection]] = {}
        self._open: set[HttpConnection] = set()
        self._loop = asyncio.get_running_loop()
        self._room = Room(_CONNECTIONS)
        self._deadlines = Deadlines()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_gone = asyncio.Event()
        self._all_gone.set()

    async def request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: bytes | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """The answer, whatever its status; raises GatewayError where none comes, or one over the cap.

        `url` is sent as it is: names in its path come percent-encoded.
        """
        if self._closed:
            raise GatewayError(Cause.UPSTREAM_UNREACHABLE, f"the connections to {self._server} are closed")
        place, head = _opened(method, url, content_type)
        head += _rest_of_head(headers, body)
        deadline = self._loop.time() + timeout_s
        if not self._room.take():
            await self._wait_for_room(deadline)
        try:
            return await self._exchange(place, head, body, deadline, again=method == "GET")
        finally:
            self._room.leave()

    def start(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str] | None,
        ended: Ended,
    ) -> Callable[[], None] | None:
        """The same without waiting, where a connection is kept: `ended` is called once, with what `request` returns or
        raises; what is returned cancels the request. None, and nothing is sent, where `request` has to be asked.
        """
        if self._closed:
            return None
        place, head = _opened(method, url, content_type)
        head += _rest_of_head(headers, body)
        connection = self._kept(place)
        if connection is None:
            return None
        if not self._room.take():
            self._keep(place, connection)
            return None

        def exchanged(outcome: HttpReply | BaseException) -> None:
            self._room.leave()
            if connection.reusable:
                self._keep(place, connection)
            ended(outcome)

        connection.start(head, body, self._loop.time() + timeout_s, exchanged)
        return connection.cancel

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST, later ones with UPSTREAM_UNREACHABLE."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.abort()
        self._deadlines.close()
        await self._all_gone.wait()

    async def _exchange(
        self, place: _Place, head: bytes, body: bytes | None, deadline: float, *, again: bool
    ) -> HttpReply:
        connection = self._kept(place)
        kept = connection is not None
        if connection is None:
            connection = await self._connect(place, deadline)
        try:
            reply = await connection.exchange(head, body, deadline)
        except GatewayError as exc:
            # The server had closed the connection just then. Only what changes nothing there is asked again.
            if not (again and kept) or connection.answered or exc.cause is not Cause.UPSTREAM_LOST:
                raise
            connection = await self._connect(place, deadline)
            reply = await connection.exchange(head, body, deadline)
        if connection.reusable:
            self._keep(place, connection)
        return reply

    async def _wait_for_room(self, deadline: float) -> None:
        """Waits until fewer than the most requests are under way; raises DEADLINE."""
        with translated(self._server):
            async with asyncio.timeout_at(deadline):
                await self._room.wait()

    def _kept(self, place: _Place) -> HttpConnection | None:
        """The connection that was used last, so that those not needed any more grow old."""
        kept = self._idle.get(place.address)
        while kept:
            connection = kept.pop()
            if connection.reusable:
                return connection
        return None

    def _keep(self, place: _Place, connection: HttpConnection) -> None:
        connection.idle_since = self._loop.time()
        kept = self._idle.get(place.address)
        if kept is None:
            kept = self._idle[place.address] = deque()
        kept.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_KEEPALIVE_S, self._close_old)

    def _close_old(self) -> None:
        """Closes what has not been used for a while; runs as long as anything is kept."""
        oldest = self._loop.time() - _KEEPALIVE_S
        for kept in self._idle.values():
            while kept and kept[0].idle_since <= oldest:
                kept.popleft().abort()
        waiting = [kept[0].idle_since for kept in self._idle.values() if kept]
        self._sweep = self._loop.call_at(min(waiting) + _KEEPALIVE_S, self._close_old) if waiting else None

    async def _connect(self, place: _Place, deadline: float) -> HttpConnection:
        """A new connection; raises UPSTREAM_UNREACHABLE, and DEADLINE where that is the shorter time."""
        patience = self._loop.time() + self._connect_timeout_s
        try:
            async with asyncio.timeout_at(min(patience, deadline)):
                _, connection = await self._loop.create_connection(
                    self._connection, place.host, place.port, ssl=_tls() if place.secure else None
                )
        except OSError as exc:
            if isinstance(exc, TimeoutError) and deadline <= patience:
                raise too_late(self._server) from exc
            raise unreachable(self._server) from exc
        except UnicodeError as exc:
            raise GatewayError(Cause.INTERNAL, f"'{place.host[:128]}' is no name of a host") from exc
        if self._closed:
            connection.abort()
            raise lost(self._server)
        if not connection.reusable:
            # Ended, or spoken on, before anything was sent.
            raise unreachable(self._server)
        return connection

    def _connection(self) -> HttpConnection:
        return HttpConnection(
            server=self._server,
            max_reply_bytes=self._max_reply_bytes,
            opened=self._opened,
            gone=self._gone,
            deadlines=self._deadlines,
        )

    def _opened(self, connection: HttpConnection) -> None:
        self._open.add(connection)
        self._all_gone.clear()

    def _gone(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_gone.set()


# RFC 9110, section 5.6.2.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COMMON = "Accept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: twinserve\r\n"


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@lru_cache(maxsize=1024)
def _opened(method: str, url: str, content_type: str | None) -> tuple[_Place, bytes]:
    """Where a request goes, and the part of its head that all such requests share."""
    place = _place(url)
    stated = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    head = f"{method} {place.target} HTTP/1.1\r\nHost: {place.authority}\r\n{_COMMON}{stated}"
    return place, head.encode("latin-1")


def _place(url: str) -> _Place:
    """`url` taken apart; raises INTERNAL for what is none: the configuration's or our own mistake."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise _no_url(url) from exc
    # Credentials in a URL would end up in logs; nothing here takes them.
    clean = url.isascii() and url.isprintable() and " " not in url and parts.username is None
    if parts.scheme not in ("http", "https") or not parts.hostname or not clean:
        raise _no_url(url)
    secure = parts.scheme == "https"
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    port = port or (443 if secure else 80)
    return _Place(parts.hostname, port, secure, target, parts.netloc, (parts.hostname, port, secure))


def _no_url(url: str) -> GatewayError:
    return GatewayError(Cause.INTERNAL, f"'{url[:128]}' is no URL of a model server")


def _rest_of_head(headers: Mapping[str, str] | None, body: bytes | None) -> bytes:
    """The lines of a head that differ between requests, and its end."""
    length = b"\r\n" if body is None else b"Content-Length: %d\r\n\r\n" % len(body)
    return _fields(headers) + length if headers else length


def _fields(headers: Mapping[str, str]) -> bytes:
    """The headers' lines; raises INTERNAL for what would be more than one, without its value: it may be a secret."""
    for name, value in headers.items():
        if not (name + value).isascii() or not value.isprintable() or not _NAME.fullmatch(name):
            raise GatewayError(Cause.INTERNAL, f"the value of header {name[:64]!r} cannot be sent")
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("ascii")
