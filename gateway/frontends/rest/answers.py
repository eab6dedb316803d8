"""Sending an HTTP answer from raw ASGI."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from starlette.types import Message, Send

from gateway.core.errors import Cause, GatewayError
from gateway.core.values import value_type
from gateway.frontends.rest.body import Connection
from gateway.frontends.rest.errors import JSON, OCTETS, PROBLEM_JSON, ErrorShape, retry_after

logger = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]

# The content types of ours, as they go out.
_ENCODED = {media_type: media_type.encode() for media_type in (JSON, PROBLEM_JSON, OCTETS)}


@value_type(frozen=True, slots=True)
class Answer:
    """A result as it goes out: body, content type, and headers of its protocol's own."""

    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Sender:
    """A request's `send`, whose answers all have its id. A client that is gone is CLIENT_GONE, and told in the log."""

    __slots__ = ("_connection", "_request_id", "_send", "started")

    def __init__(self, send: Send, request_id: str, connection: Connection | None) -> None:
        self._send = send
        self._request_id = request_id
        self._connection = connection
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Sends a part of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), *common(self._request_id)]}
        try:
            await self._send(message)
        except (OSError, RuntimeError) as exc:
            # A closed socket is an OSError, a closed transport of uvloop's a RuntimeError.
            logger.warning("the answer to request %s could not be sent: %s", self._request_id, exc)
            raise GatewayError(Cause.CLIENT_GONE, "the client closed the connection before its answer") from exc

    def at_once(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Sends a whole answer, where the server has a way to do that; false where it is to be sent in parts."""
        if self._connection is None or not self._connection.answer(status, [*headers, *common(self._request_id)], body):
            return False
        self.started = True
        return True


async def send_answer(
    send: Send,
    status: int,
    media_type: str,
    body: bytes,
    headers: Headers = (),
    *,
    before_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Sends one whole answer. `before_end` runs once the client can read it all, before the exchange ends."""
    whole = [*stating(media_type, body), *headers]
    if before_end is None and isinstance(send, Sender) and send.at_once(status, whole, body):
        return
    await send({"type": "http.response.start", "status": status, "headers": whole})
    if before_end is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await before_end()
        body = b""
    await send({"type": "http.response.body", "body": body})


def common(request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that every answer has."""
    return ((b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff"))


def stating(media_type: str, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that say what the body is."""
    encoded = _ENCODED.get(media_type) or media_type.encode()
    return [(b"content-type", encoded), (b"content-length", b"%d" % len(body))]


def told(
    error: GatewayError, shape: ErrorShape, request_id: str, headers: Headers = ()
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """`error` in the protocol's own shape: status, headers, with `Retry-After` where it passes by itself, and body."""
    status = shape.status(error.cause)
    all_headers = list(headers)
    wait = retry_after(error, status)
    if wait is not None:
        all_headers.append((b"retry-after", wait.encode()))
    return status, all_headers, shape.body(error, request_id)


def shutting_down() -> GatewayError:
    """What a request is told that cannot be waited for."""
    return GatewayError(Cause.NOT_READY, "the gateway is shutting down")


async def send_error(
    send: Send,
    error: GatewayError,
    shape: ErrorShape,
    request_id: str,
    headers: Headers = (),
    *,
    before_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Sends `error` as it is `told`."""
    status, all_headers, body = told(error, shape, request_id, headers)
    await send_answer(send, status, shape.media_type, body, all_headers, before_end=before_end)
