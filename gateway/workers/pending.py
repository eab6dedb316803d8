"""A worker's next configuration: prepared, and not yet in effect."""

from __future__ import annotations

import asyncio

from gateway.fleet import Changes, Fleet, Prepared
from gateway.plan import Configuration
from gateway.workers.control import ControlError


class Pending:
    """At most one configuration of a fleet between `prepare` and `commit` or `discard`, known by its edition.

    One after the other: the supervisor gives up waiting for a `prepare` that takes too long, and the next one must not
    find it still running here.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._turn = asyncio.Lock()
        self._edition = -1
        self._prepared: Prepared | None = None

    async def prepare(self, edition: int, configuration: Configuration) -> None:
        """Gets ready for a configuration, in place of what was pending; raises ValueError as the fleet does."""
        async with self._turn:
            await self._drop()
            self._prepared = await self._fleet.prepare(configuration)
            self._edition = edition

    async def commit(self, edition: int) -> tuple[Configuration, Changes]:
        """Puts what is pending in effect; raises ControlError where that is not this edition, and leaves it then."""
        async with self._turn:
            prepared = self._prepared
            if prepared is None or edition != self._edition:
                raise ControlError(f"configuration {edition} was not prepared")
            self._prepared = None
            return prepared.configuration, await self._fleet.commit(prepared)

    async def discard(self) -> None:
        """Lets go what is pending, once it is."""
        async with self._turn:
            await self._drop()

    async def _drop(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self._fleet.discard(prepared)
