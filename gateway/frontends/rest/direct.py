"""The short way of what most requests are: whole, of moderate size, for a model's inference route.

Such a request is there, from its first byte to its last, when the parser returns. It needs no ASGI scope, no events and
no layers that pass them on: from the connection it goes to its endpoint, and its answer back, in one task. Whatever is
not so simple goes the way of all others, and both ways end in the same endpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.frontends.rest.http_protocol import BoundedHttpProtocol

if TYPE_CHECKING:
    from gateway.frontends.rest.body import Connection

logger = logging.getLogger(__name__)

# A larger body comes in parts, and is no matter of microseconds.
MAX_BODY_BYTES = 64 << 10

Fields = list[tuple[bytes, bytes]]


class Endpoint(Protocol):
    """What answers a whole request: status, headers and body, or None where the client has gone."""

    async def respond(
        self, headers: Fields, path: Mapping[str, str], caller: str, body: bytes, connection: Connection
    ) -> tuple[int, Fields, bytes] | None:
        """Serves one request; raises nothing but what ends its task."""
        ...


class _Untold:
    """In place of an event that somebody waits for: nobody receives what is there already."""

    def set(self) -> None:
        """Tells nobody."""


class Exchange:
    """One request on the short way, with its answer: what a connection needs to know of it, in uvicorn's words."""

    __slots__ = (
        "_body",
        "_endpoint",
        "_path",
        "_protocol",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
    )

    message_event = _Untold()
    more_body = False
    waiting_for_100_continue = False

    def __init__(
        self,
        protocol: DirectHttpProtocol,
        endpoint: Endpoint,
        path: Mapping[str, str],
        headers: Fields,
        body: bytes,
    ) -> None:
        self._protocol = protocol
        self._endpoint = endpoint
        self._path = path
        self._body = body
        self.scope: dict[str, Any] = {"method": "POST", "headers": headers}
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False

    def on_response(self) -> None:
        """The answer is on its way: the connection goes on with the next request."""
        self._protocol.on_response_complete()

    async def run(self) -> None:
        """Asks the endpoint, and sends what it says."""
        protocol = self._protocol
        client = protocol.client
        # The connection knows its last request for as long as it is open: not with its body.
        body, self._body = self._body, b""
        try:
            answer = await self._endpoint.respond(
                self.scope["headers"], self._path, client[0] if client else "", body, protocol
            )
            if answer is not None and protocol.flow.write_paused:
                # The client does not read its earlier answers.
                await protocol.flow.drain()
            if not self.disconnected and (answer is None or not protocol.answer(*answer)):
                protocol.transport.close()
        except Exception:
            logger.exception("a request could not be answered")
            protocol.transport.close()


class DirectHttpProtocol(BoundedHttpProtocol):
    """One connection, whose simple requests go the short way where the application has one: `direct(url)` says which
    endpoint answers at a path, and with which parameters.
    """

    # The endpoint of the request that is being read and its parameters, while it may still go the short way.
    _way: tuple[Endpoint, Mapping[str, str]] | None = None
    _whole: bytes | bytearray = b""

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(config, *args, **options)
        self._find = getattr(config.app, "direct", None)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; a request whose body is not there with its head takes the long way."""
        super().data_received(data)
        if self._way is not None:
            self._take_long_way()

    def on_message_begin(self) -> None:
        """A head starts; what only the long way needs is made there."""
        self._stop_clock()
        self._unset_keepalive_if_required()
        self._head_open = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Chooses the way of a request."""
        find = self._find
        if find is not None and (self.cycle is None or self.cycle.response_complete) and self._simple():
            self._way = find(self.url)
            if self._way is not None:
                self._framing = 0
                self._head_open = False
                self._stop_clock()
                self._upgrading = False
                self._whole = b""
                return
        self._begin_long_way()

    def on_body(self, body: bytes) -> None:
        """Keeps a part of the body."""
        if self._way is None:
            super().on_body(body)
            return
        self._framing = 0
        if not self._whole:
            self._whole = body
        elif isinstance(self._whole, bytearray):
            self._whole += body
        else:
            # Not joined each time: chunks may be tiny.
            self._whole = bytearray(self._whole) + body
        if len(self._whole) > MAX_BODY_BYTES:
            self._take_long_way()

    def on_message_complete(self) -> None:
        """Starts a request that has come whole."""
        way = self._way
        if way is None:
            super().on_message_complete()
            return
        self._framing = 0
        self._way = None
        exchange = Exchange(self, *way, self.headers, bytes(self._whole))
        self.cycle = self._running = cast("Any", exchange)
        task = self.loop.create_task(exchange.run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _refuse(self, status: int, detail: str) -> None:
        if self._way is not None:
            self._take_long_way()
        super()._refuse(status, detail)

    def _simple(self) -> bool:
        parser = self.parser
        return (
            not self._parting
            and not self.expect_100_continue
            and parser.get_method() == b"POST"
            and not parser.should_upgrade()
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
        )

    def _begin_long_way(self) -> None:
        """What `on_message_begin` and `on_headers_complete` of the base classes do."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _take_long_way(self) -> None:
        """Lets a request go the long way that had begun the short one."""
        self._way = None
        body, self._whole = self._whole, b""
        framing = self._framing
        self._begin_long_way()
        if body:
            super().on_body(bytes(body))
        # What came since the last part of the body still counts.
        self._framing = framing
