"""How the HTTP server is set up."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.applications import Starlette

from gateway.frontends.rest.http_server import HttpServer, bound
from tests.unit.gateway.frontends.rest.test_direct import App, post


def test_an_idle_connection_outlives_those_of_a_load_balancer() -> None:
    """Usual ones close after a minute; a server that closes first cuts off requests on their way."""
    assert HttpServer(Starlette(), 1.0).config.timeout_keep_alive > 60


async def test_a_connection_that_waits_to_be_taken_is_answered_when_the_server_ends() -> None:
    """The client is connected, and has asked: a reset would tell it nothing of what became of its request."""
    listener = bound("127.0.0.1", 0)
    address = listener.getsockname()
    server = HttpServer(Starlette(), 5.0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening.wait()
    clients = [socket.create_connection(address, timeout=5) for _ in range(3)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    # Nothing has been awaited: the kernel has taken the connections, and the server knows of none.
    await server.shutdown([listener])
    server.should_exit = True
    await serving
    for client in clients:
        with client:
            assert client.recv(1024).startswith(b"HTTP/1.1 404")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


async def test_what_is_under_way_when_the_time_to_drain_is_over_is_answered() -> None:
    """However many requests there are: each hears of the end, and the server ends as it should."""
    app = App()
    app.endpoint.straight = True
    app.endpoint.may_answer.clear()
    listener = bound("127.0.0.1", 0)
    server = HttpServer(app, 0.05)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening.wait()
    clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(3)]
    for _, writer in clients:
        writer.write(post())
    for _ in clients:
        await app.endpoint.arrived.acquire()
    server.should_exit = True
    for reader, writer in clients:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    await asyncio.wait_for(serving, 5.0)
