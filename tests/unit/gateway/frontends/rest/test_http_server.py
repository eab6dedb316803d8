"""How the HTTP server is set up."""

from __future__ import annotations

from starlette.applications import Starlette

from gateway.frontends.rest.http_server import HttpServer


def test_an_idle_connection_outlives_those_of_a_load_balancer() -> None:
    """Usual ones close after a minute; a server that closes first cuts off requests on their way."""
    assert HttpServer(Starlette(), 1.0).config.timeout_keep_alive > 60
