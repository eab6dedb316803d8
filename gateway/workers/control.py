"""The channel between the supervisor and one of its workers: calls both ways, each with an answer, over a socket pair.

A frame is two lengths (u32, big-endian), a JSON object and raw bytes. The object of a call has its `name` and, where an
answer is wanted, an `id`; that of an answer has the `id`, and a `detail` with perhaps a `cause` where the call failed.
Whoever closes the socket, or dies, ends the channel: every call that waits then raises `ControlLostError`.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

import orjson

from gateway.core.errors import Cause, GatewayError

logger = logging.getLogger(__name__)

Handler = Callable[[bytes], Awaitable[bytes]]

LENGTHS = struct.Struct(">II")
# A page of metrics of some ten thousand models; what is larger is no frame of ours.
MOST_BYTES = 256 << 20


class ControlError(Exception):
    """Raised where the other side could not do what it was asked for; the text says why."""


class ControlLostError(ControlError):
    """Raised where the other side is gone."""


class Control:
    """One end. `handlers` answer the other side's calls by name; `run` is its task, and ends when the channel does."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = dict(handlers)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._ids = count()
        self._lost = False

    async def call(self, name: str, body: bytes = b"", *, timeout_s: float | None) -> bytes:
        """The other side's answer.

        Raises GatewayError where its handler did, ControlError with the text of whatever else that raised, or where no
        answer came within `timeout_s`, None for as long as it takes, and ControlLostError where the channel ends.
        """
        if self._lost:
            raise ControlLostError("the other side is gone")
        number = next(self._ids)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                self._send({"id": number, "name": name}, body)
                return await answer
        except TimeoutError as exc:
            raise ControlError(f"no answer to '{name}' within {timeout_s:g} s") from exc
        finally:
            del self._waiting[number]

    def tell(self, name: str, body: bytes = b"") -> None:
        """Calls without an answer; of no effect where the other side is gone."""
        if not self._lost:
            self._send({"name": name}, body)

    async def run(self) -> None:
        """Reads what the other side sends, until it is gone or `close` is called."""
        try:
            while True:
                head, body = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
                if head + body > MOST_BYTES:
                    raise OSError(f"a frame of {head + body} bytes")
                self._take(orjson.loads(await self._reader.readexactly(head)), await self._reader.readexactly(body))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._end()

    async def close(self) -> None:
        """Ends the channel, and whatever is being answered."""
        self._end()
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _end(self) -> None:
        self._lost = True
        self._writer.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ControlLostError("the other side is gone"))

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        if "name" in head:
            task = asyncio.create_task(self._answer(head, body), name=f"control:{head['name']}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        answer = self._waiting.get(head["id"])
        if answer is None or answer.done():
            return
        if "detail" not in head:
            answer.set_result(body)
        elif head["cause"] is None:
            answer.set_exception(ControlError(head["detail"]))
        else:
            answer.set_exception(GatewayError(Cause(head["cause"]), head["detail"]))

    async def _answer(self, call: dict[str, Any], body: bytes) -> None:
        answer: dict[str, Any] = {"id": call.get("id")}
        reply = b""
        try:
            reply = await self._handlers[call["name"]](body)
        except GatewayError as exc:
            answer |= {"cause": exc.cause.value, "detail": exc.detail}
        except Exception as exc:
            logger.debug("answering '%s' failed", call["name"], exc_info=True)
            answer |= {"cause": None, "detail": str(exc) or type(exc).__name__}
        if "id" in call and not self._lost:
            self._send(answer, reply)

    def _send(self, head: dict[str, Any], body: bytes) -> None:
        text = orjson.dumps(head)
        self._writer.write(LENGTHS.pack(len(text), len(body)) + text + body)
