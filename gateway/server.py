"""The composition root of one worker: settings -> backends -> endpoints -> router -> data plane -> front ends.

The one place where the parts meet: each receives values, none receives the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from fastapi import FastAPI

from gateway.admin import create_admin
from gateway.core.clock import Clock, SystemClock
from gateway.core.contract import ModelContract
from gateway.core.trace import Tracer
from gateway.dataplane import DataPlane
from gateway.fleet import Fleet, opened
from gateway.frontends.edge import Admission, Limits
from gateway.frontends.grpc.server import create_server
from gateway.frontends.rest.app import create_app
from gateway.frontends.rest.http_server import HttpServer, bound
from gateway.plan import Configuration
from gateway.process_settings import LimitSettings, ServerSettings, TracingSettings
from gateway.reload import Reloader, Source
from gateway.resilience.deadline import deadline
from gateway.settings import Settings, SettingsError
from gateway.telemetry.histogram import Registry
from gateway.telemetry.loop_lag import LoopLag
from gateway.telemetry.metrics import PrometheusObserver
from gateway.view import FleetView, View

logger = logging.getLogger(__name__)

# Nothing but this machine reaches the operator's port, whatever `server.host` is.
LOOPBACK = "127.0.0.1"
ADMIN_DRAIN_SECONDS = 1.0
# How old a gRPC connection of one of several workers may become, so that it does not stay with one for good.
CONNECTION_AGE_SECONDS = 60.0


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


@dataclass(frozen=True, slots=True)
class Doors:
    """The front ends of one worker, and where they are."""

    app: FastAPI
    grpc_server: grpc.aio.Server
    rest_socket: socket.socket
    addresses: Addresses


class Gateway:
    """One worker's data plane and front ends, around its fleet; `doors` binds its ports, `serve` opens them."""

    def __init__(self, fleet: Fleet, clock: Clock, observer: PrometheusObserver, tracer: Tracer | None = None) -> None:
        settings = fleet.configuration.settings
        self._server = settings.server
        self._limits = _limits(settings.limits)
        self._clock = clock
        self._observer = observer
        self._tracer = tracer
        self.data_plane = DataPlane(fleet.router, deadline(clock), clock=clock)

    @contextlib.contextmanager
    def doors(self, metrics: Callable[[], Awaitable[bytes]], *, share: bool = False) -> Iterator[Doors]:
        """The front ends and their ports, bound and not yet open; `metrics` is the page that `/metrics` shows.

        With `share` other workers have the same ports. Raises SettingsError where a port is taken.
        """
        server, limits = self._server, self._limits
        # One admission for both doors: the limits bound the worker, not each protocol.
        admission = Admission(limits)
        self._observer.watch_in_flight(lambda: admission.in_flight, lambda: admission.in_flight_bytes)
        self._observer.limits_set(requests=limits.in_flight, size=limits.in_flight_bytes)
        app = create_app(
            self.data_plane,
            limits=limits,
            observer=self._observer,
            clock=self._clock,
            render_metrics=metrics,
            admission=admission,
            tracer=self._tracer,
        )
        grpc_server = create_server(
            self.data_plane,
            limits=limits,
            observer=self._observer,
            clock=self._clock,
            admission=admission,
            tracer=self._tracer,
            max_connection_age_s=CONNECTION_AGE_SECONDS if share else None,
            reuse_port=share,
        )
        with listener(server.host, server.rest_port, "rest_port", share=share) as rest_socket:
            try:
                grpc_port = grpc_server.add_insecure_port(authority(server.host, server.grpc_port))
            except RuntimeError as exc:
                raise taken(server.host, server.grpc_port, "grpc_port") from exc
            addresses = Addresses(server.host, rest_socket.getsockname()[1], grpc_port)
            yield Doors(app, grpc_server, rest_socket, addresses)

    async def serve(self, doors: Doors, stop: asyncio.Event, on_listening: Callable[[], None]) -> None:
        """Opens the doors, serves until `stop` is set, then drains."""
        drain_seconds = self._server.drain_seconds
        lag = LoopLag(self._clock)
        self._observer.watch_loop_lag(lag.worst)
        async with AsyncExitStack() as cleanup:
            await cleanup.enter_async_context(running(lag.run(), "loop-lag"))
            await doors.grpc_server.start()
            cleanup.push_async_callback(doors.grpc_server.stop, drain_seconds)
            self.data_plane.start()
            rest = HttpServer(doors.app, drain_seconds)
            async with serving(rest, doors.rest_socket, "rest") as task:
                await _until(rest.listening.wait(), task)
                on_listening()
                await _until(stop.wait(), task)
                logger.info("draining")
                self.data_plane.drain()


async def serve(
    settings: Settings,
    contracts: Mapping[str, ModelContract],
    stop: asyncio.Event,
    on_listening: Callable[[Addresses], None] = lambda _: None,
    source: Source | None = None,
) -> None:
    """Serves until `stop` is set, then drains: the gateway of one worker. `on_listening` is told the addresses once
    all ports are open.

    `source` is where the configuration is read again; without it a reload finds what there is already.

    Raises SettingsError where a port is taken. Every task started here has ended when this returns.
    """
    clock = SystemClock()
    metrics = Registry()
    observer = PrometheusObserver(metrics)
    async with AsyncExitStack() as cleanup:
        fleet = await cleanup.enter_async_context(opened(Configuration(settings, contracts), clock, observer))
        tracer = await cleanup.enter_async_context(traced(settings.telemetry.tracing))
        gateway = Gateway(fleet, clock, observer, tracer)
        view = FleetView(fleet, metrics, clock)
        doors = cleanup.enter_context(gateway.doors(view.metrics))
        reloader = Reloader(fleet, source or Source(lambda: settings), observer)
        admin_socket = cleanup.enter_context(admin_listener(settings.server))
        addresses = await cleanup.enter_async_context(operated(view, reloader, doors.addresses, admin_socket))
        fleet.start()
        await cleanup.enter_async_context(running(reloader.run(), "reload"))
        await gateway.serve(doors, stop, lambda: on_listening(addresses))


@asynccontextmanager
async def traced(settings: TracingSettings) -> AsyncIterator[Tracer | None]:
    """What traces requests within the block, None where nothing does; at the end the last spans are sent.

    Raises SettingsError where OpenTelemetry is not installed.
    """
    if settings.endpoint is None:
        yield None
        return
    try:
        # Not needed, and not installed, where nothing is traced.
        from gateway.telemetry.tracing import tracing  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"telemetry.tracing needs OpenTelemetry, and there is no module '{exc.name}'; install it with "
            "`pip install -c constraints.txt '.[tracing]'`, or leave its endpoint out"
        ) from exc
    async with tracing(settings.endpoint, sample=settings.sample, service_name=settings.service_name) as tracer:
        yield tracer


@asynccontextmanager
async def operated(
    view: View, reloader: Reloader, addresses: Addresses, admin_socket: socket.socket | None
) -> AsyncIterator[Addresses]:
    """The operator's port, open within the block where it is not off; the addresses, its own among them."""
    if admin_socket is None:
        yield addresses
        return
    admin = create_admin(view, reloader, doors=addresses.doors())
    async with serving(HttpServer(admin, ADMIN_DRAIN_SECONDS), admin_socket, "admin"):
        yield replace(addresses, admin_port=admin_socket.getsockname()[1])


async def _until(event: Coroutine[Any, Any, object], task: asyncio.Task[None]) -> None:
    """Returns once something has come about, or the task has ended by itself."""
    waiting = asyncio.create_task(event)
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


@asynccontextmanager
async def serving(server: HttpServer, listener: socket.socket, name: str) -> AsyncIterator[asyncio.Task[None]]:
    """A server that is told to stop at the end, and has answered what it had begun when this returns."""
    task = asyncio.create_task(server.serve(sockets=[listener]), name=name)
    try:
        yield task
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """A task that runs within the block, and is cancelled at its end."""
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


def listener(
    host: str, port: int, field: str, *, share: bool = False
) -> contextlib.AbstractContextManager[socket.socket]:
    """A bound socket, as `bound` makes it; raises SettingsError where the port is taken."""
    try:
        return bound(host, port, share=share)
    except OSError as exc:
        raise taken(host, port, field) from exc


def admin_listener(server: ServerSettings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """A socket for the operator's port, or None where it is off; raises SettingsError where the port is taken.

    Where nobody chose a port and the usual one is taken, as by another gateway on this machine, any free one does.
    """
    if server.admin_port is None:
        return contextlib.nullcontext()
    try:
        return bound(LOOPBACK, server.admin_port)
    except OSError as exc:
        if "admin_port" in server.model_fields_set:
            raise taken(LOOPBACK, server.admin_port, "admin_port") from exc
    return bound(LOOPBACK, 0)


def authority(host: str, port: int) -> str:
    """host:port as URLs and gRPC have it: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def taken(host: str, port: int, field: str) -> SettingsError:
    """What to raise where a port cannot be had."""
    return SettingsError(f"cannot listen on {authority(host, port)}; choose another server.{field}")
