"""A TCP relay in front of a fake server: counts its connections, cuts them, and does to them what networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from random import Random
from types import TracebackType

from tests.fakes.script import Gauge

CHUNK = b"0" * 65536


class Link:
    """One connection through a relay: its two ends, and how many bytes of replies it still carries, once that counts.

    `client` is whoever connected to the relay, `server` the fake behind it.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.left: int | None = None

    @property
    def closed(self) -> bool:
        """Whether the client's end is gone."""
        return self.client.is_closing()

    def reset(self) -> None:
        """Ends both halves; the client gets an RST, whatever it has or has not read."""
        linger = struct.pack("ii", 1, 0)
        if not self.client.is_closing():
            self.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.client.transport.abort()
        self.server.transport.abort()


class Fault:
    """What a relay does with the bytes of each connection; this one passes them on.

    `loses` says whether a connection that was under it is of no more use.
    """

    loses = True

    async def asked(self, data: bytes, link: Link) -> None:
        """Bytes came from the client."""
        link.server.write(data)
        await link.server.drain()

    async def answered(self, data: bytes, link: Link) -> None:
        """Bytes came from the server."""
        link.client.write(data)
        await link.client.drain()


class BlackHole(Fault):
    """Connections come about and stay, and nothing ever arrives."""

    async def asked(self, data: bytes, link: Link) -> None:
        """Lost."""

    async def answered(self, data: bytes, link: Link) -> None:
        """Lost."""


class Reset(Fault):
    """The connection is reset as soon as anything is sent on it."""

    async def asked(self, data: bytes, link: Link) -> None:
        """Ends it."""
        link.reset()


class Delay(Fault):
    """Replies come so many seconds late, in their order; nothing else is slower for it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def answered(self, data: bytes, link: Link) -> None:
        """Sends them later."""
        asyncio.get_running_loop().call_later(self._seconds, self._send, data, link)

    @staticmethod
    def _send(data: bytes, link: Link) -> None:
        if not link.closed:
            link.client.write(data)


class Trickle(Fault):
    """Replies come one byte at a time, with so many seconds between them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def answered(self, data: bytes, link: Link) -> None:
        """Sends them byte by byte, while anybody is there."""
        for byte in data:
            if link.closed:
                return
            link.client.write(bytes([byte]))
            await asyncio.sleep(self._seconds)


class Truncate(Fault):
    """Each connection ends, in good order, within its first `most` bytes of replies from now on."""

    def __init__(self, random: Random, most: int) -> None:
        self._random = random
        self._most = most

    async def answered(self, data: bytes, link: Link) -> None:
        """Sends as many as the connection has left."""
        if link.left is None:
            link.left = self._random.randrange(self._most)
        part, link.left = data[: link.left], link.left - len(data)
        link.client.write(part)
        if link.left <= 0:
            link.client.close()
            link.server.transport.abort()


class Garble(Fault):
    """Replies have their length, and random bytes."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def answered(self, data: bytes, link: Link) -> None:
        """Sends as many others."""
        link.client.write(self._random.randbytes(len(data)))


class Answer(Fault):
    """Answers by itself whatever is sent: `head`, then `size` bytes of nothing in particular."""

    def __init__(self, head: bytes, size: int = 0) -> None:
        self._head = head
        self._size = size

    async def asked(self, data: bytes, link: Link) -> None:
        """Sends the answer, no faster than it is taken."""
        link.client.write(self._head)
        left = self._size
        while left > 0 and not link.closed:
            link.client.write(CHUNK[:left])
            left -= len(CHUNK)
            await link.client.drain()


class Healthy(Fault):
    """No fault at all."""

    loses = False


HEALTHY = Healthy()


class Relay:
    """Listens on a free loopback `port` and copies bytes to and from port `target`, as far as its `fault` lets them.

    `accepted` counts connections so far, `open` those that are open now. A new `fault` concerns the connections that
    there are, too.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._links: dict[asyncio.StreamWriter, Link | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0
        self.open = Gauge()
        self.fault: Fault = HEALTHY

    async def __aenter__(self) -> Relay:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def listen(self) -> None:
        """Takes connections (again), at the port that it had before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Breaks every connection and takes no more, as where a server was killed; `listen` ends that."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def heal(self) -> None:
        """Ends every fault. Connections that have lost something are broken: it would never come."""
        if self.fault.loses:
            self.cut()
        self.fault = HEALTHY
        await self.listen()

    def cut(self) -> None:
        """Breaks every connection at once, both halves."""
        for writer, link in list(self._links.items()):
            writer.transport.abort()
            if link is not None:
                link.server.transport.abort()

    async def close(self) -> None:
        """Breaks every connection and takes no more: the port refuses from now on."""
        self.refuse()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open.add(1)
        self._links[writer] = None
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            link = self._links[writer] = Link(writer, there_writer)
            await asyncio.gather(self._requests(reader, link), self._replies(there_reader, link))
        except OSError:
            writer.transport.abort()
        finally:
            del self._links[writer]
            self.open.add(-1)
            self._tasks.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, link: Link) -> None:
        """Copies until the client ends; what was read is still delivered."""
        try:
            while data := await reader.read(65536):
                await self.fault.asked(data, link)
        except OSError:
            link.server.transport.abort()
        else:
            link.server.close()

    async def _replies(self, reader: asyncio.StreamReader, link: Link) -> None:
        """Copies until the server ends; what was read is still delivered."""
        try:
            while data := await reader.read(65536):
                await self.fault.answered(data, link)
        except OSError:
            link.client.transport.abort()
        else:
            link.client.close()
