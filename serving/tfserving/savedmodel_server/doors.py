"""The ports: gRPC on TCP and on a Unix socket, REST with the Prometheus page; open once every model is there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from aiohttp import web

from serving.tfserving.savedmodel_server.door_files import credentials, monitoring_path
from serving.tfserving.savedmodel_server.flags import Flags
from serving.tfserving.savedmodel_server.grpc_service import SERVER_OPTIONS, add_services
from serving.tfserving.savedmodel_server.health import add_health
from serving.tfserving.savedmodel_server.http_answers import MarkedServer
from serving.tfserving.savedmodel_server.manager import Manager
from serving.tfserving.savedmodel_server.rest import RestDoor
from serving.tfserving.savedmodel_server.runtime import Runtime

log = logging.getLogger(__name__)

# How long calls under way may go on after a SIGTERM.
DRAIN_S = 5.0
# server.h; calls leave Python while TensorFlow computes, so more threads than processors keep both busy.
THREADS_PER_CPU = 4

Stop = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """What the files that the flags name say: where the Prometheus page is, and what secures gRPC; None for neither."""

    monitoring_path: str | None
    credentials: grpc.ServerCredentials | None


def read_settings(flags: Flags) -> DoorSettings:
    """Reads the files; raises ServingError for one that cannot be read."""
    return DoorSettings(monitoring_path(flags.monitoring_config_file), credentials(flags.ssl_config_file))


@asynccontextmanager
async def open_doors(flags: Flags, settings: DoorSettings, manager: Manager, runtime: Runtime) -> AsyncIterator[None]:
    """Open ports; leaving it drains what is under way. Raises OSError where a port is taken."""
    async with AsyncExitStack() as stack:
        grpc_pool = _pool(stack, flags.grpc_max_threads, "grpc")
        rest_pool = _pool(stack, flags.rest_api_num_threads, "rest")
        doors: list[Stop] = []
        stack.push_async_callback(_stop_all, doors)
        doors.append(await _start_grpc(flags, settings, manager, grpc_pool, runtime))
        if flags.rest_api_port and flags.rest_api_port == flags.port:
            log.error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
                "Skipped exporting HTTP/REST API."
            )
        elif flags.rest_api_port:
            doors.append(await _start_rest(flags, settings, manager, rest_pool, runtime))
        yield


def _pool(stack: AsyncExitStack, threads: int, name: str) -> Executor:
    pool = ThreadPoolExecutor(threads or THREADS_PER_CPU * (os.cpu_count() or 1), name)
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    return pool


async def _start_grpc(flags: Flags, settings: DoorSettings, manager: Manager, pool: Executor, runtime: Runtime) -> Stop:
    # Of an option given twice, gRPC takes the first.
    server = grpc.aio.server(options=flags.grpc_options + SERVER_OPTIONS)
    health = await add_health(server) if flags.enable_grpc_healthcheck_service else None
    add_services(server, manager.versions, pool, runtime, manager.reload)
    places = [("--port", f"{flags.bind_address}:{flags.port}")] if flags.port else []
    if flags.grpc_socket_path:
        places.append(("--grpc_socket_path", f"unix:{flags.grpc_socket_path}"))
    for flag, place in places:
        try:
            if settings.credentials is None:
                server.add_insecure_port(place)
            else:
                server.add_secure_port(place, settings.credentials)
        except RuntimeError as exc:
            raise OSError(f"{flag}: cannot listen on {place}: {exc}") from exc
    await server.start()
    log.info("gRPC at %s", " and ".join(place for _, place in places))

    async def stop() -> None:
        if health is not None:
            await health.enter_graceful_shutdown()
        await server.stop(DRAIN_S)

    return stop


async def _start_rest(flags: Flags, settings: DoorSettings, manager: Manager, pool: Executor, runtime: Runtime) -> Stop:
    door = RestDoor(
        manager.versions,
        pool,
        runtime,
        timeout_s=flags.rest_api_timeout_in_ms / 1000 or None,
        cors=flags.rest_api_enable_cors_support,
        monitoring_path=settings.monitoring_path,
    )
    runner = web.ServerRunner(MarkedServer(door.handle), shutdown_timeout=DRAIN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, flags.bind_address, flags.rest_api_port).start()
    except OSError as exc:
        await runner.cleanup()
        raise OSError(f"--rest_api_port: {exc}") from exc
    log.info("REST at %s:%d", flags.bind_address, flags.rest_api_port)
    return runner.cleanup


async def _stop_all(doors: list[Stop]) -> None:
    """All doors close at once, and have the same time to drain."""
    await asyncio.gather(*(stop() for stop in doors))
