"""A mirror behind the router: beside what answers, and on idle slots only."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.core.backend import ModelState
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.routing.endpoint import Target
from gateway.routing.table import Mirroring
from gateway.stacks import EndpointStack
from tests.builders import context, doubled, request
from tests.unit.gateway.routing.world import World

OLD, NEW = Target("tf", "doubler", 3), Target("tf", "doubler", 4)


def its_version(asked: InferenceRequest) -> InferenceResponse:
    """The answer of the version that was asked for."""
    return replace(doubled(asked), version=asked.model.version)


async def ended(world: World, outcomes: int) -> None:
    while len(world.counts.mirrored) < outcomes:
        await asyncio.sleep(0)


async def test_a_new_version_beside_the_old_one_gets_copies() -> None:
    """First all of its traffic is copies; once it answers a share itself, the old one gets the copies of that."""
    world = World("tf")
    world.backends["tf"].state = ModelState((4, 3))
    world.backends["tf"].answer = its_version
    world.route((OLD,), mirror=Mirroring(NEW, 1.0))
    await world.verified()
    assert await world.ask() == "tf"
    await ended(world, 1)
    assert [asked.model.version for asked in world.backends["tf"].requests] == [3, 4]
    world.route((NEW, OLD), mirror=Mirroring(OLD, 1.0))
    await world.verified()
    await world.ask()
    await world.ask(request(version=3))
    await ended(world, 3)
    assert [asked.model.version for asked in world.backends["tf"].requests[2:]] == [4, 3, 3]
    assert sorted(world.counts.mirrored) == ["ok", "ok", "same_endpoint"]
    await world.router.close()


async def test_copies_never_wait_in_the_queue_of_live_requests() -> None:
    """Of answers that come together, as a batch's do, only as many are copied as there are idle slots."""
    world = await World("ts", slots=1, mirror=Mirroring(Target("tf", "doubler"), 1.0)).verified()
    mirrored = world.endpoints["tf"]
    mirrored.backend.hold = asyncio.Event()  # type: ignore[attr-defined]
    surroundings = mirrored.surroundings
    assert isinstance(surroundings, EndpointStack)
    await asyncio.gather(*(world.router.dispatch(request(), context()) for _ in range(8)))
    for _ in range(8):
        await asyncio.sleep(0)
    assert (surroundings.batcher.busy, surroundings.batcher.queued) == (1, 0)
    assert set(world.counts.mirrored) == {"skipped"}
    mirrored.backend.hold.set()  # type: ignore[attr-defined]
    await ended(world, 8)
    assert world.counts.mirrored.count("ok") == 1
    await world.router.close()
