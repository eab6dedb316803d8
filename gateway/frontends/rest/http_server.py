"""uvicorn as this gateway runs it: on a socket that is open already, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from gateway.frontends.rest.direct import DirectHttpProtocol

# Longer than load balancers keep an idle connection (60 s is usual): it is they who close it, and no request of theirs
# meets one that is being closed here.
KEEP_ALIVE_SECONDS = 75


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: signals belong to the process, not to one of its servers."""

    def __init__(self, app: Starlette, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # A client is its connection's peer, whatever a header of its own says.
                proxy_headers=False,
                http=DirectHttpProtocol,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )
        self.listening = asyncio.Event()
        """Set once connections are accepted."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no connection more, and ends when those that there are have been answered.

        For a client, a connection that waits in a socket's queue is one that was taken, and its request is on its way:
        closing the socket would reset it. So the queues are emptied first.
        """
        waiting = [connection for opened in sockets or () for connection in _waiting(opened)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        return DirectHttpProtocol(self.config, self.server_state, self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait at a socket, by and by; none where it is closed."""
    with contextlib.suppress(OSError):
        listener.setblocking(False)
        while True:
            yield listener.accept()[0]


def bound(host: str, port: int, *, share: bool = False) -> socket.socket:
    """A socket at an address, since a taken port ends uvicorn without a word; raises OSError.

    With `share` other sockets of this user may have the port too, and the kernel spreads connections over those that
    listen (SO_REUSEPORT, socket(7)).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Where the protocol is not named asyncio's own loop leaves TCP_NODELAY off, and every answer waits 40 ms.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((host, port))
    except BaseException:
        opened.close()
        raise
    return opened
