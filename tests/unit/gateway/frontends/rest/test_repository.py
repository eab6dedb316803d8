"""The model repository over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.core.errors import Cause
from gateway.frontends.edge import Limits
from tests.unit.gateway.frontends.world import World

INDEX = "/v2/repository/index"


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


async def test_the_index_lists_what_can_answer_and_what_cannot(world: World, client: httpx.AsyncClient) -> None:
    """Each version with its state; of a model that has none, only where all are asked for, and why."""
    ready = [
        {"name": "doubler", "version": "1", "state": "READY", "reason": ""},
        {"name": "pair", "version": "1", "state": "READY", "reason": ""},
    ]
    assert (await client.post(INDEX)).json() == ready
    assert (await client.post(INDEX, json={"ready": True})).json() == ready
    for name, backend in world.backends.items():
        backend.reachable = False
        await world.health.check(world.endpoints[name])
    entries = (await client.post(INDEX, json={})).json()
    assert [(entry["name"], entry["state"]) for entry in entries] == [
        ("doubler", "UNAVAILABLE"),
        ("pair", "UNAVAILABLE"),
    ]
    assert all("'ts'" in entry["reason"] and "version" not in entry for entry in entries)
    assert (await client.post(INDEX, json={"ready": True})).json() == []


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"ready": "yes"}', {}, 400),
        (b'{"readi": true}', {}, 400),
        (b" " * 5000, {}, 413),
        (b"{}", {"content-encoding": "gzip"}, 415),
    ],
)
async def test_other_bodies_are_refused(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    """In the protocol's own shape."""
    answer = await client.post(INDEX, content=content, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


async def test_a_full_gateway_lists_nothing() -> None:
    """The body takes room like any other."""
    async with (await World.started(Limits(in_flight=0))).rest() as client:
        assert (await client.post(INDEX)).status_code == 503


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_models_are_not_loaded_here(world: World, client: httpx.AsyncClient, action: str) -> None:
    """The refusal says who does load them, and is counted."""
    answer = await client.post(f"/v2/repository/models/doubler/{action}")
    assert answer.status_code == 404
    assert "configuration" in answer.json()["error"]
    assert world.last.cause is Cause.ROUTE_NOT_FOUND


async def test_a_listing_leaves_no_room_taken(world: World, client: httpx.AsyncClient) -> None:
    """Refused or not, the request is out of the gateway once it is answered."""
    for content in (b"", b"{}", b"{", b" " * 5000):
        await client.post(INDEX, content=content)
    assert (world.admission.arriving, world.admission.in_flight, world.admission.in_flight_bytes) == (0, 0, 0)
