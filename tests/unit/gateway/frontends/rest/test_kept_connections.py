"""How long a connection is kept between two requests, with the event loop played by the test."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.frontends.rest.direct import DirectHttpProtocol
from tests.unit.gateway.frontends.rest.test_direct import App, post
from tests.unit.gateway.frontends.rest.test_http_protocol import Loop, Timer, Wire


class Client:
    """A connection whose requests are answered at once, unless its endpoint is told to wait."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.wire = Wire()
        app = App()
        self.endpoint = app.endpoint
        self.endpoint.straight = True
        config = uvicorn.Config(app, http=DirectHttpProtocol, ws="none", log_config=None, lifespan="off")
        config.load()
        loop: Any = self.loop
        self.protocol = DirectHttpProtocol(config, ServerState(), {}, loop)
        self.protocol.connection_made(self.wire)

    def say(self) -> None:
        """Sends one request, with the head of all of them."""
        self.protocol.data_received(post())

    @property
    def timer(self) -> Timer:
        """The one that runs."""
        (timer,) = self.loop.pending
        return timer

    def due(self) -> None:
        """The timer that runs is due."""
        timer = self.timer
        timer.cancel()
        timer.call()


@pytest.fixture
async def client() -> Client:
    return Client()


async def test_many_requests_share_one_timer(client: Client) -> None:
    """It is not set anew with each answer."""
    client.say()
    timer = client.timer
    for _ in range(3):
        client.say()
    assert client.timer is timer
    assert timer.seconds == client.protocol.timeout_keep_alive


async def test_a_timer_that_is_due_too_early_waits_for_the_rest(client: Client) -> None:
    """As long as the connection was last used less than that long ago."""
    client.say()
    client.due()
    assert not client.wire.is_closing()
    assert 0 < client.timer.seconds <= client.protocol.timeout_keep_alive


async def test_a_connection_that_nobody_uses_is_closed(client: Client) -> None:
    """At the end of its time."""
    client.say()
    client.protocol.timeout_keep_alive = 0
    client.due()
    assert client.wire.is_closing()


async def test_a_request_under_way_keeps_its_connection(client: Client) -> None:
    """However long it takes; with the answer the time begins anew."""
    client.say()
    client.endpoint.may_answer.clear()
    client.say()
    client.protocol.timeout_keep_alive = 0
    client.due()
    assert not client.wire.is_closing()
    client.protocol.timeout_keep_alive = 5
    client.endpoint.answer()
    await asyncio.sleep(0)
    assert client.timer.seconds == 5


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_connection_that_is_gone_leaves_no_timer(client: Client, error: Exception | None) -> None:
    """However it went."""
    client.say()
    client.protocol.connection_lost(error)
    assert client.loop.pending == []
