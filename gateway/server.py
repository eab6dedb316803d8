"""The composition root of one worker: settings -> backends -> endpoints -> router -> data plane -> front ends.

The one place where the parts meet: each receives values, none receives the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.admin import create_admin
from gateway.core.clock import SystemClock
from gateway.core.contract import ModelContract
from gateway.dataplane import DataPlane
from gateway.fleet import opened
from gateway.frontends.edge import Admission, Limits
from gateway.frontends.grpc.server import create_server
from gateway.frontends.rest.app import create_app
from gateway.frontends.rest.http_server import HttpServer, bound
from gateway.plan import Configuration
from gateway.reload import Reloader, Source
from gateway.resilience.deadline import deadline
from gateway.settings import LimitSettings, ServerSettings, Settings, SettingsError
from gateway.telemetry.histogram import Registry
from gateway.telemetry.loop_lag import LoopLag
from gateway.telemetry.metrics import PrometheusObserver, render

logger = logging.getLogger(__name__)

# Nothing but this machine reaches the operator's port, whatever `server.host` is.
LOOPBACK = "127.0.0.1"
ADMIN_DRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the gateway really listens."""

    host: str
    rest_port: int
    grpc_port: int
    admin_port: int | None = None
    """The operator's port, on the loopback address; None where it is off."""

    def doors(self) -> dict[str, str]:
        """Where clients find the gateway, by protocol."""
        return {
            "rest": f"http://{authority(self.host, self.rest_port)}",
            "grpc": authority(self.host, self.grpc_port),
        }


async def serve(
    settings: Settings,
    contracts: Mapping[str, ModelContract],
    stop: asyncio.Event,
    on_listening: Callable[[Addresses], None] = lambda _: None,
    source: Source | None = None,
) -> None:
    """Serves until `stop` is set, then drains. `on_listening` is told the addresses once all ports are open.

    `source` is where the configuration is read again; without it a reload finds what there is already.

    Raises SettingsError where a port is taken. Every task started here has ended when this returns.
    """
    clock = SystemClock()
    metrics = Registry()
    observer = PrometheusObserver(metrics)
    async with AsyncExitStack() as cleanup:
        fleet = await cleanup.enter_async_context(opened(Configuration(settings, contracts), clock, observer))
        data_plane = DataPlane(fleet.router, deadline(clock))
        limits = _limits(settings.limits)
        # One admission for both doors: the limits bound the gateway, not each protocol.
        admission = Admission(limits)
        observer.watch_in_flight(lambda: admission.in_flight, lambda: admission.in_flight_bytes)
        observer.limits_set(requests=limits.in_flight, size=limits.in_flight_bytes)
        lag = LoopLag(clock)
        observer.watch_loop_lag(lag.worst)
        await cleanup.enter_async_context(_running(lag.run(), "loop-lag"))
        app = create_app(
            data_plane,
            limits=limits,
            observer=observer,
            clock=clock,
            render_metrics=lambda: render(metrics),
            admission=admission,
        )
        grpc_server = create_server(data_plane, limits=limits, observer=observer, clock=clock, admission=admission)
        server = settings.server
        rest_socket = cleanup.enter_context(_bound(server.host, server.rest_port, "rest_port"))
        try:
            grpc_port = grpc_server.add_insecure_port(authority(server.host, server.grpc_port))
        except RuntimeError as exc:
            raise _taken(server.host, server.grpc_port, "grpc_port") from exc
        addresses = Addresses(server.host, rest_socket.getsockname()[1], grpc_port)
        reloader = Reloader(fleet, source or Source(lambda: settings), observer)
        admin_socket = cleanup.enter_context(_admin_socket(server))
        if admin_socket is not None:
            addresses = replace(addresses, admin_port=admin_socket.getsockname()[1])
            admin = create_admin(
                fleet, reloader, clock=clock, render_metrics=lambda: render(metrics), doors=addresses.doors()
            )
            await cleanup.enter_async_context(_serving(HttpServer(admin, ADMIN_DRAIN_SECONDS), admin_socket, "admin"))
        fleet.start()
        await cleanup.enter_async_context(_running(reloader.run(), "reload"))
        await grpc_server.start()
        cleanup.push_async_callback(grpc_server.stop, server.drain_seconds)
        data_plane.start()
        async with _serving(HttpServer(app, server.drain_seconds), rest_socket, "rest") as serving:
            on_listening(addresses)
            await _until(stop, serving)
            logger.info("draining")
            data_plane.drain()


async def _until(stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Returns once `stop` is set, or the server has ended by itself."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


@asynccontextmanager
async def _serving(server: HttpServer, listener: socket.socket, name: str) -> AsyncIterator[asyncio.Task[None]]:
    """A server that is told to stop at the end, and has answered what it had begun when this returns."""
    task = asyncio.create_task(server.serve(sockets=[listener]), name=name)
    try:
        yield task
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def _running(coroutine: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine, name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _limits(limits: LimitSettings) -> Limits:
    return Limits(
        body_bytes=limits.body_bytes,
        json_bytes=limits.json_bytes,
        in_flight=limits.in_flight,
        in_flight_bytes=limits.in_flight_bytes,
        timeout_s=limits.timeout_ms / 1e3,
        max_timeout_s=limits.max_timeout_ms / 1e3,
        body_timeout_s=limits.body_timeout_ms / 1e3,
    )


def _bound(host: str, port: int, field: str) -> contextlib.AbstractContextManager[socket.socket]:
    """A socket that listens; raises SettingsError where the port is taken."""
    try:
        return bound(host, port)
    except OSError as exc:
        raise _taken(host, port, field) from exc


def _admin_socket(server: ServerSettings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """A socket for the operator's port, or None where it is off; raises SettingsError where the port is taken.

    Where nobody chose a port and the usual one is taken, as by another gateway on this machine, any free one does.
    """
    if server.admin_port is None:
        return contextlib.nullcontext()
    try:
        return bound(LOOPBACK, server.admin_port)
    except OSError as exc:
        if "admin_port" in server.model_fields_set:
            raise _taken(LOOPBACK, server.admin_port, "admin_port") from exc
    return bound(LOOPBACK, 0)


def authority(host: str, port: int) -> str:
    """host:port as URLs and gRPC have it: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _taken(host: str, port: int, field: str) -> SettingsError:
    return SettingsError(f"cannot listen on {authority(host, port)}; choose another server.{field}")
