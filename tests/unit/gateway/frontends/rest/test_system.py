"""Health, metadata, metrics and documentation."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.gateway.frontends.world import World


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


async def test_liveness_asks_nobody(world: World, client: httpx.AsyncClient) -> None:
    """A gateway without a single model server lives."""
    world.plane.drain()
    for path in ("/livez", "/v2/health/live"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"live": True})


async def test_readiness_is_three_things(world: World, client: httpx.AsyncClient) -> None:
    """A stack that is not asked by default may die; a model without its first one makes the server unready."""

    async def statuses() -> tuple[int, ...]:
        paths = ("/readyz", "/v2/health/ready", "/v2/models/doubler/ready", "/v2/models/doubler/versions/1/ready")
        return tuple([(await client.get(path)).status_code for path in paths])

    assert await statuses() == (200, 200, 200, 200)
    world.backends["tf"].reachable = False
    await world.health.check(world.endpoints["tf"])
    assert await statuses() == (200, 200, 200, 200)
    world.backends["ts"].reachable = False
    await world.health.check(world.endpoints["ts"])
    assert await statuses() == (200, 503, 503, 503)
    assert (await client.get("/v2/health/ready")).json() == {"ready": False}
    assert (await client.get("/v2/models/doubler/ready")).json() == {"name": "doubler", "ready": False}
    world.plane.drain()
    assert (await statuses())[0] == 503


async def test_a_selection_holds_for_readiness_and_metadata(world: World, client: httpx.AsyncClient) -> None:
    """Headers choose here as they do for an inference."""
    world.backends["ts"].reachable = False
    await world.health.check(world.endpoints["ts"])
    path = "/v2/models/doubler/ready"
    assert (await client.get(path)).status_code == 503
    assert (await client.get(path, headers={"x-stack": "tfserving"})).status_code == 200
    assert (await client.get(path, headers={"x-stack": "nowhere"})).status_code == 404
    assert (await client.get("/v2/models/doubler", headers={"x-label": "nightly"})).status_code == 404


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_the_server_says_what_it_is(client: httpx.AsyncClient, path: str) -> None:
    """Both spellings of the path are the protocol's."""
    answer = await client.get(path)
    assert answer.json() == {"name": "twinserve", "version": "0.1.0", "extensions": ["binary_tensor_data"]}


@pytest.mark.parametrize("path", ["/v2/models/doubler", "/v2/models/doubler/versions/1"])
async def test_a_model_says_what_it_takes(client: httpx.AsyncClient, path: str) -> None:
    """Tensors are the contract's."""
    assert (await client.get(path)).json() == {
        "name": "doubler",
        "versions": ["1"],
        "platform": "twinserve",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/nope",
        "/v2/models/nope/ready",
        "/v2/models/doubler/versions/9",
        "/v2/models/doubler/versions/9/ready",
        "/v2/models/doubler/versions/x/ready",
    ],
)
async def test_what_is_not_there_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    """In the protocol's own shape."""
    answer = await client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


async def test_metrics_are_what_the_renderer_gives(client: httpx.AsyncClient) -> None:
    """In the text format that Prometheus reads."""
    answer = await client.get("/metrics")
    assert answer.text == "metrics\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_the_front_page_says_where_to_go(client: httpx.AsyncClient) -> None:
    """A stranger finds the models and the documentation."""
    answer = (await client.get("/")).json()
    assert answer["models"] == ["doubler", "pair"]
    # KServe's client of its first protocol asks here whether the server lives.
    assert answer["status"] == "alive"
    assert (await client.get(answer["docs"])).status_code == 200


async def test_the_documentation_needs_nothing_from_outside(client: httpx.AsyncClient) -> None:
    """No address of another host is in the page, and its policy would forbid one."""
    answer = await client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", answer.text) == []
    assert "innerHTML" not in answer.text
    assert 'fetch("/openapi.json")' in answer.text
