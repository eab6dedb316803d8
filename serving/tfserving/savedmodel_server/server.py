"""The whole server: models first, then the ports, then the wait for a signal, then the drain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from serving.tfserving.savedmodel_server import MARK, config
from serving.tfserving.savedmodel_server.config import ModelConfig
from serving.tfserving.savedmodel_server.doors import open_doors, read_settings
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import Parallelism, SavedModel
from serving.tfserving.savedmodel_server.flags import Flags
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
async def serving(flags: Flags, models: Sequence[ModelConfig]) -> AsyncIterator[None]:
    """Open ports, once every model is available; leaving it drains what is under way.

    Raises ServingError where a model can never be available, and OSError where a port is taken.
    """
    parallelism = Parallelism(flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism)
    async with AsyncExitStack() as stack:
        loader = ThreadPoolExecutor(1, "loader")
        stack.callback(loader.shutdown, wait=False)
        settings = read_settings(flags)
        metrics = Metrics()
        runtime = Runtime(metrics, flags.enable_signature_method_name_check)

        def load(path: Path) -> SavedModel:
            with metrics.loading(path):
                return SavedModel(path, parallelism=parallelism)

        policy = LoadPolicy(
            poll_s=flags.file_system_poll_wait_seconds,
            retries=flags.max_num_load_retries,
            retry_interval_s=flags.load_retry_interval_micros / 1e6,
            any_label=flags.allow_version_labels_for_unavailable_models,
        )
        manager = Manager(load, loader, loader, policy)
        stack.push_async_callback(manager.stop)
        await manager.start(models)
        await stack.enter_async_context(open_doors(flags, settings, manager, runtime))
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


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _models(flags: Flags) -> tuple[ModelConfig, ...]:
    if flags.model_config_file:
        return config.from_file(Path(flags.model_config_file))
    return config.single(flags.model_name, flags.model_base_path)
