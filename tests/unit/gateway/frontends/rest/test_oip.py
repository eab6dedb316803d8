"""The Open Inference Protocol's inference route, with and without binary data."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from gateway.core.errors import Cause
from gateway.core.messages import ModelSpec
from gateway.frontends.edge import Limits
from gateway.frontends.rest.oip import oip_door
from tests.unit.gateway.frontends.rest.asgi import Sent, chunk, receiving, scope
from tests.unit.gateway.frontends.world import TWO_OUTPUTS, Finished, World, two_outputs

PATH = "/v2/models/doubler/infer"
LENGTH = "inference-header-content-length"
VALUES = np.array([[1, 2]], np.float32).tobytes()
INPUT: dict[str, Any] = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
JSON_BODY = {"inputs": [{**INPUT, "data": [1, 2]}]}


@pytest.fixture
async def world() -> World:
    world = await World.started(Limits(json_bytes=4096, body_bytes=100_000), TWO_OUTPUTS)
    world.backends["ts"].answer = two_outputs
    return world


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


def binary(*, padding: int = 0, **fields: Any) -> dict[str, Any]:
    """A request with one binary input, as httpx takes it; `padding` bytes more of JSON."""
    document = {"inputs": [{**INPUT, "parameters": {"binary_data_size": len(VALUES)}}], **fields}
    header = json.dumps(document).encode() + b" " * padding
    headers = {"content-type": "application/octet-stream", LENGTH: str(len(header))}
    return {"content": header + VALUES, "headers": headers}


def parts(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """The JSON of an answer, and what is behind it."""
    length = int(answer.headers[LENGTH])
    document: dict[str, Any] = json.loads(answer.content[:length])
    return document, answer.content[length:]


async def test_binary_in_and_binary_out(world: World, client: httpx.AsyncClient) -> None:
    """All outputs, BF16 among them, in the answer's order; the headers say what it is."""
    answer = await client.post(PATH, **binary(id="7", parameters={"binary_data_output": True, "k": 2}))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["content-length"]) == len(answer.content)
    document, data = parts(answer)
    assert document == {
        "model_name": "doubler",
        "id": "7",
        "model_version": "1",
        "parameters": {"told": "yes"},
        "outputs": [
            {"name": "y", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "s", "shape": [1], "datatype": "BF16", "parameters": {"binary_data_size": 2}},
        ],
    }
    assert data == np.array([2, 4], np.float32).tobytes() + b"\x40\x40"
    assert "x-served-by" in answer.headers
    assert world.backends["ts"].requests[0].parameters == {"k": 2}
    assert world.last == Finished("doubler", 1, "torchserve", "oip-rest", None)


async def test_binary_in_and_json_out(client: httpx.AsyncClient) -> None:
    """Without a wish the answer is JSON, and says so."""
    answer = await client.post(PATH, **binary(outputs=[{"name": "y"}]))
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]


async def test_json_in_and_one_output_binary(client: httpx.AsyncClient) -> None:
    """A JSON request may wish for bytes; outputs come in the order asked for."""
    wanted = [{"name": "s", "parameters": {"binary_data": True}}, {"name": "y"}]
    document, data = parts(await client.post(PATH, json={**JSON_BODY, "outputs": wanted}))
    assert [output["name"] for output in document["outputs"]] == ["s", "y"]
    assert (document["outputs"][1]["data"], data) == ([2.0, 4.0], b"\x40\x40")


async def test_a_datatype_that_json_cannot_carry_names_the_way_out(client: httpx.AsyncClient) -> None:
    """BF16 without the wish for binary data."""
    answer = await client.post(PATH, json=JSON_BODY)
    assert answer.status_code == 400
    assert "'binary_data': true" in answer.json()["error"]


async def test_the_version_of_the_path_goes_all_the_way(world: World, client: httpx.AsyncClient) -> None:
    """As a number; one that is not there is a 404, with binary data too."""
    request = binary(parameters={"binary_data_output": True})
    assert (await client.post("/v2/models/doubler/versions/1/infer", **request)).status_code == 200
    assert world.backends["ts"].requests[0].model.version == 1
    for version in ("9", "latest"):
        answer = await client.post(f"/v2/models/doubler/versions/{version}/infer", **request)
        assert answer.status_code == 404
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "application/octet-stream"}, {"content-type": "application/json"}],
)
async def test_clients_state_the_content_type_in_their_own_ways(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Real ones state none, or always bytes: the length header alone says what the body is."""
    wanted = [{"name": "y"}]
    content = json.dumps({**JSON_BODY, "outputs": wanted}).encode()
    assert (await client.post(PATH, content=content, headers=headers)).status_code == 200
    request = binary(outputs=wanted)
    stated = {**headers, LENGTH: request["headers"][LENGTH]}
    assert (await client.post(PATH, content=request["content"], headers=stated)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/octet-stream"}])
async def test_compressed_bodies_are_refused_whatever_they_are(
    world: World, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """A few bytes could inflate to gigabytes."""
    answer = await client.post(PATH, content=b"{}", headers={**headers, "content-encoding": "gzip"})
    assert answer.status_code == 415
    assert world.last.cause is Cause.MEDIA_TYPE


async def test_another_content_type_is_told_of_both(client: httpx.AsyncClient) -> None:
    """JSON, or bytes."""
    answer = await client.post(PATH, content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]
    assert "application/octet-stream" in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "status", "words"),
    [
        ("x", 400, "a number of bytes"),
        ("-1", 400, "a number of bytes"),
        ("0", 400, "raw binary request"),
        ("4000", 400, "the body has"),
        ("4097", 413, "4096 bytes"),
        ("5", 400, "JSON"),
    ],
)
async def test_a_wrong_length_is_told_in_words(
    world: World, client: httpx.AsyncClient, length: str, status: int, words: str
) -> None:
    """And reaches no server."""
    request = binary()
    answer = await client.post(PATH, content=request["content"], headers={**request["headers"], LENGTH: length})
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert world.sent == 0
    assert world.last.protocol == "oip-rest"


async def test_lengths_that_contradict_are_refused(world: World) -> None:
    """A proxy might believe the other one."""
    sent = Sent()
    headers = [(LENGTH.encode(), b"5"), (LENGTH.encode(), b"6")]
    await world.app()(scope(path=PATH, headers=headers), receiving([chunk(b"{}")]), sent)
    assert sent.status == 400


async def test_json_and_body_have_caps_of_their_own(world: World, client: httpx.AsyncClient) -> None:
    """Binary data may be larger than JSON may, up to the body's cap."""
    request = binary(padding=4096)
    assert (await client.post(PATH, **request)).status_code == 413
    assert world.last.cause is Cause.TOO_LARGE
    request = binary()
    for size, status, words in ((50_000, 400, "left over"), (100_000, 413, "with binary data")):
        answer = await client.post(PATH, content=request["content"] + b"\0" * size, headers=request["headers"])
        assert (answer.status_code, words in answer.json()["error"]) == (status, True)
    del request["headers"][LENGTH]
    answer = await client.post(PATH, content=request["content"] + b"\0" * 5000, headers=request["headers"])
    assert answer.status_code == 413
    assert "4096" in answer.json()["error"]


async def test_the_door_without_its_extension_is_json_only() -> None:
    """For those who embed the protocol's JSON elsewhere."""
    door = oip_door()
    request = door.decode(json.dumps(JSON_BODY).encode(), {"model": "doubler", "version": "1"}, lambda _: TWO_OUTPUTS)
    assert request.model == ModelSpec("doubler", 1)
