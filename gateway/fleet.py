"""Everything of a worker that a reload may change: the connected endpoints, the watch over them, and the routes.

An endpoint that a new configuration describes as before stays as it is, with its connections, slots and breakers. One
that is gone, or is described otherwise, is closed once the last request has ended that may still use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.backends import registry as backends
from gateway.codecs.torchserve_payloads import Payload
from gateway.core.backend import Backend
from gateway.core.clock import Clock
from gateway.core.observer import Observer
from gateway.plan import Configuration, HandlerKey, Spoken, handlers_of, plan_of
from gateway.routing.discovery import Discovery
from gateway.routing.endpoint import Endpoint
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import RouteTable
from gateway.routing.under_way import UnderWay
from gateway.settings import EndpointSettings, HandlerSettings
from gateway.stacks import EndpointStack

logger = logging.getLogger(__name__)

# Room for the protocol's own bytes around tensors of the largest allowed size.
REPLY_OVERHEAD_BYTES = 1 << 20
# TorchServe runs a job to its end, whoever has left (pytorch/serve issue 2814).
GOES_ON_WHEN_CANCELLED = frozenset({"torchserve"})
# How long a reload waits for the first answers of its endpoints before the routes change.
SETTLE_SECONDS = 5.0

# Makes the backend of an endpoint, as `gateway.backends.registry.connect` does.
Connect = Callable[..., Backend]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new configuration did to the endpoints, by their names."""

    kept: tuple[str, ...] = ()
    connected: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


class Member:
    """One connected endpoint, and what it was connected with."""

    def __init__(
        self, name: str, configuration: Configuration, clock: Clock, observer: Observer, connect: Connect
    ) -> None:
        settings = configuration.settings
        self._name = name
        self._spec = settings.endpoints[name]
        self._contracts = configuration.contracts
        self._spoken: dict[HandlerKey, Spoken] = {}
        # The backend looks into these two at every call: what is new in them it knows.
        self._payloads: dict[HandlerKey, Payload] = {}
        self._versions: dict[str, dict[str, int]] = {}
        self._learn(*self._described(configuration))
        self._backend: Backend = connect(
            stack=self._spec.stack,
            transport=self._spec.transport,
            rest=self._spec.rest,
            grpc=self._spec.grpc,
            management=self._spec.management,
            server=self._spec.server,
            contracts=configuration.contracts,
            max_reply_bytes=settings.limits.body_bytes + REPLY_OVERHEAD_BYTES,
            clock=clock,
            token_file=self._spec.token_file,
            handlers=self._payloads,
            versions=self._versions,
            slots=self._spec.slots,
        )
        self.stack = EndpointStack(
            name,
            self._spec.stack,
            slots=self._spec.slots,
            queue=self._spec.queue,
            clock=clock,
            observer=observer,
            cancels=self._spec.stack not in GOES_ON_WHEN_CANCELLED,
        )
        self.endpoint = Endpoint(name, self._spec.stack, self._backend, self.stack)

    def takes(self, configuration: Configuration) -> bool:
        """Whether the endpoint is in another configuration what it is, so that it may stay; if so, it is taught what
        that adds: handlers of further models.
        """
        spec = configuration.settings.endpoints.get(self._name)
        if spec is None or _wire(spec) != _wire(self._spec):
            return False
        if spec.stack == "noop" and configuration.contracts != self._contracts:
            return False
        spoken, versions = self._described(configuration)
        # Handlers that it no longer mentions stay known: requests under way may be for them.
        if any(
            self._spoken[key].description != item.description for key, item in spoken.items() if key in self._spoken
        ):
            return False
        self._learn(spoken, versions)
        return True

    async def close(self) -> None:
        """Ends the calls that still run, and closes every connection."""
        await self.stack.close()
        await self._backend.close()

    def _described(
        self, configuration: Configuration
    ) -> tuple[Mapping[HandlerKey, Spoken], Mapping[str, dict[str, int]]]:
        if self._spec.stack != "torchserve":
            return {}, {}
        spoken = handlers_of(configuration.settings, configuration.contracts, self._name)
        return spoken, configuration.settings.versions_on(self._name)

    def _learn(self, spoken: Mapping[HandlerKey, Spoken], versions: Mapping[str, dict[str, int]]) -> None:
        self._spoken.update(spoken)
        self._payloads.update({key: item.payload for key, item in spoken.items()})
        self._versions.update(versions)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Another configuration whose endpoints are connected and were asked, and that is not yet in effect."""

    configuration: Configuration
    kept: Mapping[str, Member]
    added: Mapping[str, Member]
    health: HealthMonitor
    discovery: Discovery


class Fleet:
    """The endpoints of a configuration, and the router of its routes. `apply` changes both, in one step."""

    def __init__(
        self,
        configuration: Configuration,
        members: dict[str, Member],
        clock: Clock,
        observer: Observer,
        connect: Connect,
    ) -> None:
        self._configuration = configuration
        self._members = members
        self._clock = clock
        self._observer = observer
        self._connect = connect
        endpoints = {name: member.endpoint for name, member in members.items()}
        health = HealthMonitor(endpoints.values(), observer=observer)
        self.router = Router(RouteTable({}), endpoints, health, clock=clock, observer=observer)
        self._discovery = Discovery(plan_of(configuration.settings, configuration.contracts), clock)
        health.discover(self._discovery, self.router.replace)
        self._watch: asyncio.Task[None] | None = None
        self._started_before: list[UnderWay] = []
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def configuration(self) -> Configuration:
        """What is in effect."""
        return self._configuration

    @property
    def members(self) -> Mapping[str, Member]:
        """The endpoints, by their names."""
        return self._members

    def start(self) -> None:
        """From now on the endpoints are watched."""
        self._watch = asyncio.create_task(self.router.health.run(), name="health")

    async def apply(self, configuration: Configuration) -> Changes:
        """Makes a configuration the one in effect; raises ValueError as `prepare` does, and then changes nothing."""
        return await self.commit(await self.prepare(configuration))

    async def settle(self) -> None:
        """Returns once every endpoint was asked how it is, and what it has, or after SETTLE_SECONDS."""
        await _asked(self.router.health)

    async def prepare(self, configuration: Configuration) -> Prepared:
        """Connects what is new in a configuration, and asks its endpoints how they are, and what they have, so that no
        request will find a target of which nothing is known. It ends in `commit` or `discard`, before another begins.

        Raises ValueError where an endpoint cannot be connected.
        """
        kept = {name: member for name, member in self._members.items() if member.takes(configuration)}
        names = configuration.settings.endpoints
        added = await _connected(
            [name for name in names if name not in kept], configuration, self._clock, self._observer, self._connect
        )
        try:
            discovery = self._discovery.renewed(plan_of(configuration.settings, configuration.contracts), kept)
            members = {name: kept.get(name) or added[name] for name in names}
            health = await self._settled(members, kept, discovery)
        except BaseException:
            await _close(added.values())
            raise
        return Prepared(configuration, kept, added, health, discovery)

    async def commit(self, prepared: Prepared) -> Changes:
        """Puts a prepared configuration in effect, in one step between two requests."""
        left = {name: member for name, member in self._members.items() if name not in prepared.kept}
        watch = self._switch(prepared)
        self._retire(left)
        await _ended(watch)
        return Changes(tuple(prepared.kept), tuple(prepared.added), tuple(left))

    async def discard(self, prepared: Prepared) -> None:
        """Closes what was connected for a configuration that does not come into effect."""
        await _close(prepared.added.values())

    async def close(self) -> None:
        """Ends the watch and everything under way, and closes every connection."""
        await _ended(self._watch)
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.router.close()
        await _close(self._members.values())

    async def _settled(
        self, members: Mapping[str, Member], kept: Mapping[str, Member], discovery: Discovery
    ) -> HealthMonitor:
        """A monitor that has asked every endpoint once, or has waited long enough for the answers."""
        endpoints = [member.endpoint for member in members.values()]
        health = HealthMonitor(endpoints, observer=self._observer, before=self.router.health, kept=kept.keys())
        health.discover(discovery, health.follow)
        await _asked(health)
        return health

    def _switch(self, prepared: Prepared) -> asyncio.Task[None] | None:
        """The one step in which everything changes; returns the old watch, to be awaited."""
        configuration, health = prepared.configuration, prepared.health
        names = configuration.settings.endpoints
        members = {name: prepared.kept.get(name) or prepared.added[name] for name in names}
        before, watch = self.router.health, self._watch
        before.publish_to(before.follow)
        self._started_before = [item for item in (*self._started_before, self.router.under_way) if item.count]
        for name, member in self._members.items():
            if name not in prepared.kept:
                # Before its successor of the same name says how it is.
                member.stack.keep(())
        self.router.replace(health.table, {name: member.endpoint for name, member in members.items()}, health)
        health.publish_to(self.router.replace)
        self._configuration, self._members, self._discovery = configuration, members, prepared.discovery
        if watch is not None:
            watch.cancel()
            self.start()
        return watch

    def _retire(self, members: Mapping[str, Member]) -> None:
        if members:
            limit_s = self._configuration.settings.limits.max_timeout_ms / 1e3
            task = asyncio.create_task(self._retired(members, self._started_before, limit_s), name="retire")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _retired(self, members: Mapping[str, Member], started: list[UnderWay], limit_s: float) -> None:
        """Closes endpoints that no route leads to any more, once no request can use them, or after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                for under_way in started:
                    await under_way.ended()
                for member in members.values():
                    # Copies, and calls that their callers left.
                    await member.stack.batcher.quiet()
        except TimeoutError:
            logger.warning("endpoints %s are closed with calls under way for %g s", ", ".join(members), limit_s)
        finally:
            await _close(members.values())
        for name in members:
            logger.info("endpoint %s as it was is closed", name)
            if name not in self._members:
                self._observer.endpoint_gone(endpoint=name)


@asynccontextmanager
async def opened(
    configuration: Configuration, clock: Clock, observer: Observer, connect: Connect = backends.connect
) -> AsyncIterator[Fleet]:
    """The fleet of a configuration; nothing is sent before `start`. At the end all of it is closed."""
    members = await _connected(configuration.settings.endpoints, configuration, clock, observer, connect)
    fleet = Fleet(configuration, members, clock, observer, connect)
    try:
        yield fleet
    finally:
        await fleet.close()


async def _connected(
    names: Iterable[str], configuration: Configuration, clock: Clock, observer: Observer, connect: Connect
) -> dict[str, Member]:
    members: dict[str, Member] = {}
    try:
        for name in names:
            members[name] = Member(name, configuration, clock, observer, connect)
    except BaseException:
        await _close(members.values())
        raise
    return members


async def _asked(health: HealthMonitor) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            await health.check_all()


async def _close(members: Iterable[Member]) -> None:
    await asyncio.gather(*(member.close() for member in members))


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _wire(spec: EndpointSettings) -> EndpointSettings:
    """What a connection depends on: not on which models are taken from there, nor on how they are spoken to."""
    return spec.model_copy(update={"models": None, **dict.fromkeys(HandlerSettings.model_fields)})
