"""A TCP relay in front of a fake server, so that a test can cut its connections and count them."""

from __future__ import annotations

import asyncio
from types import TracebackType

from tests.fakes.script import Gauge


class Relay:
    """Listens on a free loopback `port` and copies bytes to and from port `target`.

    `accepted` counts connections so far, `open` those that are open now.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0
        self.open = Gauge()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def cut(self) -> None:
        """Breaks every connection at once, both halves."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Breaks every connection and takes no more: the port refuses from now on."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open.add(1)
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(there_writer)
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
            self._writers.discard(there_writer)
        except OSError:
            writer.transport.abort()
        finally:
            self._writers.discard(writer)
            self.open.add(-1)
            self._tasks.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies until either side ends; what was read is still delivered."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        writer.transport.abort()
    else:
        writer.close()
