"""A whole gateway in memory, from its doors to fake model servers, for the tests of the front ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import uvicorn
from fastapi import FastAPI

from gateway.core.backend import Cancel, Done, nothing
from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.core.observer import NullObserver
from gateway.dataplane import DataPlane
from gateway.frontends.edge import Admission, Limits, Ticket
from gateway.frontends.grpc.server import create_server
from gateway.frontends.rest.app import create_app
from gateway.frontends.rest.direct import DirectHttpProtocol
from gateway.resilience.deadline import deadline
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Route, RouteTable
from tests.builders import FakeBackend, contract, tensor

# gRPC tears its poller down with the last channel, server or call that is collected, be that after the end of the
# event loop that it polled for; a poller that stays for the whole run never is.
grpc.aio.init_grpc_aio()


@dataclass(frozen=True)
class Finished:
    """What the observer was told of one request."""

    model: str
    version: int | None
    stack: str
    protocol: str
    cause: Cause | None


@dataclass
class Recorder(NullObserver):
    """An observer that keeps what it is told."""

    finished: list[Finished] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int = 1) -> list[Finished]:
        """What it was told, once it was told of `count` requests; fails after 5 s."""
        async with asyncio.timeout(5):
            while len(self.finished) < count:
                self.told.clear()
                await self.told.wait()
        return self.finished

    def request_finished(
        self, *, model: str, version: int | None, stack: str, protocol: str, cause: Cause | None, seconds: float
    ) -> None:
        """Keeps it."""
        assert seconds >= 0
        self.finished.append(Finished(model, version, stack, protocol, cause))
        self.told.set()


PAIR = contract(
    "pair",
    inputs=(TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "BYTES", (-1,))),
    outputs=(TensorSpec("c", "FP32", (-1,)),),
)


TWO_OUTPUTS = contract(outputs=(TensorSpec("y", "FP32", (-1, 2)), TensorSpec("s", "BF16", (-1,))))


def two_outputs(asked: InferenceRequest) -> InferenceResponse:
    """The doubler's `y`, and each row's sum as BF16, with a parameter of the model's own."""
    rows = asked.inputs[0].array
    outputs = (tensor("y", rows * 2), tensor("s", rows.sum(axis=1), "BF16"))
    return InferenceResponse(asked.model.name, 1, outputs, {"told": "yes"})


class StraightBackend(FakeBackend):
    """The same, which may be asked without a coroutine; `started` counts how often it was."""

    started = 0

    def start(self, request: InferenceRequest, context: CallContext, done: Done) -> Cancel:
        """Answers at once, or after `hold`."""
        self.started += 1
        if self.hold is None:
            self.requests.append(request)
            self.asked.set()
            self._reach()
            done(self.answer(request))
            return nothing
        task = asyncio.ensure_future(self.infer(request, context))

        def ended(_: object) -> None:
            done(task.exception() or task.result())

        def cancel() -> None:
            task.remove_done_callback(ended)
            task.cancel()
            done(asyncio.CancelledError())

        task.add_done_callback(ended)
        return cancel


@contextmanager
def admitted(admission: Admission) -> Iterator[Ticket]:
    """The stay of one request that is whole."""
    with admission.receive() as ticket:
        ticket.whole()
        yield ticket


class World:
    """Models `doubler` (one FP32 input) and `pair` (two inputs) on `ts` (stack torchserve) and `tf` (tfserving).

    Both have a variant `int8` on `ts` that answers only by name, and none `tensorrt`. In a `straight` world `tf` too
    answers only by name, and requests that name nothing go the way without coroutines.
    """

    def __init__(
        self, limits: Limits | None = None, model: ModelContract | None = None, *, straight: bool = False
    ) -> None:
        self.limits = limits or Limits()
        self.clock = SystemClock()
        self.observer = Recorder()
        self.admission = Admission(self.limits)
        backend = StraightBackend if straight else FakeBackend
        self.backends: dict[str, FakeBackend] = {name: backend(name=f"{name} 1.0") for name in ("ts", "tf")}
        stacks = {"ts": "torchserve", "tf": "tfserving"}
        self.endpoints = {name: Endpoint(name, stacks[name], backend) for name, backend in self.backends.items()}
        routes = {
            item.name: Route.of(
                item,
                (
                    *(Target(name, item.name, by_name=straight and name == "tf") for name in self.endpoints),
                    Target("ts", f"{item.name}-int8", variant="int8", by_name=True),
                ),
                {"stable": 1},
                {"2024-05a": 1},
                unavailable={"tensorrt": "needs an NVIDIA GPU"},
            )
            for item in (model or contract(), PAIR)
        }
        self.health = HealthMonitor(self.endpoints.values(), observer=self.observer)
        self.router = Router(RouteTable(routes), self.endpoints, self.health)
        self.plane = DataPlane(self.router, deadline(self.clock), clock=self.clock)

    @classmethod
    async def started(
        cls, limits: Limits | None = None, model: ModelContract | None = None, *, straight: bool = False
    ) -> World:
        """A world whose endpoints have been checked and that takes requests."""
        world = cls(limits, model, straight=straight)
        for endpoint in world.endpoints.values():
            await world.health.check(endpoint)
        world.plane.start()
        return world

    async def until_sent(self) -> None:
        """Returns once a request has reached a model server; fails after 5 s."""
        async with asyncio.timeout(5):
            waits = [asyncio.create_task(backend.asked.wait()) for backend in self.backends.values()]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    @property
    def sent(self) -> int:
        """How many requests reached a model server."""
        return sum(len(backend.requests) for backend in self.backends.values())

    @property
    def straight(self) -> int:
        """How many were asked without a coroutine."""
        return sum(backend.started for backend in self.backends.values() if isinstance(backend, StraightBackend))

    @property
    def last(self) -> Finished:
        """The one request that was reported since the last look; fails where there were more, or none."""
        (finished,) = self.observer.finished
        self.observer.finished.clear()
        return finished

    async def metrics(self) -> bytes:
        """A page of metrics."""
        return b"metrics\n"

    def app(self) -> FastAPI:
        """The REST front ends."""
        return create_app(
            self.plane,
            limits=self.limits,
            observer=self.observer,
            clock=self.clock,
            render_metrics=self.metrics,
            admission=self.admission,
        )

    @asynccontextmanager
    async def rest(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the REST front ends, with no socket between."""
        transport = httpx.ASGITransport(self.app(), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client

    @asynccontextmanager
    async def grpc(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to a gRPC server on a free port."""
        server = create_server(
            self.plane, limits=self.limits, observer=self.observer, clock=self.clock, admission=self.admission
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(
                f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]
            ) as channel:
                yield channel
        finally:
            await server.stop(0)

    @asynccontextmanager
    async def rest_port(self, http: type[DirectHttpProtocol] = DirectHttpProtocol) -> AsyncIterator[int]:
        """The port of a real HTTP server in front of the REST front ends."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = _Server(
                uvicorn.Config(
                    self.app(), lifespan="off", log_config=None, http=http, ws="none", timeout_graceful_shutdown=1
                )
            )
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.001)
            try:
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True
                await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: signals are the test runner's."""
        yield
