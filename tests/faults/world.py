"""A gateway, as it runs in production, between clients and three scripted model servers of which one falls ill."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from gateway.plan import Configuration
from gateway.server import serve
from gateway.settings import Settings
from tests.builders import contract
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.relay import Fault, Relay
from tests.fakes.script import Arrays, Compute, FakeModel, double
from tests.faults.clients import DOORS, OK, Clients, Samples, clients_of

SLOTS = 4
QUEUE = 32
IN_FLIGHT = 128
# The largest request, and about the largest reply.
BODY_BYTES = 1 << 20
# Of requests that name none. Longer than a call must have had for its server to be blamed for not answering.
TIMEOUT_MS = 700
LONG_MS = 60_000
# How long a test waits for what must happen some time, on a machine that is busy with other things.
PATIENCE_S = 60
# `double` has one endpoint, the one that falls ill; `backed` has a spare beside it; `neighbour` is elsewhere.
MODELS = ("double", "backed", "neighbour")
FAKES = {"torchserve": FakeTorchServe, "tfserving": FakeTfServing, "oip": FakeOip}
TESTS = str(Path(__file__).parents[1])


class Way(NamedTuple):
    """How the gateway speaks to a model server."""

    stack: str
    transport: str

    def __str__(self) -> str:
        return f"{self.stack}-{self.transport}"


# Every codec, and of what is between the sockets each client: the rest of an OIP server is what TF Serving's is.
EVERY_WAY = tuple(Way(stack, transport) for stack in FAKES for transport in ("rest", "grpc"))
WAYS = tuple(way for way in EVERY_WAY if way.stack != "oip")
HTTP_WAYS = tuple(way for way in WAYS if way.transport == "rest")


class Upstream:
    """One scripted model server; `seen` counts how often each request's number reached a model of it."""

    def __init__(self, way: Way, seen: Counter[int]) -> None:
        self.way = way
        self.seen = seen
        self.models = {name: self._noting(double(name)) for name in MODELS}
        self.fake: Any = FAKES[way.stack](*self.models.values())

    @property
    def relay(self) -> Relay:
        """What stands before the port that inference calls go to."""
        return self.fake.grpc_relay if self.way.transport == "grpc" else self.fake.rest_relay

    @property
    def relays(self) -> list[Relay]:
        """What stands before each of its ports."""
        names = ("rest_relay", "grpc_relay", "management_relay")
        return [getattr(self.fake, name) for name in names if hasattr(self.fake, name)]

    def endpoint(self) -> dict[str, Any]:
        """An entry of `endpoints`."""
        fake = self.fake
        addresses = {"rest": fake.rest_url, "grpc": fake.grpc_address}
        if self.way.stack == "torchserve":
            addresses["management"] = fake.management_url
        return {"stack": self.way.stack, "transport": self.way.transport, **addresses, "slots": SLOTS, "queue": QUEUE}

    def falls_under(self, fault: Fault) -> None:
        """From now on the network does this on the way to it."""
        self.relay.fault = fault

    def computes(self, answer: Callable[[Arrays], Arrays]) -> None:
        """From now on its models answer so."""
        for name in MODELS:
            self.fake.models[name] = self._noting(replace(double(name), compute=answer))

    def dies(self) -> None:
        """Breaks every connection; all of its ports refuse, as where the process was killed."""
        for relay in self.relays:
            relay.refuse()

    async def recovers(self) -> None:
        """Is what it was at the start."""
        self.fake.otherwise = Compute()
        self.fake.models = dict(self.models)
        if self.way.stack == "torchserve":
            self.fake.queue_room = 100
        for relay in self.relays:
            await relay.heal()

    def _noting(self, model: FakeModel) -> FakeModel:
        def compute(arrays: Arrays) -> Arrays:
            self.seen.update(int(number) for number in arrays["x"][:, 0])
            return model.compute(arrays)

        return replace(model, compute=compute)


@dataclass
class World:
    """The gateway's clients, the server that falls ill, the spare one, and the neighbour's."""

    clients: Clients
    sick: Upstream
    spare: Upstream
    well: Upstream
    seen: Counter[int]
    stop: asyncio.Event

    def __post_init__(self) -> None:
        self.most: Counter[str] = Counter()
        self._tasks = _tasks()

    async def warm_up(self) -> None:
        """Returns once every model has answered at both doors; what there is then is what shall be there at the end."""
        for model in MODELS:
            async with asyncio.timeout(PATIENCE_S):
                while await self.clients.status(f"/v2/models/{model}/ready") != 200:
                    await asyncio.sleep(0.02)
        await self.recovered()
        self._tasks = _tasks()

    async def recovered(self) -> None:
        """Returns once every model answers at both doors again; fails after a minute."""
        for model in MODELS:
            for door in DOORS:
                async with asyncio.timeout(PATIENCE_S):
                    while await self.clients.ask(model, door) != OK:
                        await asyncio.sleep(0.05)

    async def settled(self) -> None:
        """Returns once nothing is left of what happened: no request, no slot, no open breaker, no task, no connection.

        Fails after a minute, and says what is left.
        """
        left: object = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while left := await self._left():
                    # A breaker is closed by an answer, and a spare is asked by those who want it.
                    for endpoint in ("sick", "spare"):
                        await self.clients.ask("backed", endpoint=endpoint)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"still there: {left}") from None

    async def until(self, found: Callable[[Samples], bool]) -> None:
        """Returns once the metrics say so; fails after a minute."""
        async with asyncio.timeout(PATIENCE_S):
            while not found(samples := await self.clients.metrics()):
                self.note(samples)
                await asyncio.sleep(0.005)

    async def busy(self, model: str) -> list[asyncio.Task[str]]:
        """Requests that have every slot of the sick server, which holds them. One after the other, for those that come
        at once may go out together.
        """
        tasks = []
        for count in range(1, SLOTS + 1):
            tasks.append(asyncio.create_task(self.clients.ask(model, "rest", LONG_MS)))
            await self.sick.fake.in_flight.reaches(count)
        return tasks

    async def queued(self, endpoint: str, count: int) -> None:
        """Returns once so many requests wait at an endpoint."""
        await self.until(lambda samples: samples.total("gateway_endpoint_slots_queued", endpoint=endpoint) == count)

    async def _left(self) -> object:
        samples = await self.clients.metrics()
        self.note(samples)
        gauges = (
            "gateway_requests_in_flight",
            "gateway_requests_in_flight_bytes",
            "gateway_endpoint_slots_busy",
            "gateway_endpoint_slots_queued",
            "gateway_breaker_state",
        )
        found: dict[str, object] = {name: value for name in gauges if (value := samples.total(name))}
        for upstream in (self.sick, self.spare, self.well):
            if upstream.fake.in_flight.value:
                found["calls at a server"] = upstream.fake.in_flight.value
            # Connections stay for the next request, as many as there are slots; health checks have their own.
            if upstream.relay.open.value > SLOTS + 2:
                found["connections"] = upstream.relay.open.value
        if more := _tasks() - self._tasks:
            found["tasks"] = more
        return found

    def note(self, samples: Samples) -> None:
        """Keeps the largest value of each gauge."""
        self._keep("in_flight", samples.total("gateway_requests_in_flight"))
        for kind in ("busy", "queued"):
            for endpoint, value in samples.by("endpoint", f"gateway_endpoint_slots_{kind}").items():
                self._keep(f"{kind} {endpoint}", value)

    def _keep(self, name: str, value: int) -> None:
        self.most[name] = max(self.most[name], value)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Looks at the gauges for as long as the block runs, and holds them against their limits at its end."""

        async def look() -> None:
            while True:
                self.note(await self.clients.metrics())
                await asyncio.sleep(0.03)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.check_bounds()

    def check_bounds(self) -> None:
        """Work in flight never was above its limits: by the gauges, and by what the servers saw."""
        assert self.most["in_flight"] <= IN_FLIGHT
        for name, upstream in (("sick", self.sick), ("spare", self.spare), ("well", self.well)):
            assert self.most[f"busy {name}"] <= SLOTS
            assert self.most[f"queued {name}"] <= QUEUE
            # A server may notice the end of a call that was given up a moment after the next one has come.
            assert upstream.fake.in_flight.most <= 2 * SLOTS


@asynccontextmanager
async def running(way: Way, spare: Way | None = None, **changes: Any) -> AsyncIterator[World]:
    """The world, each server spoken to in this way, or the spare one in a way of its own; every model ready.

    `changes` are further fields of the models. When it is over no task and no socket is left that was not there before.
    """
    before = _sockets()
    async with AsyncExitStack() as stack:
        seen: Counter[int] = Counter()
        sick, other, well = Upstream(way, seen), Upstream(spare or way, seen), Upstream(way, seen)
        for upstream in (sick, other, well):
            await stack.enter_async_context(upstream.fake)
        configuration = configured(
            {"sick": sick.endpoint(), "spare": other.endpoint(), "well": well.endpoint()}, **changes
        )
        stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(configuration.settings, configuration.contracts, stop, listening.set_result), name="gateway"
        )
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        addresses = await listening
        try:
            clients = await stack.enter_async_context(
                clients_of(f"http://127.0.0.1:{addresses.rest_port}", f"127.0.0.1:{addresses.grpc_port}")
            )
            world = World(clients, sick, other, well, seen, stop)
            await world.warm_up()
            yield world
        finally:
            stop.set()
            await asyncio.wait_for(serving, PATIENCE_S)
    await _nothing_left(before)


def configured(endpoints: dict[str, Any], **changes: Any) -> Configuration:
    """A configuration of the three models on these endpoints; `changes` are further fields of the models."""
    targets = {"double": ["sick"], "backed": ["sick", "spare"], "neighbour": ["well"]}
    settings = Settings(
        server={"rest_port": 0, "grpc_port": 0, "admin_port": None, "drain_seconds": 5},
        limits={"in_flight": IN_FLIGHT, "body_bytes": BODY_BYTES, "json_bytes": BODY_BYTES, "timeout_ms": TIMEOUT_MS},
        endpoints=endpoints,
        models={
            name: {"contract": "unused", "targets": [{"endpoint": target} for target in targets[name]], **changes}
            for name in MODELS
        },
        log_level="error",
    )
    model = double()
    contracts = {name: contract(name, inputs=model.inputs, outputs=model.outputs, batch_cap=16) for name in MODELS}
    return Configuration(settings, contracts)


def _tasks() -> Counter[str]:
    """The tasks of gateway and clients, by what they run; not those of the fakes, which are one for each connection."""
    found: Counter[str] = Counter()
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        code = getattr(coroutine, "cr_code", None)
        file = "" if code is None else code.co_filename
        if not file.startswith(TESTS) and "/aiohttp/" not in file:
            found[coroutine.__qualname__] += 1
    return found


def _sockets() -> int:
    return len(psutil.Process().net_connections("tcp"))


async def _nothing_left(before: int) -> None:
    """Fails where tasks or sockets stay for more than a minute."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while _sockets() > before or len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.02)
    except TimeoutError:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        raise AssertionError(f"left behind: {_sockets() - before} sockets, {tasks}") from None
