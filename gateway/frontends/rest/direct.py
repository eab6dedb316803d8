"""The short way of what most requests are: whole, of moderate size, for a model's inference route.

Such a request is there, from its first byte to its last, when the parser returns. It needs no ASGI scope, no events and
no layers that pass them on: from the connection it goes to its endpoint, and its answer back, in straight functions
where the data plane has a way without coroutines, else in one task. Whatever is not so simple goes the way of all
others, and all ways end in the same endpoint.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.core.errors import Cause, GatewayError
from gateway.core.http_head import Repeated, repeatable
from gateway.frontends.rest.answers import shutting_down
from gateway.frontends.rest.http_protocol import BoundedHttpProtocol

if TYPE_CHECKING:
    from gateway.core.backend import Done, Outcome
    from gateway.core.messages import InferenceResponse
    from gateway.dataplane import Flying
    from gateway.frontends.rest.body import Connection

logger = logging.getLogger(__name__)

# A larger body comes in parts, and is no matter of microseconds.
MAX_BODY_BYTES = 64 << 10

Fields = list[tuple[bytes, bytes]]


class Served(Protocol):
    """One request that is there whole, as its endpoint serves it."""

    def open(self) -> None:
        """Admits and reads it; raises what it is refused for."""
        ...

    def start(self, done: Done) -> Flying | None:
        """Has it answered without a coroutine, where that is possible; raises what it is refused for."""
        ...

    async def run(self) -> InferenceResponse:
        """Has it answered."""
        ...

    def closed(self, outcome: Outcome) -> tuple[int, bytes, bytes] | None:
        """The answer to it: status, the lines of its headers, and body, or None where the client has gone."""
        ...


class Endpoint(Protocol):
    """What answers whole requests."""

    def head(self, headers: Fields, path: Mapping[str, str]) -> Any:  # noqa: ANN401 - only it knows
        """What it needs to know of a head, which may come many times; raises nothing."""
        ...

    def begin(self, head: Any, caller: str, body: bytes, connection: Connection) -> Served:  # noqa: ANN401 - its own
        """Begins to serve a request with such a head."""
        ...


# Who answers a request, and the parameters of its path.
Way = tuple[Endpoint, Mapping[str, str]]


class Head:
    """A request's head, and what follows from it: the same for all requests that begin with the same bytes."""

    __slots__ = ("endpoint", "known", "scope")

    def __init__(self, way: Way, headers: Fields) -> None:
        self.endpoint, path = way
        self.known = self.endpoint.head(headers, path)
        self.scope: dict[str, Any] = {"method": "POST", "headers": headers}


class _Untold:
    """In place of an event that somebody waits for: nobody receives what is there already."""

    def set(self) -> None:
        """Tells nobody."""


class Exchange:
    """One request on the short way, with its answer: what a connection needs to know of it, in uvicorn's words."""

    __slots__ = (
        "_body",
        "_flying",
        "_head",
        "_protocol",
        "_served",
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
        head: Head,
        body: bytes,
    ) -> None:
        self._protocol = protocol
        self._head = head
        self._body = body
        self._served: Served
        self._flying: Flying | None = None
        self.scope = head.scope
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False

    def on_response(self) -> None:
        """The answer is on its way: the connection goes on with the next request."""
        self._protocol.on_response_complete()

    def repeatable(self, data: bytes) -> Repeated[Head] | None:
        """What may come again of the request, which `data` began with."""
        return repeatable(data, self.scope["headers"], self._body, self._head)

    def begin(self) -> None:
        """Asks the endpoint; once it has answered, in this turn of the loop or in a later one, the answer is sent."""
        protocol = self._protocol
        client = protocol.client
        # The connection knows its last request for as long as it is open: not with its body.
        body, self._body = self._body, b""
        head = self._head
        served = self._served = head.endpoint.begin(head.known, client[0] if client else "", body, protocol)
        try:
            served.open()
            flying = served.start(self.answered)
        except Exception as exc:
            self.answered(exc)
            return
        if flying is None:
            self._run_as(self._serve())
        elif not flying.ended:
            self._flying = flying
            # Here the server looks for what it has to cancel when its time to drain is over.
            protocol.tasks.add(cast("Any", self))
            protocol.watch(self._gone)

    def cancel(self, msg: object = None) -> None:
        """Ends the request as a task is ended; the server does that when it cannot wait any longer."""
        if self._flying is not None:
            # As a task would end: not before whoever goes through all tasks has gone through them.
            self._protocol.loop.call_soon(self._flying.end, shutting_down())

    def answered(self, outcome: Outcome) -> None:
        """Sends the answer to a request that ended so."""
        protocol = self._protocol
        if self._flying is not None:
            self._flying = None
            protocol.tasks.discard(cast("Any", self))
            protocol.watch(None)
        # The connection knows its last request for as long as it is open: not with what was made of its body.
        served = self._served
        del self._served
        try:
            answer = served.closed(outcome)
            if answer is not None and protocol.flow.write_paused:
                self._run_as(self._drain(answer))
            else:
                self._send(answer)
        except Exception:
            logger.exception("a request could not be answered")
            protocol.transport.close()

    def _gone(self) -> None:
        if self._flying is not None:
            self._flying.end(GatewayError(Cause.CLIENT_GONE, "the client closed the connection before the answer"))

    async def _serve(self) -> None:
        outcome: Outcome
        try:
            outcome = await self._served.run()
        except (Exception, CancelledError) as exc:
            outcome = exc
        self.answered(outcome)

    async def _drain(self, answer: tuple[int, bytes, bytes]) -> None:
        """Sends an answer once the client has read its earlier ones."""
        await self._protocol.flow.drain()
        self._send(answer)

    def _send(self, answer: tuple[int, bytes, bytes] | None) -> None:
        if not self.disconnected and (answer is None or not self._protocol.answer_lines(*answer)):
            self._protocol.transport.close()

    def _run_as(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Goes on in a task."""
        tasks = self._protocol.tasks
        task = self._protocol.loop.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)


class DirectHttpProtocol(BoundedHttpProtocol):
    """One connection, whose simple requests go the short way where the application has one: `direct(url)` says which
    endpoint answers at a path, and with which parameters.
    """

    # The endpoint of the request that is being read and its parameters, while it may still go the short way.
    _way: Way | None = None
    _whole: bytes | bytearray = b""
    # What came whole, until the parser has returned.
    _next: Exchange | None = None
    # The last request's head, which the next one's is likely to be.
    _last: Repeated[Head] | None = None

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(config, *args, **options)
        self._find = getattr(config.app, "direct", None)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; a request whose body is not there with its head takes the long way."""
        last = self._last
        if last is not None:
            body = None if self._head_open or self._parting or self._refused else last.body(data)
            if body is not None and self.cycle.response_complete:
                if self._clock is not None:
                    self._stop_clock()
                # The timer between two requests goes on, and finds this one when it is due.
                self._exchange(last.made, body).begin()
                return
            self._last = None
        # What begins within a head, or within the body of a request that has its answer, is no head itself.
        cycle = self.cycle
        between = not self._head_open and (cycle is None or (cycle.response_complete and not cycle.more_body))
        super().data_received(data)
        if self._way is not None:
            self._take_long_way()
        exchange = self._next
        if exchange is not None:
            # Not from within the parser, which may have more to tell.
            self._next = None
            if between and not self._refused and not self._head_open:
                self._last = exchange.repeatable(data)
            exchange.begin()

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
        body, self._whole = self._whole, b""
        self._next = self._exchange(Head(way, self.headers), bytes(body))

    def _exchange(self, head: Head, body: bytes) -> Exchange:
        exchange = Exchange(self, head, body)
        self.cycle = self._running = cast("Any", exchange)
        return exchange

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
