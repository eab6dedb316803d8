"""What a worker has prepared, while its supervisor may have stopped waiting for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from gateway.fleet import Changes
from gateway.plan import Configuration
from gateway.settings import Settings
from gateway.workers.control import ControlError
from gateway.workers.pending import Pending


def configuration(endpoint: str) -> Configuration:
    return Configuration(Settings(endpoints={endpoint: {"stack": "noop"}}), {})


@dataclass(frozen=True)
class Ready:
    """A configuration whose endpoints are connected."""

    configuration: Configuration


class FakeFleet:
    """Gets ready for a configuration at once, or, where there is an event for its endpoint, once that is set."""

    def __init__(self) -> None:
        self.slow: dict[str, asyncio.Event] = {}
        self.told: list[tuple[str, str]] = []

    async def prepare(self, configuration: Configuration) -> Ready:
        (name,) = configuration.settings.endpoints
        if name in self.slow:
            await self.slow[name].wait()
        return Ready(configuration)

    async def commit(self, prepared: Ready) -> Changes:
        (name,) = prepared.configuration.settings.endpoints
        self.told.append(("commit", name))
        return Changes(connected=(name,))

    async def discard(self, prepared: Ready) -> None:
        (name,) = prepared.configuration.settings.endpoints
        self.told.append(("discard", name))


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def pending(fleet: FakeFleet) -> Pending:
    return Pending(fleet)  # type: ignore[arg-type]


async def test_what_was_prepared_comes_into_effect(fleet: FakeFleet, pending: Pending) -> None:
    """Once."""
    await pending.prepare(1, configuration("a"))
    assert await pending.commit(1) == (configuration("a"), Changes(connected=("a",)))
    with pytest.raises(ControlError, match="configuration 1 was not prepared"):
        await pending.commit(1)
    assert fleet.told == [("commit", "a")]


async def test_another_edition_does_not_come_into_effect(fleet: FakeFleet, pending: Pending) -> None:
    """What the supervisor gave up is not what it means; it is let go when something else is prepared."""
    await pending.prepare(1, configuration("a"))
    with pytest.raises(ControlError, match="configuration 2 was not prepared"):
        await pending.commit(2)
    await pending.prepare(2, configuration("b"))
    await pending.discard()
    assert fleet.told == [("discard", "a"), ("discard", "b")]


async def test_a_slow_preparation_is_not_taken_for_the_next_one(fleet: FakeFleet, pending: Pending) -> None:
    """The supervisor has given it up, and has asked for another one since: that is what is committed."""
    fleet.slow["a"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for call in (
            pending.prepare(1, configuration("a")),
            pending.discard(),
            pending.prepare(2, configuration("b")),
        ):
            group.create_task(call)
            await asyncio.sleep(0)
        fleet.slow["a"].set()
    await pending.commit(2)
    assert fleet.told == [("discard", "a"), ("commit", "b")]
