"""Routes that are there and routes that are not, and what the framework itself would answer."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.exceptions import HTTPException

from gateway.core.errors import Cause
from gateway.frontends.rest.app import GatewayApp
from tests.unit.gateway.frontends.world import Finished, World


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/predict/",
        "/predict/a/b",
        "http://gateway//predict",
        "/PREDICT",
        "/v2/models",
        "/v2/models/doubler/",
        "/v2/models/doubler/infer/",
        "/v2/models//infer",
        "/v2/health",
        "/docs/",
        "/redoc",
        "/openapi.json/",
        "/predict/..%2f..%2fetc",
        "/v2/models/doubler%2fversions%2f1/infer",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_a_404_without_a_redirect(
    world: World, client: httpx.AsyncClient, method: str, path: str
) -> None:
    """In the shape of its part of the tree, and counted under no model."""
    answer = await client.request(method, path)
    assert answer.status_code == 404
    oip = "/v2" in path
    assert set(answer.json()) == ({"error"} if oip else {"type", "title", "status", "detail", "cause", "request_id"})
    assert world.last == Finished("", None, "", "oip-rest" if oip else "predict", Cause.ROUTE_NOT_FOUND)
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict/doubler", "POST"),
        ("HEAD", "/predict", "POST"),
        ("OPTIONS", "/predict", "POST"),
        ("TRACE", "/predict", "POST"),
        ("BREW", "/predict", "POST"),
        ("DELETE", "/v2/models/doubler/infer", "POST"),
        ("POST", "/v2/models/doubler", "GET"),
        ("POST", "/livez", "GET"),
    ],
)
async def test_a_wrong_verb_is_told_the_right_one(
    world: World, client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    """405 with Allow; nothing reads the body, and nothing overrides the method."""
    answer = await client.request(method, path, headers={"x-http-method-override": "POST"})
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert world.last.cause is Cause.METHOD_NOT_ALLOWED


async def test_no_other_origin_is_let_in(client: httpx.AsyncClient) -> None:
    """There is no CORS header, neither for a preflight nor for a request."""
    preflight = await client.options(
        "/predict", headers={"origin": "http://elsewhere", "access-control-request-method": "POST"}
    )
    asked = await client.post("/predict", json={}, headers={"origin": "http://elsewhere"})
    for answer in (preflight, asked):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_markup_in_a_name_stays_text(client: httpx.AsyncClient) -> None:
    """A model's name that comes back is inside JSON, and no browser takes it for anything else."""
    answer = await client.post("/predict", json={"model": "<script>alert(1)</script>", "inputs": []})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_health_and_metadata_are_not_counted_as_requests(world: World, client: httpx.AsyncClient) -> None:
    """They would drown the times of inference."""
    for path in ("/livez", "/readyz", "/v2", "/v2/models/doubler", "/metrics", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200
    assert world.observer.finished == []


async def test_the_frameworks_own_errors_take_our_shape(world: World) -> None:
    """A route that leaves validation to FastAPI, or raises its exceptions, echoes nothing and answers as all others."""
    app = world.app()

    @app.get("/number/{number}")
    async def number(number: int) -> int:
        raise HTTPException(number, "secret")

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for path, status in (("/number/secret", 422), ("/number/418", 400), ("/number/507", 500), ("/number/404", 404)):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (status, status)
            assert "secret" not in answer.text


async def test_a_host_header_cannot_change_the_path(client: httpx.AsyncClient) -> None:
    """The shape of an error follows the path alone."""
    answer = await client.get("/nope", headers={"host": "gateway/v2"})
    assert answer.headers["content-type"] == "application/problem+json"


async def test_long_paths_are_not_remembered(world: World) -> None:
    """They lead where they should, and however many are made up, the memory does not grow with them."""
    app = world.app()
    assert isinstance(app, GatewayApp)
    app._find("POST", "/predict/first")
    tracemalloc.start()
    try:
        for number in range(200):
            found = app._find("POST", f"/predict/{number}{'x' * 60_000}")
            assert found is not None
            assert found[1]["model"].startswith(f"{number}x")
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 1_000_000
