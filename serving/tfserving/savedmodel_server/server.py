"""The whole server: models first, then the ports, then the wait for a signal, then the drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import grpc
from aiohttp import web

from serving.tfserving.savedmodel_server import MARK, config
from serving.tfserving.savedmodel_server.config import ModelConfig
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import Parallelism, SavedModel
from serving.tfserving.savedmodel_server.flags import Flags
from serving.tfserving.savedmodel_server.grpc_service import SERVER_OPTIONS, add_services
from serving.tfserving.savedmodel_server.manager import LoadPolicy, Manager
from serving.tfserving.savedmodel_server.rest import MarkedServer, RestDoor

log = logging.getLogger(__name__)

# How long calls under way may go on after a SIGTERM.
DRAIN_S = 5.0
# What TensorFlow Serving's main returns, -1, as a shell sees it.
FAILED = 255
THREADS_PER_CPU = 4

Stop = Callable[[], Awaitable[object]]


def run(flags: Flags) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    try:
        return asyncio.run(_serve_until_stopped(flags, _models(flags)))
    except (ServingError, OSError) as exc:
        log.error("Failed to start server. Error: %s", exc)
        return FAILED


@asynccontextmanager
async def serving(flags: Flags, models: Sequence[ModelConfig]) -> AsyncIterator[None]:
    """Open ports, once every model is available; leaving it drains what is under way.

    Raises ServingError where a model can never be available, and OSError where a port is taken.
    """
    parallelism = Parallelism(flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism)
    async with AsyncExitStack() as stack:
        loader = ThreadPoolExecutor(1, "loader")
        stack.callback(loader.shutdown, wait=False)
        # Calls leave Python while TensorFlow computes, so more threads than processors keep both busy.
        pool = ThreadPoolExecutor(THREADS_PER_CPU * (os.cpu_count() or 1), "predict")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        load: Callable[[Path], SavedModel] = partial(SavedModel, parallelism=parallelism)
        policy = LoadPolicy(
            poll_s=flags.file_system_poll_wait_seconds,
            retries=flags.max_num_load_retries,
            retry_interval_s=flags.load_retry_interval_micros / 1e6,
            any_label=flags.allow_version_labels_for_unavailable_models,
        )
        manager = Manager(load, loader, loader, policy)
        stack.push_async_callback(manager.stop)
        await manager.start(models)
        doors: list[Stop] = []
        stack.push_async_callback(_stop_all, doors)
        if flags.port:
            doors.append(await _start_grpc(flags, manager, pool))
        if flags.rest_api_port:
            doors.append(await _start_rest(flags, manager, pool))
        keeping_up = asyncio.create_task(manager.keep_up())
        stack.push_async_callback(_cancel, keeping_up)
        yield


async def _serve_until_stopped(flags: Flags, models: Sequence[ModelConfig]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("%s: starting with %s", MARK, ", ".join(model.name for model in models) or "no model")
    async with AsyncExitStack() as stack:
        stopped = asyncio.create_task(stop.wait())
        started = asyncio.ensure_future(stack.enter_async_context(serving(flags, models)))
        # A server that still waits for a model stops just as well.
        await asyncio.wait({stopped, started}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            await started
            log.info("%s: ready", MARK)
            await stopped
        else:
            await _cancel(started)
        log.info("%s: stopping", MARK)
    return 0


async def _start_grpc(flags: Flags, manager: Manager, pool: ThreadPoolExecutor) -> Stop:
    server = grpc.aio.server(options=SERVER_OPTIONS + flags.grpc_options)
    add_services(server, manager.versions, pool)
    address = f"{flags.bind_address}:{flags.port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as exc:
        raise OSError(f"--port: cannot listen on {address}: {exc}") from exc
    await server.start()
    log.info("gRPC at %s", address)
    return partial(server.stop, DRAIN_S)


async def _start_rest(flags: Flags, manager: Manager, pool: ThreadPoolExecutor) -> Stop:
    door = RestDoor(manager.versions, pool, timeout_s=flags.rest_api_timeout_in_ms / 1000 or None)
    runner = web.ServerRunner(MarkedServer(door), shutdown_timeout=DRAIN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, flags.bind_address, flags.rest_api_port).start()
    except OSError as exc:
        await runner.cleanup()
        raise OSError(f"--rest_api_port: {exc}") from exc
    log.info("REST at %s:%d", flags.bind_address, flags.rest_api_port)
    return runner.cleanup


async def _stop_all(doors: Sequence[Stop]) -> None:
    """All doors close at once, and have the same time to drain."""
    await asyncio.gather(*(stop() for stop in doors))


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _models(flags: Flags) -> tuple[ModelConfig, ...]:
    if flags.model_config_file:
        return config.from_file(Path(flags.model_config_file))
    return config.single(flags.model_name, flags.model_base_path)
