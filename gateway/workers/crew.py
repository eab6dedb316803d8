"""All workers as one gateway, for the supervisor: one page of metrics, one operator's view, one reload for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import orjson
from starlette.datastructures import QueryParams

from gateway.core.clock import Clock
from gateway.core.errors import Cause, GatewayError
from gateway.fleet import SETTLE_SECONDS, Changes
from gateway.plan import Configuration
from gateway.settings import SettingsError
from gateway.telemetry.histogram import Registry
from gateway.telemetry.merge import counters_of, merged
from gateway.telemetry.metrics import WorkerMetrics, render
from gateway.view import Document
from gateway.workers import answers
from gateway.workers.assignment import Assignment
from gateway.workers.control import Control, ControlError, ControlLostError, Handler

logger = logging.getLogger(__name__)

# How long a worker may take to say how it is; one that does not is left out.
ANSWER_SECONDS = 5.0
# How long it may take to get ready for a new configuration, whose servers it asks first.
PREPARE_SECONDS = SETTLE_SECONDS + 10.0


@dataclass(slots=True)
class Member:
    """One worker as the supervisor knows it; between two lives it has no channel."""

    number: int
    control: Control | None = None
    settled: bool = False
    """Whether it has the configuration in effect, and takes part in reloads."""
    since: float | None = None
    """When it began to take requests, by the clock."""
    ready: bool = False
    others_ready: bool = True
    """What it was told last of the others."""
    page: bytes = b""
    """Its metrics when they were last asked for."""


class Crew:
    """The workers, numbered from 1. They attach when they start, detach when they end, and call `handlers`."""

    def __init__(self, assignment: Assignment, registry: Registry, clock: Clock) -> None:
        workers = assignment.configuration.settings.server.workers
        self._members = {number: Member(number) for number in range(1, workers + 1)}
        self._assignment = assignment
        self._registry = registry
        self._clock = clock
        self._metrics = WorkerMetrics(registry)
        self._turn = asyncio.Lock()
        self._begun = asyncio.Event()
        self._listening = asyncio.Event()
        self._kept = b""
        self._collecting: asyncio.Task[bytes] | None = None
        self._failures: dict[int, str] = {}

    @property
    def configuration(self) -> Configuration:
        """What is in effect in all workers, undivided."""
        return self._assignment.configuration

    @property
    def started(self) -> bool:
        """Whether all workers have been open for requests at the same time."""
        return self._listening.is_set()

    async def all_listening(self) -> None:
        """Returns once `started` is true."""
        await self._listening.wait()

    def failure(self, number: int) -> str:
        """Why a worker could not start, in its own words; empty where it said nothing."""
        return self._failures.get(number, "")

    def listens(self, number: int) -> bool:
        """Whether a worker is open for requests."""
        return self._members[number].since is not None

    def attach(self, number: int, control: Control) -> None:
        """A worker has been started, and this is the channel to it."""
        self._members[number] = Member(number, control)
        self._failures.pop(number, None)
        self._spread()

    def detach(self, number: int) -> float:
        """A worker has ended; what it had counted when it was last asked stays counted.

        Returns for how many seconds it had taken requests.
        """
        member = self._members[number]
        self._kept = merged([self._kept, counters_of(member.page)])
        self._members[number] = Member(number)
        self._spread()
        return 0.0 if member.since is None else self._clock.now() - member.since

    def restarted(self) -> None:
        """Counts a worker that is started again."""
        self._metrics.restarts.inc()

    def handlers(self, number: int) -> Mapping[str, Handler]:
        """What a worker may call."""
        return {
            "assignment": self._assign,
            "settled": partial(self._settled, number),
            "listening": partial(self._opened, number),
            "ready": partial(self._ready, number),
            "failed": partial(self._failed, number),
            "metrics": self._page,
        }

    async def metrics(self) -> bytes:
        """What all workers count, those that have ended too; those who ask at the same time get the same page."""
        if self._collecting is None:
            self._collecting = asyncio.create_task(self._collect(), name="metrics")
            self._collecting.add_done_callback(self._collected)
        return await asyncio.shield(self._collecting)

    async def routes(self) -> Document:
        """The routes and endpoints of all workers; raises NOT_READY where none answers."""
        return answers.routes(await self._told("routes"))

    async def mirror(self) -> Document:
        """What all workers' mirrors saw; raises as `routes`."""
        return answers.mirrors(await self._told("mirror"))

    async def explain(self, query: QueryParams) -> Document:
        """Where a request would go at the first worker that answers; raises as that does, and as `routes`."""
        for member in self._settled_members():
            try:
                document = await _call(member, "explain", str(query).encode(), ANSWER_SECONDS)
            except ControlError:
                continue
            return {**orjson.loads(document), "worker": member.number}
        raise _nobody()

    async def apply(self, configuration: Configuration) -> Changes:
        """Makes a configuration the one in effect in every worker, or in none.

        Every worker gets ready for it first. Raises SettingsError where one cannot, and then nothing has changed. A
        worker that dies meanwhile starts again with the new one.
        """
        async with self._turn:
            old = self._assignment
            new = Assignment(old.edition + 1, configuration, old.rest_port, old.grpc_port)
            taking = self._settled_members()
            await self._prepare(taking, new)
            self._assignment = new
            done = await asyncio.gather(*(self._commit(member, new.edition) for member in taking))
            return next((changes for changes in done if changes is not None), Changes())

    async def close(self) -> None:
        """Ends what is under way."""
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.gather(self._collecting, return_exceptions=True)

    def _settled_members(self) -> list[Member]:
        return [member for member in self._members.values() if member.settled]

    async def _told(self, name: str) -> dict[int, Document]:
        members = self._settled_members()
        found = await asyncio.gather(
            *(_call(member, name, b"", ANSWER_SECONDS) for member in members), return_exceptions=True
        )
        told = {
            member.number: orjson.loads(answer)
            for member, answer in zip(members, found, strict=True)
            if isinstance(answer, bytes)
        }
        if not told:
            raise _nobody()
        return told

    async def _prepare(self, members: list[Member], new: Assignment) -> None:
        text = new.to_json()
        found = await asyncio.gather(
            *(_call(member, "prepare", text, PREPARE_SECONDS) for member in members), return_exceptions=True
        )
        wrong = [
            f"worker {member.number}: {answer}"
            for member, answer in zip(members, found, strict=True)
            if isinstance(answer, BaseException) and not isinstance(answer, ControlLostError)
        ]
        if wrong:
            await asyncio.gather(
                *(_call(member, "discard", b"", ANSWER_SECONDS) for member in members), return_exceptions=True
            )
            raise SettingsError("\n".join(wrong))

    async def _commit(self, member: Member, edition: int) -> Changes | None:
        try:
            told = orjson.loads(await _call(member, "commit", str(edition).encode(), ANSWER_SECONDS))
        except ControlLostError:
            return None
        except ControlError as exc:
            # What it serves now nobody knows: the end of its channel ends it, and it starts again with the new.
            logger.error("worker %d did not take the new configuration, and is started again: %s", member.number, exc)
            if member.control is not None:
                await member.control.close()
            return None
        return Changes(*(tuple(told[field]) for field in ("kept", "connected", "closed")))

    async def _assign(self, _: bytes) -> bytes:
        return self._assignment.to_json()

    async def _settled(self, number: int, body: bytes) -> bytes:
        """A worker is ready to open; the answer is empty where it may, or else the newer configuration."""
        async with self._turn:
            if int(body) != self._assignment.edition:
                return self._assignment.to_json()
            self._members[number].settled = True
        if all(member.settled for member in self._members.values()):
            self._begun.set()
        # At the gateway's start all open together; a worker that starts later finds that done.
        await self._begun.wait()
        return b""

    async def _opened(self, number: int, _: bytes) -> bytes:
        self._members[number].since = self._clock.now()
        self._spread()
        logger.info("worker %d takes requests", number)
        if all(map(self.listens, self._members)):
            self._listening.set()
        return b""

    async def _ready(self, number: int, body: bytes) -> bytes:
        self._members[number].ready = body == b"1"
        self._spread()
        return b""

    async def _failed(self, number: int, body: bytes) -> bytes:
        self._failures[number] = body.decode()
        logger.error("worker %d could not start: %s", number, self._failures[number])
        return b""

    async def _page(self, _: bytes) -> bytes:
        return await self.metrics()

    async def _collect(self) -> bytes:
        await asyncio.gather(*(self._ask_page(member) for member in self._members.values()))
        self._metrics.workers.set(sum(map(self.listens, self._members)))
        pages = [member.page for member in self._members.values()]
        return merged([*pages, self._kept, render(self._registry)])

    async def _ask_page(self, member: Member) -> None:
        """Brings a worker's page up to date; where it does not answer, it stays as it was."""
        if member.settled:
            try:
                member.page = await _call(member, "page", b"", ANSWER_SECONDS)
            except ControlError as exc:
                logger.warning("worker %d does not tell its metrics: %s", member.number, exc)

    def _collected(self, _: asyncio.Task[bytes]) -> None:
        self._collecting = None

    def _spread(self) -> None:
        """Tells each worker whether all others are ready, where that has changed."""
        for member in self._members.values():
            ready = all(other.ready for other in self._members.values() if other is not member)
            if member.control is not None and member.others_ready is not ready:
                member.others_ready = ready
                member.control.tell("others", b"1" if ready else b"0")


async def _call(member: Member, name: str, body: bytes, timeout_s: float) -> bytes:
    if member.control is None:
        raise ControlLostError(f"worker {member.number} has ended")
    return await member.control.call(name, body, timeout_s=timeout_s)


def _nobody() -> GatewayError:
    return GatewayError(Cause.NOT_READY, "no worker answers now; try again")
