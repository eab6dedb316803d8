"""The OpenAPI document, the raw routes included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.frontends.rest.app import GatewayApp
from tests.unit.gateway.frontends.rest.test_schemas import references
from tests.unit.gateway.frontends.world import World

INFERENCE = [
    "/predict",
    "/predict/{model}",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
    "/predictions/{model}",
    "/predictions/{model}/{version}",
    "/v1/models/{model}:predict",
    "/v1/models/{model}/versions/{version}:predict",
    "/v1/models/{model}/labels/{label}:predict",
]


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


async def test_every_route_is_described(world: World, document: dict[str, Any]) -> None:
    """What is served is in the document, but for pages that are for people, and nothing else is."""
    app = world.app()
    assert isinstance(app, GatewayApp)
    assert list(document["paths"])[: len(INFERENCE)] == INFERENCE == [route.path for route in app.raw_routes]
    assert set(document["paths"]) - set(INFERENCE) == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/repository/index",
        "/ping",
        "/models",
        "/models/{model}",
        "/models/{model}/{version}",
        "/v1/models/{model}",
        "/v1/models/{model}/metadata",
        "/v1/models/{model}/versions/{version}",
        "/v1/models/{model}/versions/{version}/metadata",
        "/v1/models/{model}/labels/{label}",
        "/v1/models/{model}/labels/{label}/metadata",
        "/livez",
        "/readyz",
        "/metrics",
    }


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """And every operation has a name of its own."""
    assert references(document) == set(document["components"]["schemas"])
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/predict", {"200", "400", "404", "408", "413", "415", "422", "431", "500", "502", "503", "504"}),
        ("/predictions/{model}", {"200", "400", "404", "408", "413", "431", "500", "502", "503", "504"}),
        ("/v2/models/{model}/infer", {"200", "400", "404", "408", "413", "415", "431", "500", "502", "503", "504"}),
        ("/v1/models/{model}:predict", {"200", "400", "404", "408", "413", "431", "500", "501", "502", "503", "504"}),
    ],
)
async def test_inference_routes_name_every_status(document: dict[str, Any], path: str, statuses: set[str]) -> None:
    """Those of the protocol's own table, and that of a head which is too large to have a path."""
    assert set(document["paths"][path]["post"]["responses"]) == statuses


async def test_every_operation_names_the_status_of_a_head_that_is_too_large(document: dict[str, Any]) -> None:
    """It may come at any path."""
    for path in document["paths"].values():
        assert all("431" in operation["responses"] for operation in path.values())


async def test_parameters_in_the_path_are_declared(document: dict[str, Any]) -> None:
    """Each placeholder has a required parameter, and the headers that choose are there."""
    for path in INFERENCE:
        parameters = document["paths"][path]["post"]["parameters"]
        in_path = [item["name"] for item in parameters if item["in"] == "path"]
        assert all(f"{{{name}}}" in path for name in in_path)
        assert len(in_path) == path.count("{")
        headers = {item["name"] for item in parameters if item["in"] == "header"}
        assert headers >= {"x-stack", "x-endpoint", "x-variant", "x-label", "x-request-id", "x-request-timeout-ms"}


@pytest.mark.parametrize("path", INFERENCE)
async def test_the_examples_work(client: httpx.AsyncClient, document: dict[str, Any], path: str) -> None:
    """What the documentation page sends is answered."""
    examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"doubler", "pair"}
    url = path.replace("{model}", "doubler").replace("{version}", "1").replace("{label}", "stable")
    assert (await client.post(url, json=examples["doubler"]["value"])).status_code == 200


async def test_what_the_framework_would_claim_is_not_claimed(document: dict[str, Any]) -> None:
    """Ordinary routes never answer FastAPI's own validation error."""
    assert "HTTPValidationError" not in str(document)


async def test_binary_bodies_are_declared_where_they_are_taken(document: dict[str, Any]) -> None:
    """Both ways; with the header that tells JSON from bytes, or by themselves and in forms."""
    for path in INFERENCE:
        operation = document["paths"][path]["post"]
        taken = "application/octet-stream" in operation["requestBody"]["content"]
        assert taken is ("application/octet-stream" in operation["responses"]["200"]["content"])
        assert taken is path.startswith(("/v2/", "/predictions/"))
        names = {item["name"] for item in operation["parameters"]} & set(operation["responses"]["200"]["headers"])
        assert ("Inference-Header-Content-Length" in names) is path.startswith("/v2/")
        form = "multipart/form-data" in operation["requestBody"]["content"]
        assert form is path.startswith("/predictions/")


async def test_path_parameters_show_the_models(document: dict[str, Any]) -> None:
    """The models that there are, and their versions."""
    shown = document["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]["parameters"]
    model, version = shown[:2]
    assert model["examples"] == {"doubler": {"value": "doubler"}, "pair": {"value": "pair"}}
    assert version["examples"] == {"doubler": {"value": "1"}, "pair": {"value": "1"}}
