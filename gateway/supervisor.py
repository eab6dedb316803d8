"""Several workers on the same ports: starts them, starts them again when they die, and speaks for all of them.

The supervisor holds the ports, and is asked by operators; requests never pass through it. Workers are programs of their
own, started anew and never forked: neither gRPC nor an event loop survives a fork.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.clock import SystemClock
from gateway.core.contract import ModelContract
from gateway.plan import Configuration
from gateway.reload import Reloader, Source
from gateway.server import Addresses, admin_listener, listener, operated, running
from gateway.settings import Settings, SettingsError
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import PrometheusObserver
from gateway.workers.assignment import Assignment
from gateway.workers.control import Control
from gateway.workers.crew import Crew
from gateway.workers.respawn import Deaths
from gateway.workers.share import too_small

logger = logging.getLogger(__name__)

# How long a worker may take from its start until it takes requests.
START_SECONDS = 60.0
# What a drain may take beside the time that requests in flight have at either door.
DRAIN_EXTRA_SECONDS = 10.0


class SupervisorError(RuntimeError):
    """Raised where the workers did not serve, or did not end, as they should; the text says why."""


class Process(Protocol):
    """A worker's process, as asyncio has it."""

    @property
    def pid(self) -> int:
        """Its number."""

    async def wait(self) -> int:
        """Its exit status, once it has one; negative where a signal ended it."""

    def terminate(self) -> None:
        """Has it drain."""

    def kill(self) -> None:
        """Ends it."""


# Starts worker number N with its end of the channel.
Spawn = Callable[[socket.socket, int], Awaitable[Process]]


@dataclass(frozen=True, slots=True)
class Stop:
    """What ends the supervisor: `drain` lets requests in flight finish, `at_once` does not wait for them."""

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        """The first call drains, the second ends at once."""
        (self.at_once if self.drain.is_set() else self.drain).set()


async def spawned(channel: socket.socket, number: int) -> Process:
    """A worker as a process of its own, with the modules that this process has."""
    # -P: what is in the folder where the gateway was started must not stand for modules of ours.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gateway.worker", str(channel.fileno()), str(number)),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(channel.fileno(),),
        # A terminal's Ctrl-C is the supervisor's, who drains.
        process_group=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )


async def supervise(
    settings: Settings,
    contracts: Mapping[str, ModelContract],
    stop: Stop,
    on_listening: Callable[[Addresses], None] = lambda _: None,
    source: Source | None = None,
    spawn: Spawn = spawned,
) -> None:
    """Serves with `settings.server.workers` processes until `stop`; `on_listening` is told the addresses once all
    workers take requests.

    Raises SettingsError where a port is taken, and SupervisorError where workers die again and again or would not end.
    """
    clock, registry = SystemClock(), Registry()
    observer = PrometheusObserver(registry)
    server = settings.server
    for warning in too_small(settings):
        logger.warning("%s", warning)
    async with AsyncExitStack() as cleanup:
        rest_port = cleanup.enter_context(reserved(server.host, server.rest_port, "rest_port"))
        grpc_port = cleanup.enter_context(reserved(server.host, server.grpc_port, "grpc_port"))
        admin_socket = cleanup.enter_context(admin_listener(server))
        crew = Crew(Assignment(0, Configuration(settings, contracts), rest_port, grpc_port), registry, clock)
        cleanup.push_async_callback(crew.close)
        workers = Workers(crew, spawn, server.workers)
        async with kept(workers, stop, 2 * server.drain_seconds + DRAIN_EXTRA_SECONDS) as ended:
            if await _first(crew.all_listening(), ended, stop.drain.wait()) != 0:
                return
            reloader = Reloader(crew, source or Source(lambda: settings), observer)
            addresses = Addresses(server.host, rest_port, grpc_port)
            async with operated(crew, reloader, addresses, admin_socket) as found, running(reloader.run(), "reload"):
                on_listening(found)
                await _first(ended, stop.drain.wait())
                workers.stop()


class Workers:
    """The processes: `run` keeps `count` of them alive until `stop`."""

    def __init__(self, crew: Crew, spawn: Spawn, count: int, deaths: Callable[[], Deaths] = Deaths) -> None:
        self._crew = crew
        self._spawn = spawn
        self._count = count
        self._deaths = deaths
        self._processes: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Returns once all have ended after `stop`; raises what made it stop by itself."""
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._count + 1):
                group.create_task(self._keep(number), name=f"worker:{number}")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """From now on none is started, and those that run drain."""
        self._stopping.set()
        for process in self._processes.values():
            _signal(process.terminate)

    def kill(self) -> None:
        """Ends all that still run."""
        for process in self._processes.values():
            _signal(process.kill)

    async def _keep(self, number: int) -> None:
        """One worker after the other."""
        deaths = self._deaths()
        while not self._stopping.is_set():
            try:
                status, served_s = await self._live(number)
                how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
            except OSError as exc:
                how, served_s = f"could not be started ({exc})", 0.0
            if self._stopping.is_set():
                return
            delay = deaths.died(served_s)
            if delay is None or (self._crew.failure(number) and not self._crew.started):
                self._fail(number, how, deaths.quick)
                return
            logger.error("worker %d %s; it is started again in %g s", number, how, delay)
            self._crew.restarted()
            await _first(self._stopping.wait(), asyncio.sleep(delay))

    def _fail(self, number: int, how: str, quick: int) -> None:
        if failure := self._crew.failure(number):
            # Its own word, such as that a port is taken.
            self._failure = SettingsError(failure)
        else:
            self._failure = SupervisorError(
                f"worker {number} {how} soon after its start, {quick} times in a row; its log says why"
            )
        logger.error("the gateway ends: %s", self._failure)
        self.stop()

    async def _live(self, number: int) -> tuple[int, float]:
        """One life of a worker: its exit status, and for how many seconds it took requests.

        Raises OSError where no process can be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # From here on the stream closes our end.
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            try:
                process = await self._spawn(theirs, number)
            except BaseException:
                writer.close()
                raise
        self._processes[number] = process
        control = Control(reader, writer, self._crew.handlers(number))
        reading = asyncio.create_task(control.run(), name=f"control:{number}")
        late = asyncio.get_running_loop().call_later(START_SECONDS, self._check_started, number)
        self._crew.attach(number, control)
        if self._stopping.is_set():
            _signal(process.terminate)
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            _signal(process.kill)
            await process.wait()
            raise
        finally:
            late.cancel()
            del self._processes[number]
            served_s = self._crew.detach(number)
            await control.close()
            await reading
        return status, served_s

    def _check_started(self, number: int) -> None:
        if not self._crew.listens(number) and not self._stopping.is_set():
            logger.error("worker %d takes no requests %g s after its start, and is ended", number, START_SECONDS)
            _signal(self._processes[number].kill)


@asynccontextmanager
async def kept(workers: Workers, stop: Stop, drain_seconds: float) -> AsyncIterator[asyncio.Task[None]]:
    """The workers' task, while the block runs; after it they drain, for so many seconds or until they have to end.

    Raises what the workers raised, and SupervisorError where they had to be killed.
    """
    task = asyncio.create_task(workers.run(), name="workers")
    try:
        yield task
    finally:
        workers.stop()
        why = await _first(task, stop.at_once.wait(), asyncio.sleep(drain_seconds))
        if why != 0:
            workers.kill()
        await asyncio.wait({task})
    await task
    if why == 1:
        raise SupervisorError("the workers were ended at once, with what they had in flight")
    if why == 2:
        raise SupervisorError(f"the workers had not drained after {drain_seconds:g} s, and were ended")


@contextmanager
def reserved(host: str, port: int, field: str) -> Iterator[int]:
    """Holds a port that workers share, and never listens on it; raises SettingsError where another has it."""
    if not sys.platform.startswith("linux"):
        raise SettingsError("server.workers: several workers share their ports as Linux does it; set it to 1 here")
    # First alone: with SO_REUSEPORT the gateway that has the port already would have to share it.
    with listener(host, port, field) as alone:
        port = alone.getsockname()[1]
    with listener(host, port, field, share=True):
        yield port


def _signal(send: Callable[[], None]) -> None:
    """Sends a signal to a process that may just have ended."""
    with suppress(ProcessLookupError):
        send()


async def _first(*awaited: Awaitable[object]) -> int:
    """Which ends first, by its place; the others are cancelled, but for tasks, which belong to others."""
    tasks = [asyncio.ensure_future(item) for item in awaited]
    own = [task for task, item in zip(tasks, awaited, strict=True) if task is not item]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(place for place, task in enumerate(tasks) if task.done())
    finally:
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
