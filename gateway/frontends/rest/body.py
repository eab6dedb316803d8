"""Reading a request's body under caps of size and time, and noticing a client that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from starlette.types import Receive

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.edge import Ticket

T = TypeVar("T")

# How long the client of a refused request is silent, or how many bytes it may send, before its connection closes:
# closing under a client that still writes resets the connection, and the answer is lost with it.
LINGER_SECONDS = 1.0
LINGER_BYTES = 64 << 20
# A refused body up to this size is left to the server to skip, and its connection stays open.
SMALL_BODY_BYTES = 64 << 10


# Where the server leaves the `Connection` of a request in its ASGI scope, if it has one.
CONNECTION = "twinserve.connection"


class Connection(Protocol):
    """What the server knows of the request that its connection is busy with, and may do for it.

    ASGI alone would take a task to tell, two steps to send an answer, and a timer for a body that is there already.
    """

    @property
    def ends(self) -> bool:
        """Whether the connection ends with the request's answer."""
        ...

    def take(self) -> bytes | None:
        """The request's body where all of it is there, None where it has to be received."""
        ...

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Sends a whole answer; false, and nothing is sent, where ASGI's own way has to be taken."""
        ...

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Calls `gone` once when the client leaves, soon where it has left already; None ends that."""
        ...


class Body:
    """The body of one request, which may take at most `cap` bytes, of JSON or of whatever `kind` says."""

    def __init__(
        self,
        receive: Receive,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        cap: int,
        kind: str = "as JSON",
        connection: Connection | None = None,
    ) -> None:
        self._receive = receive
        self._cap = cap
        self._kind = kind
        self._connection = connection
        self._headers = headers
        self.complete = False

    @property
    def skippable(self) -> bool:
        """Whether what is left of the body is so little that the connection can be used again."""
        length = self._length()
        if self.complete or length is None:
            return self.complete
        # It is to end, and closed on what was not read it would take the answer along.
        if self._connection is not None and self._connection.ends:
            return False
        # Without a usable length the server cannot tell where the next request starts.
        return length.isdigit() and _number(length, SMALL_BODY_BYTES) <= SMALL_BODY_BYTES

    async def read(self, ticket: Ticket, timeout_s: float) -> bytes:
        """The whole body, its bytes counted on `ticket` as they come, and the request itself once it is whole.

        Raises TOO_LARGE for a declared length over the cap before anything is read, and for a body without one
        as soon as it passes the cap; OVERLOADED where the gateway has no room; CLIENT_TOO_SLOW; CLIENT_GONE.
        """
        arrived = self.arrived(ticket)
        if arrived is not None:
            return arrived
        # No more than a check: room is for bytes that came, or promises alone would fill the gateway.
        ticket.check_room(self._declared())
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                data = await self._collect(ticket)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise GatewayError(Cause.CLIENT_TOO_SLOW, f"the body did not arrive within {timeout_s:g} s") from exc
        ticket.whole()
        return data

    def arrived(self, ticket: Ticket) -> bytes | None:
        """The same of a body that is there already; None where it has to be waited for."""
        data = None if self._connection is None else self._connection.take()
        if data is None:
            return None
        self.complete = True
        size = len(data)
        if size > self._cap:
            raise self._too_large()
        ticket.take(size)
        ticket.whole()
        return data

    async def discard(self, timeout_s: float) -> None:
        """Throws away what a client still sends of a refused body, until it has been silent for `LINGER_SECONDS`: of
        all no more than `LINGER_BYTES`, and no longer than `timeout_s`.
        """
        seen = 0
        try:
            async with asyncio.timeout(timeout_s):
                while not self.complete and seen <= LINGER_BYTES:
                    async with asyncio.timeout(LINGER_SECONDS):
                        message = await self._receive()
                    seen += len(message.get("body", b""))
                    self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        except TimeoutError:
            return

    def _length(self) -> bytes | None:
        """The length that the client declared."""
        return next((value for name, value in self._headers if name == b"content-length"), None)

    def _declared(self) -> int:
        stated = self._length()
        if stated is None:
            return 0
        if not stated.isdigit():
            raise GatewayError(Cause.UNPARSEABLE, "Content-Length: expected a number of bytes")
        length = _number(stated, self._cap)
        if length > self._cap:
            raise self._too_large()
        return length

    async def _collect(self, ticket: Ticket) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while not self.complete:
            message = await self._receive()
            if message["type"] != "http.request":
                self.complete = True
                raise GatewayError(Cause.CLIENT_GONE, "the client closed the connection before its request was whole")
            self.complete = not message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > self._cap:
                raise self._too_large()
            ticket.take(len(chunk))
            if chunk:
                chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self) -> GatewayError:
        return too_large(self._cap, self._kind)


def too_large(cap: int, kind: str) -> GatewayError:
    """What a body of more than `cap` bytes is refused with."""
    return GatewayError(Cause.TOO_LARGE, f"the body is larger than {cap} bytes, the most taken {kind}")


def _number(digits: bytes, limit: int) -> int:
    """The number, or anything over `limit` where it has more digits: thousands of them are slow to convert."""
    significant = digits.lstrip(b"0") or b"0"
    return int(significant) if len(significant) <= len(str(limit)) else limit + 1


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T], connection: Connection | None = None) -> T:
    """The result of `work`, which is cancelled when the client disconnects; then raises CLIENT_GONE.

    Runs `work` in the current task: only the watch for the disconnect costs one, where there is no `connection`.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has one
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    try:
        if connection is None:
            async with _watching(receive, leave):
                return await work
        connection.watch(leave)
        try:
            return await work
        finally:
            connection.watch(None)
    except asyncio.CancelledError:
        # Where somebody else cancelled too, as a server does that shuts down, theirs must go on.
        if gone and task.uncancel() == 0:
            raise GatewayError(Cause.CLIENT_GONE, "the client closed the connection before the answer") from None
        raise


@asynccontextmanager
async def _watching(receive: Receive, leave: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `leave` when `receive` tells of a disconnect inside the block."""

    def ended(watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            # A broken receive is a broken connection; taking its exception keeps asyncio from reporting it.
            watch.exception()
            leave()

    watch = asyncio.create_task(_disconnected(receive), name="watch for disconnect")
    watch.add_done_callback(ended)
    try:
        yield
    finally:
        watch.remove_done_callback(ended)
        watch.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
