"""A worker's process in memory: it is started with a channel as a real one is, and calls and answers as it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.core.errors import Cause, GatewayError
from gateway.workers.assignment import Assignment
from gateway.workers.control import Control, ControlError


@dataclass
class Script:
    """What a fake worker does. By itself it settles, opens, is ready, and drains when it is told to."""

    refuses: str = ""
    """Why it cannot get ready for another configuration."""
    fails: str = ""
    """Why it cannot start."""
    dies: int | None = None
    """With which status it ends before it has settled."""
    page: bytes = b""
    routes: dict[str, Any] = field(
        default_factory=lambda: {"routes": {}, "unrouted": {}, "left_out": {}, "awaited": [], "endpoints": {}}
    )
    mirror: dict[str, Any] = field(default_factory=dict)
    answers: bool = True
    """Whether it answers questions about itself."""
    on_settled: Callable[[], None] = lambda: None
    """Called before it says that it has settled."""


class FakeWorker:
    """One life of worker `number`."""

    def __init__(self, channel: socket.socket, number: int, script: Script) -> None:
        self.number = number
        self.pid = 10_000 + number
        self.script = script
        self.editions: list[int] = []
        """The configurations that were in effect, one after the other."""
        self.others: list[bool] = []
        """What it was told of the others' readiness."""
        self.told: list[str] = []
        """The names of the calls that came, in order."""
        self.listening = asyncio.Event()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._prepared: Assignment | None = None
        # The other end closes its copy, as it does for a process.
        self._task = asyncio.create_task(self._live(channel.dup()))

    async def wait(self) -> int:
        """Its exit status, and nothing of it is left."""
        status = await asyncio.shield(self._ended)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return status

    def terminate(self) -> None:
        """SIGTERM."""
        self.end(0)

    def kill(self) -> None:
        """SIGKILL."""
        self.end(-9)

    def end(self, status: int) -> None:
        """It ends with this status."""
        if not self._ended.done():
            self._ended.set_result(status)

    async def metrics(self) -> bytes:
        """What `/metrics` would show."""
        return await self._control.call("metrics", timeout_s=5)

    def tell_ready(self, ready: bool) -> None:
        """All models are ready here, or not."""
        self._control.tell("ready", b"1" if ready else b"0")

    async def _live(self, channel: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        self._control = Control(reader, writer, self._handlers())
        reading = asyncio.create_task(self._control.run())
        try:
            await self._start()
            await asyncio.shield(reading)
            self.end(0)
        finally:
            await self._control.close()
            await reading

    async def _start(self) -> None:
        if self.script.dies is not None:
            self.end(self.script.dies)
            return
        edition = Assignment.from_json(await self._control.call("assignment", timeout_s=5)).edition
        self.editions.append(edition)
        if self.script.fails:
            await self._control.call("failed", self.script.fails.encode(), timeout_s=5)
            self.end(3)
            return
        self.script.on_settled()
        while newer := await self._control.call("settled", str(self.editions[-1]).encode(), timeout_s=None):
            self.editions.append(Assignment.from_json(newer).edition)
        self._control.tell("listening")
        self.tell_ready(True)
        self.listening.set()

    def _handlers(self) -> Mapping[str, Any]:
        answered: dict[str, Callable[[bytes], bytes]] = {
            "prepare": self._prepare,
            "commit": self._commit,
            "discard": self._discard,
            "page": lambda _: self._about(self.script.page),
            "routes": lambda _: self._about(orjson.dumps(self.script.routes)),
            "mirror": lambda _: self._about(orjson.dumps(self.script.mirror)),
            "explain": self._explain,
            "others": self._hear,
        }

        def handler(name: str) -> Callable[[bytes], Any]:
            async def answer(body: bytes) -> bytes:
                self.told.append(name)
                return answered[name](body)

            return answer

        return {name: handler(name) for name in answered}

    def _prepare(self, body: bytes) -> bytes:
        if self.script.refuses:
            raise ValueError(self.script.refuses)
        self._prepared = Assignment.from_json(body)
        return b""

    def _commit(self, _: bytes) -> bytes:
        assert self._prepared is not None
        self.editions.append(self._prepared.edition)
        return orjson.dumps({"kept": ["a"], "connected": [], "closed": ["b"]})

    def _discard(self, _: bytes) -> bytes:
        self._prepared = None
        return b""

    def _about(self, answer: bytes) -> bytes:
        if not self.script.answers:
            raise ControlError("busy")
        return answer

    def _explain(self, body: bytes) -> bytes:
        if body != b"model=known":
            raise GatewayError(Cause.MODEL_NOT_FOUND, "unknown model")
        return self._about(b'{"order":[]}')

    def _hear(self, body: bytes) -> bytes:
        self.others.append(body == b"1")
        return b""
