"""Sending an HTTP answer from raw ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.types import Send

from gateway.core.errors import GatewayError
from gateway.frontends.rest.errors import JSON, ErrorShape, retry_after

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A result as it goes out: body, content type, and headers of its protocol's own."""

    body: bytes
    media_type: str = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


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
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type.encode()),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    if before_end is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await before_end()
        body = b""
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send,
    error: GatewayError,
    shape: ErrorShape,
    request_id: str,
    headers: Headers = (),
    *,
    before_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Sends `error` in the protocol's own shape, with `Retry-After` where it passes by itself."""
    status = shape.status(error.cause)
    all_headers = list(headers)
    wait = retry_after(error, status)
    if wait is not None:
        all_headers.append((b"retry-after", wait.encode()))
    await send_answer(send, status, shape.media_type, shape.body(error, request_id), all_headers, before_end=before_end)
