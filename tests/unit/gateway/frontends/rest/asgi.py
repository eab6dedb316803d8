"""The two ends of an ASGI exchange, for tests that play the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import Message, Receive


def chunk(body: bytes = b"", more: bool = False) -> Message:
    """A part of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


def receiving(messages: Iterable[Message]) -> Receive:
    """A receive that gives the messages, and then waits for ever."""
    waiting = iter(messages)

    async def receive() -> Message:
        for message in waiting:
            return message
        await asyncio.Event().wait()
        raise AssertionError("nothing ever comes")

    return receive


class Sent:
    """A send that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        """Keeps the message."""
        self.messages.append(message)

    @property
    def status(self) -> int:
        """The answer's status."""
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The answer's headers."""
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        """The answer's whole body; fails where it has not ended."""
        assert not self.messages[-1].get("more_body", False)
        return b"".join(message.get("body", b"") for message in self.messages[1:])


def scope(method: str = "POST", path: str = "/predict", headers: Iterable[tuple[bytes, bytes]] = ()) -> dict[str, Any]:
    """A request's scope."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(headers),
    }
