"""TorchServe's REST API: predictions in every form, health, list and describe, and nothing that manages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve_control import TorchServeControl
from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.core.tensor import Tensor
from gateway.frontends.edge import Limits
from tests.builders import contract
from tests.unit.gateway.frontends.world import Finished, World

PREDICTIONS = "/predictions/doubler"
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
# A model that takes any bytes.
ECHO = contract("echo", inputs=(TensorSpec("t", "BYTES", (-1,)),), outputs=(TensorSpec("u", "BYTES", (-1,)),))


def echoed(asked: InferenceRequest) -> InferenceResponse:
    return InferenceResponse(asked.model.name, 1, (Tensor("u", "BYTES", asked.inputs[0].array),))


async def echoing() -> World:
    world = await World.started(model=ECHO)
    world.backends["ts"].answer = echoed
    return world


@pytest.fixture
async def world() -> World:
    return await World.started()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


def error(answer: httpx.Response) -> tuple[int, str, str]:
    """The triple, checked against the status."""
    document = answer.json()
    assert list(document) == ["code", "type", "message"]
    assert document["code"] == answer.status_code
    return document["code"], document["type"], document["message"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"inputs": {"x": [[1, 2]]}}, {"outputs": {"y": [[2, 4]]}}),
        ({"inputs": [[1, 2]]}, {"outputs": {"y": [[2, 4]]}}),
        ({"instances": [[1, 2], [3, 4]]}, {"predictions": [[2, 4], [6, 8]]}),
        ({"instances": [{"x": [1, 2]}]}, {"predictions": [[2, 4]]}),
        ([[1, 2], [3, 4]], [[2, 4], [6, 8]]),
        (
            {"id": "7", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
            {
                "model_name": "doubler",
                "model_version": "1",
                "id": "7",
                "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [2, 4]}],
            },
        ),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_every_form_is_answered_in_kind(
    world: World, client: httpx.AsyncClient, method: str, sent: Any, expected: Any
) -> None:
    """And every answer says what gave it. `curl -T` sends a PUT."""
    answer = await client.request(method, PREDICTIONS, json=sent, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()) == (200, expected)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "mine"
    assert (
        answer.headers["x-served-by"]
        == 'endpoint=ts; stack=torchserve; server="ts 1.0"; version=1; variant=torchscript'
    )
    assert answer.headers["server-timing"].startswith("decode;dur=")
    assert world.last == Finished("doubler", 1, "torchserve", "torchserve-rest", None)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain; charset=utf-16"},
        {"content-encoding": "gzip"},
    ],
)
async def test_headers_do_not_say_what_the_body_is(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """TorchServe looks at no encoding, and a model of numbers takes JSON in any case."""
    answer = await client.post(PREDICTIONS, content=b"[[1, 2]]", headers=headers)
    assert (answer.status_code, answer.json()) == (200, [[2, 4]])


@pytest.mark.parametrize("version", ["1", "1.0", "2024-05a"])
async def test_a_version_is_a_number_or_a_name_that_has_one(
    world: World, client: httpx.AsyncClient, version: str
) -> None:
    """TorchServe's archiver writes 1.0 by itself; other names have the number that the configuration gives them."""
    assert (await client.post(f"{PREDICTIONS}/{version}", json=[[1, 2]])).status_code == 200
    assert world.backends["ts"].requests[-1].model.version == 1
    assert (await client.get(f"/models/doubler/{version}")).json()[0]["modelVersion"] == "1"


async def test_the_model_may_be_on_another_stack(client: httpx.AsyncClient) -> None:
    """A client of TorchServe reaches TensorFlow Serving by a header, or by nothing at all."""
    answer = await client.post(PREDICTIONS, json=[[1, 2]], headers={"x-stack": "tfserving"})
    assert answer.headers["x-served-by"].startswith("endpoint=tf; stack=tfserving;")


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b'{"inputs": ["p"]}', "naïve".encode()])
@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "text/plain"])
async def test_a_model_of_bytes_takes_any_body(body: bytes, content_type: str | None) -> None:
    """As it is, and its answer comes as it is."""
    world = await echoing()
    headers = {} if content_type is None else {"content-type": content_type}
    async with world.rest() as client:
        answer = await client.put("/predictions/echo", content=body, headers=headers)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["content-length"]) == len(body)


async def test_json_is_json_to_a_model_of_bytes_too() -> None:
    """Where the client says so."""
    async with (await echoing()).rest() as client:
        answer = await client.post("/predictions/echo", json={"inputs": ["p", "q"]})
        assert answer.json() == {"outputs": {"u": ["p", "q"]}}
        broken = await client.post(
            "/predictions/echo", content=b"\xff", headers={"content-type": "application/json; charset=utf-8"}
        )
        assert error(broken)[:2] == (400, "BadRequestException")


@pytest.mark.parametrize("key", ["data", "body"])
async def test_a_file_in_a_form_is_the_body(client: httpx.AsyncClient, key: str) -> None:
    """Raw to a model of bytes, JSON to any other, under the names that TorchServe's handlers look for."""
    async with (await echoing()).rest() as other:
        answer = await other.post("/predictions/echo", files={key: b"\r\n--\xff"})
        assert (answer.status_code, answer.content) == (200, b"\r\n--\xff")
    answer = await client.post(PREDICTIONS, files={key: b"[[1, 2]]"})
    assert (answer.status_code, answer.json()) == (200, [[2, 4]])


@pytest.mark.parametrize("form", [{"files": {"image": b"x"}}, {"files": {"data": b"x", "body": b"x"}}])
async def test_a_form_has_one_field_of_a_known_name(client: httpx.AsyncClient, form: Any) -> None:
    """Anything else would have to be guessed."""
    kind, text = error(await client.post(PREDICTIONS, **form))[1:]
    assert kind == "BadRequestException"
    assert "one of the keys 'data' and 'body'" in text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/predictions/nope", (404, "ModelNotFoundException", "Model not found: nope")),
        ("/predictions/nope/x", (404, "ModelNotFoundException", "Model not found: nope")),
        (
            "/predictions/doubler/9.9",
            (404, "ModelVersionNotFoundException", "Model version: 9.9 does not exist for model: doubler"),
        ),
        (
            "/predictions/doubler/2",
            (404, "ModelVersionNotFoundException", "Model version: 2 does not exist for model: doubler"),
        ),
        (
            "/predictions/doubler/1/more",
            (404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document."),
        ),
    ],
)
async def test_what_is_not_there_is_told_in_torchserves_words(
    world: World, client: httpx.AsyncClient, path: str, expected: tuple[int, str, str]
) -> None:
    """Pretty-printed, and with the request's id."""
    answer = await client.post(path, json=[[1, 2]])
    assert error(answer) == expected
    assert answer.text.startswith('{\n  "code": 404,\n')
    assert answer.text.endswith("\n}\n")
    assert "x-request-id" in answer.headers
    assert world.last.protocol == "torchserve-rest"


async def test_a_body_over_the_cap_has_an_empty_answer() -> None:
    """Netty's, before TorchServe sees the request."""
    world = await World.started(Limits(json_bytes=10))
    async with world.rest() as client:
        answer = await client.post(PREDICTIONS, content=b" " * 11)
    assert (answer.status_code, answer.content) == (413, b"")
    assert world.last.cause is Cause.TOO_LARGE


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", PREDICTIONS, {"POST", "PUT"}),
        ("DELETE", PREDICTIONS + "/1", {"POST", "PUT"}),
        ("POST", "/ping", {"GET"}),
        ("POST", "/models?url=m.mar", {"GET"}),
        ("PUT", "/models/doubler?min_worker=2", {"GET"}),
        ("DELETE", "/models/doubler", {"GET"}),
        ("DELETE", "/models/doubler/1.0", {"GET"}),
        ("PUT", "/models/doubler/1.0/set-default", {""}),
    ],
)
async def test_other_methods_are_not_allowed(
    world: World, client: httpx.AsyncClient, method: str, path: str, allow: set[str]
) -> None:
    """Nothing is managed here."""
    answer = await client.request(method, path)
    assert error(answer) == (405, "MethodNotAllowedException", NOT_ALLOWED)
    assert set(answer.headers["allow"].split(", ")) == allow
    assert (world.last.cause, world.sent) == (Cause.METHOD_NOT_ALLOWED, 0)


async def test_ping_is_about_every_model(world: World, client: httpx.AsyncClient) -> None:
    """Healthy while each would be answered."""
    answer = await client.get("/ping")
    assert (answer.status_code, answer.text) == (200, '{\n  "status": "Healthy"\n}\n')
    world.plane.drain()
    answer = await client.get("/ping")
    assert (answer.status_code, answer.json()) == (500, {"status": "Unhealthy"})
    assert world.observer.finished == []


@pytest.mark.parametrize(
    ("query", "names", "token"),
    [
        ("", ["doubler", "pair"], None),
        ("?limit=1", ["doubler"], "1"),
        ("?limit=1&next_page_token=1", ["pair"], None),
        ("?limit=2", ["doubler", "pair"], None),
        ("?limit=0", ["doubler", "pair"], None),
        ("?limit=999999999", ["doubler", "pair"], None),
        ("?next_page_token=7", [], None),
    ],
)
async def test_models_are_listed_by_the_page(
    client: httpx.AsyncClient, query: str, names: list[str], token: str | None
) -> None:
    """The token of a page is where the next one begins."""
    document = (await client.get(f"/models{query}")).json()
    assert [item["modelName"] for item in document["models"]] == names
    assert document.get("nextPageToken") == token
    for item in document["models"]:
        assert (await client.get(item["modelUrl"])).json()[0]["modelName"] == item["modelName"]


@pytest.mark.parametrize("query", ["?limit=x", "?limit=-1", "?next_page_token=1.5", "?limit=" + "9" * 5000])
async def test_a_page_is_asked_for_by_numbers(client: httpx.AsyncClient, query: str) -> None:
    """Anything else is the client's error."""
    assert error(await client.get(f"/models{query}"))[:2] == (400, "BadRequestException")


async def test_a_model_is_described_as_far_as_the_gateway_knows(client: httpx.AsyncClient) -> None:
    """An array even for one version, with a ready worker where it can answer."""
    (described,) = (await client.get("/models/doubler")).json()
    assert (described["modelName"], described["modelVersion"]) == ("doubler", "1")
    assert [worker["status"] for worker in described["workers"]] == ["READY"]
    assert described["jobQueueStatus"] == {"remainingCapacity": 1024, "pendingRequests": 0}
    assert (await client.get("/models/doubler/1.0?customized=true")).json() == [described]


async def test_all_versions_are_described_newest_first(world: World, client: httpx.AsyncClient) -> None:
    """The default one is the newest."""
    world.backends["ts"].state = ModelState((3, 1))
    await world.health.check(world.endpoints["ts"])

    async def versions(path: str) -> list[str]:
        return [item["modelVersion"] for item in (await client.get(path)).json()]

    assert await versions("/models/doubler/all") == ["3", "1"]
    assert await versions("/models/doubler") == ["3"]
    assert await versions("/models/doubler/1") == ["1"]


async def test_a_model_without_a_server_has_no_worker(world: World, client: httpx.AsyncClient) -> None:
    """It is described all the same; on a stack of the client's choice too."""
    world.backends["ts"].reachable = False
    await world.health.check(world.endpoints["ts"])
    chosen = {"x-stack": "tfserving"}
    assert (await client.get("/models/doubler")).json()[0]["workers"] == []
    assert (await client.get("/models/doubler", headers=chosen)).json()[0]["workers"] != []
    world.backends["tf"].reachable = False
    await world.health.check(world.endpoints["tf"])
    for path in ("/models/doubler", "/models/doubler/all"):
        (described,) = (await client.get(path)).json()
        assert (described["modelVersion"], described["workers"]) == ("1", [])


async def test_a_client_of_the_management_api_sees_the_model_ready(world: World) -> None:
    """As the gateway itself does when it asks a TorchServe."""
    async with world.rest_port() as port:
        url = f"http://127.0.0.1:{port}"
        http = HttpPool(server="TorchServe")
        control = TorchServeControl(http, url, url)
        assert (await control.model_state("doubler")).versions == (1,)
        with pytest.raises(GatewayError) as caught:
            await control.model_state("nope")
        assert caught.value.cause is Cause.MODEL_NOT_FOUND
        await http.close()


@pytest.mark.parametrize(
    ("path", "headers", "kind"),
    [
        ("/models/nope", {}, "ModelNotFoundException"),
        ("/models/nope/x", {}, "ModelNotFoundException"),
        ("/models/doubler/9.9", {}, "ModelVersionNotFoundException"),
        ("/models/doubler/2", {}, "ModelVersionNotFoundException"),
        ("/models/doubler", {"x-stack": "nowhere"}, "ModelNotFoundException"),
        ("/models/doubler", {"x-label": "nightly"}, "ModelVersionNotFoundException"),
    ],
)
async def test_what_is_not_there_is_not_described(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], kind: str
) -> None:
    """404, in TorchServe's shape."""
    assert error(await client.get(path, headers=headers))[:2] == (404, kind)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=64), name=st.sampled_from(["doubler", "pair", "nope"]), version=st.text(max_size=4))
async def test_no_bytes_make_a_server_error(client: httpx.AsyncClient, body: bytes, name: str, version: str) -> None:
    """Whatever is sent, the answer is a result or the client's error."""
    url = httpx.URL("http://gateway").copy_with(raw_path=f"/predictions/{name}".encode())
    if version.isprintable() and not set(version) & set("/\\?#."):
        url = httpx.URL(f"http://gateway/predictions/{name}/{version}")
    answer = await client.post(url, content=body)
    assert answer.status_code in (200, 400, 404)
