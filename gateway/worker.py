"""`python -m gateway.worker FD NUMBER`: one of several workers, which the supervisor starts with its end of a channel.

It asks for its configuration, gets to know its model servers, and opens its doors once the supervisor says so. It
drains on SIGTERM, and when its channel ends: a worker does not outlive its supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import asdict
from typing import Any

import orjson
import uvloop
from starlette.datastructures import QueryParams

from gateway.collector import settle_garbage_collector
from gateway.core.clock import SystemClock
from gateway.core.errors import Cause, GatewayError
from gateway.dataplane import DataPlane
from gateway.fleet import Fleet, opened
from gateway.server import Gateway, running, traced
from gateway.settings import SettingsError
from gateway.telemetry.histogram import Registry
from gateway.telemetry.logging import configure
from gateway.telemetry.metrics import PrometheusObserver
from gateway.view import FleetView, to_json
from gateway.workers.assignment import Assignment
from gateway.workers.control import Control, ControlError, Handler
from gateway.workers.pending import Pending

logger = logging.getLogger(__name__)

# How soon the others hear that this worker has become ready, or is so no more.
READY_SECONDS = 0.25
# How long the supervisor may take for what it has at hand, and for a page of all workers' metrics.
ANSWER_SECONDS = 10.0
# As that of a gateway that cannot start.
EXIT_FAILED = 3


def main(arguments: list[str] | None = None) -> int:
    """Runs one worker to its end; returns the exit status."""
    descriptor, number = map(int, sys.argv[1:] if arguments is None else arguments)
    # These are the supervisor's: a terminal sends them to all of its processes.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(socket.socket(fileno=descriptor), number))


async def _work(channel: socket.socket, number: int) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(number, stop)
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    control = Control(reader, writer, worker.handlers())
    reading = asyncio.create_task(control.run(), name="control")
    reading.add_done_callback(lambda _: stop.set())
    try:
        await worker.serve(control)
    except SettingsError as exc:
        try:
            await control.call("failed", str(exc).encode(), timeout_s=ANSWER_SECONDS)
        except (ControlError, GatewayError) as untold:
            # It still has the exit status to go by.
            logger.error("could not start: %s (the supervisor was not told: %s)", exc, untold)
        return EXIT_FAILED
    except ControlError as exc:
        # The supervisor is gone, or hangs, before there was anything to drain.
        logger.warning("ended: %s", exc)
    finally:
        await control.close()
        await reading
    return 0


class Worker:
    """One worker, between its channel and its fleet."""

    def __init__(self, number: int, stop: asyncio.Event) -> None:
        self._number = number
        self._stop = stop
        self._registry = Registry()
        self._clock = SystemClock()
        self._view: FleetView | None = None
        self._data_plane: DataPlane | None = None
        self._pending: Pending | None = None
        self._others_ready = True

    def handlers(self) -> Mapping[str, Handler]:
        """What the supervisor may call."""
        return {
            "prepare": self._prepare,
            "commit": self._commit,
            "discard": self._discard,
            "page": self._page,
            "routes": self._routes,
            "mirror": self._mirror,
            "explain": self._explain,
            "others": self._hear_of_others,
        }

    async def serve(self, control: Control) -> None:
        """Serves what the supervisor assigns until `stop` is set, then drains.

        Raises SettingsError where a port cannot be had, and ControlError where the supervisor is gone before it starts.
        """
        assignment = Assignment.from_json(await control.call("assignment", timeout_s=ANSWER_SECONDS))
        configuration = assignment.of_worker(self._number)
        configure(configuration.settings.log_level, sys.stderr, self._number)
        observer = PrometheusObserver(self._registry)
        async with (
            opened(configuration, self._clock, observer) as fleet,
            traced(configuration.settings.telemetry.tracing) as tracer,
        ):
            self._pending, self._view = Pending(fleet), FleetView(fleet, self._registry, self._clock)
            gateway = Gateway(fleet, self._clock, observer, tracer)
            self._data_plane = gateway.data_plane
            self._data_plane.hear_of_others(self._others_ready)
            if not await self._unless_stopped(self._settled(fleet, assignment.edition, control)):
                return

            async def metrics() -> bytes:
                return await _metrics(control)

            def listening() -> None:
                settle_garbage_collector()
                _say_ready(control, gateway.data_plane.ready_here())
                control.tell("listening")

            with gateway.doors(metrics, share=True) as doors:
                fleet.start()
                async with running(self._tell_ready(gateway.data_plane, control), "ready"):
                    await gateway.serve(doors, self._stop, listening)

    async def _settled(self, fleet: Fleet, edition: int, control: Control) -> None:
        """Returns once every endpoint was asked and the supervisor lets the doors open."""
        await fleet.settle()
        while newer := await control.call("settled", str(edition).encode(), timeout_s=None):
            assignment = Assignment.from_json(newer)
            await fleet.apply(assignment.of_worker(self._number))
            edition = assignment.edition

    async def _unless_stopped(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Whether the coroutine has ended before the worker is to stop; if not, it is cancelled."""
        task = asyncio.create_task(coroutine, name="start")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            for pending in (task, stopping):
                pending.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    async def _tell_ready(self, data_plane: DataPlane, control: Control) -> None:
        """Tells the supervisor, for the others, whether this worker is ready, whenever that has changed."""
        last = False
        while True:
            ready = data_plane.ready_here()
            if ready is not last:
                _say_ready(control, ready)
                last = ready
            await asyncio.sleep(READY_SECONDS)

    async def _prepare(self, body: bytes) -> bytes:
        assignment = Assignment.from_json(body)
        await self._next().prepare(assignment.edition, assignment.of_worker(self._number))
        return b""

    async def _commit(self, body: bytes) -> bytes:
        configuration, changes = await self._next().commit(int(body))
        logging.getLogger().setLevel(configuration.settings.log_level.upper())
        return orjson.dumps(asdict(changes))

    async def _discard(self, _: bytes) -> bytes:
        await self._next().discard()
        return b""

    async def _page(self, _: bytes) -> bytes:
        return await self._running_view().metrics()

    async def _routes(self, _: bytes) -> bytes:
        return to_json(await self._running_view().routes())

    async def _mirror(self, _: bytes) -> bytes:
        return to_json(await self._running_view().mirror())

    async def _explain(self, body: bytes) -> bytes:
        return to_json(await self._running_view().explain(QueryParams(body.decode())))

    async def _hear_of_others(self, body: bytes) -> bytes:
        self._others_ready = body == b"1"
        if self._data_plane is not None:
            self._data_plane.hear_of_others(self._others_ready)
        return b""

    def _next(self) -> Pending:
        if self._pending is None:
            raise ControlError("this worker still starts")
        return self._pending

    def _running_view(self) -> FleetView:
        if self._view is None:
            raise ControlError("this worker still starts")
        return self._view


def _say_ready(control: Control, ready: bool) -> None:
    control.tell("ready", b"1" if ready else b"0")


async def _metrics(control: Control) -> bytes:
    """The page of all workers; raises NOT_READY where the supervisor does not answer: part of it would read as a
    counter that was set back."""
    try:
        return await control.call("metrics", timeout_s=ANSWER_SECONDS)
    except ControlError as exc:
        raise GatewayError(Cause.NOT_READY, f"the metrics of all workers are not to be had now: {exc}") from exc


if __name__ == "__main__":
    sys.exit(main())
