"""A server that answers at once and does nothing else: what is left of a response time are generator and machine.

    python -m loadtests.engine.null_server

prints its port and runs until its standard input ends. HTTP/1.1, one request at a time on a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import cast

from loadtests.errors import LoadTestError
from loadtests.processes import ended, environment

_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Connection(asyncio.Protocol):
    """One connection; a client sends its next request after the reply."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answers when a request is whole."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if found and len(body) >= length and self._transport is not None:
            self._buffer = b""
            self._transport.write(_REPLY)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def null_server() -> Iterator[str]:
    """Such a server, a process of its own that ends with the block; yields `host:port`."""
    process = subprocess.Popen(  # our own interpreter and module, no shell
        [sys.executable, "-m", "loadtests.engine.null_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    with process, ended(process):
        port = process.stdout.readline().strip() if process.stdout else b""
        if not port:
            raise LoadTestError("the server that answers at once did not start")
        yield f"127.0.0.1:{int(port)}"


if __name__ == "__main__":
    asyncio.run(_serve())
