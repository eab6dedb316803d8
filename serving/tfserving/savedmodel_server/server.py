"""The whole server: models first, then the ports, then the wait for a signal, then the drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from serving.tfserving.savedmodel_server import MARK, config
from serving.tfserving.savedmodel_server.config import ModelConfig
from serving.tfserving.savedmodel_server.config_file import ConfigFile
from serving.tfserving.savedmodel_server.doors import THREADS_PER_CPU, open_doors, read_settings
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import Servable
from serving.tfserving.savedmodel_server.flags import Flags
from serving.tfserving.savedmodel_server.loading import Loader, options_of
from serving.tfserving.savedmodel_server.manager import LoadPolicy, Manager
from serving.tfserving.savedmodel_server.metrics import Metrics
from serving.tfserving.savedmodel_server.runtime import Runtime

log = logging.getLogger(__name__)

# What TensorFlow Serving's main returns, -1, as a shell sees it.
FAILED = 255


def run(flags: Flags) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    try:
        return asyncio.run(_serve_until_stopped(flags, _models(flags)))
    except (ServingError, OSError) as exc:
        log.error("Failed to start server. Error: %s", exc)
        return FAILED


@asynccontextmanager
async def serving(flags: Flags, models: Sequence[ModelConfig] | None) -> AsyncIterator[None]:
    """Open ports, once every model is available; leaving it drains what is under way. None is no configuration yet.

    Raises ServingError where a model can never be available, and OSError where a port is taken.
    """
    async with AsyncExitStack() as stack:
        starter = _threads(stack, THREADS_PER_CPU * (os.cpu_count() or 1), "start")
        loader = _threads(stack, flags.num_load_threads or 1, "load")
        unloader = _threads(stack, flags.num_unload_threads or 1, "unload")
        settings = read_settings(flags)
        metrics = Metrics()
        runtime = Runtime(metrics, flags.enable_signature_method_name_check)
        load_version = Loader(options_of(flags), metrics)
        stack.callback(load_version.close, wait=False)

        def load(path: Path) -> Servable:
            with metrics.loading(path):
                return load_version(path)

        policy = LoadPolicy(
            poll_s=flags.file_system_poll_wait_seconds,
            retries=flags.max_num_load_retries,
            retry_interval_s=flags.load_retry_interval_micros / 1e6,
            any_label=flags.allow_version_labels_for_unavailable_models,
        )
        manager = Manager(load, loader, unloader, policy)
        stack.push_async_callback(manager.stop)
        if models is not None:
            await manager.start(models, starter)
        await stack.enter_async_context(open_doors(flags, settings, manager, runtime))
        # Before the doors drain: their calls may be waiting for a batch.
        stack.callback(load_version.hurry)
        _keep(stack, manager.keep_up())
        if flags.model_config_file:
            file = ConfigFile(Path(flags.model_config_file), manager)
            _keep(stack, file.follow(flags.model_config_file_poll_wait_seconds))
        yield


def _threads(stack: AsyncExitStack, count: int, name: str) -> ThreadPoolExecutor:
    """A pool that is left to itself when the stack is left: nobody waits for what hangs in it."""
    pool = ThreadPoolExecutor(count, name)
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    return pool


def _keep(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Runs in the background until the stack is left."""
    stack.push_async_callback(_cancel, asyncio.create_task(work))


async def _serve_until_stopped(flags: Flags, models: Sequence[ModelConfig] | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("%s: starting with %s", MARK, ", ".join(model.name for model in models or ()) or "no model")
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


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _models(flags: Flags) -> tuple[ModelConfig, ...] | None:
    if flags.model_config_file:
        return config.from_file(Path(flags.model_config_file))
    return config.single(flags.model_name, flags.model_base_path)
