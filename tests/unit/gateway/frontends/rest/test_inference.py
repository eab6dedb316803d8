"""The inference routes, over a gateway in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message

from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.frontends.edge import Limits
from gateway.frontends.rest.inference import model_spec
from tests.unit.gateway.frontends.rest.asgi import Sent, chunk, receiving, scope
from tests.unit.gateway.frontends.world import Finished, World, admitted

GOOD = {"model": "doubler", "inputs": [[1, 2]]}
OIP_GOOD = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
OIP_PATH = "/v2/models/doubler/infer"
JSON_HEADER = (b"content-type", b"application/json")


@pytest.fixture
async def world() -> World:
    return await World.started(Limits(json_bytes=4096, body_timeout_s=0.2))


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


async def played(world: World, messages: list[Message], headers: list[tuple[bytes, bytes]], path: str) -> Sent:
    """One request whose server the test is."""
    sent = Sent()
    await world.app()(scope(path=path, headers=headers), receiving(messages), sent)
    return sent


async def test_predict_answers_with_what_gave_it(world: World, client: httpx.AsyncClient) -> None:
    """Outputs by name; who answered, how long it took and the id are in the headers."""
    answer = await client.post("/predict", json={**GOOD, "id": "7"}, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "doubler",
        "version": 1,
        "stack": "torchserve",
        "variant": "torchscript",
        "outputs": {"y": [[2.0, 4.0]]},
        "id": "7",
    }
    assert (
        answer.headers["x-served-by"]
        == 'endpoint=ts; stack=torchserve; server="ts 1.0"; version=1; variant=torchscript'
    )
    assert answer.headers["x-request-id"] == "mine"
    phases = re.findall(r"(\w+);dur=[\d.]+", answer.headers["server-timing"])
    assert phases == ["decode", "queue", "upstream", "encode", "total"]
    assert world.last == Finished("doubler", 1, "torchserve", "predict", None)


async def test_predict_takes_the_model_from_the_path(world: World, client: httpx.AsyncClient) -> None:
    """The body need not name it again."""
    answer = await client.post("/predict/doubler", json={"inputs": {"x": [[1, 2]]}})
    assert answer.json()["outputs"] == {"y": [[2.0, 4.0]]}
    assert world.last.model == "doubler"


@pytest.mark.parametrize("path", [OIP_PATH, "/v2/models/doubler/versions/1/infer"])
async def test_oip_answers_in_its_own_form(world: World, client: httpx.AsyncClient, path: str) -> None:
    """Tensors with shape and datatype, and the same headers."""
    answer = await client.post(path, json={**OIP_GOOD, "id": "7"})
    assert answer.json() == {
        "model_name": "doubler",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [2.0, 4.0]}],
    }
    assert "x-served-by" in answer.headers
    assert world.last == Finished("doubler", 1, "torchserve", "oip-rest", None)


@pytest.mark.parametrize(("path", "body"), [("/predict", GOOD), (OIP_PATH, OIP_GOOD)])
@pytest.mark.parametrize(
    ("headers", "endpoint"),
    [({"x-stack": "tfserving"}, "tf"), ({"x-endpoint": "ts"}, "ts"), ({"x-variant": "savedmodel"}, "tf")],
)
async def test_headers_choose_who_answers(
    client: httpx.AsyncClient, path: str, body: object, headers: dict[str, str], endpoint: str
) -> None:
    """At every door."""
    answer = await client.post(path, json=body, headers=headers)
    assert answer.headers["x-served-by"].startswith(f"endpoint={endpoint};")


async def test_errors_have_an_id_and_times_but_nobody_who_gave_an_answer(
    world: World, client: httpx.AsyncClient
) -> None:
    """Also where the path names an unknown model, whose name is nobody's time series."""
    answer = await client.post("/predict/nope", json={"inputs": []})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "server-timing" in answer.headers
    assert "x-served-by" not in answer.headers
    assert world.last == Finished("", None, "", "predict", Cause.MODEL_NOT_FOUND)


async def test_a_failure_of_a_known_model_is_counted_as_its_own(world: World, client: httpx.AsyncClient) -> None:
    """By the path's name, also where the body cannot be read."""
    assert (await client.post(OIP_PATH, content=b"{", headers={"content-type": "application/json"})).status_code == 400
    assert world.last == Finished("doubler", None, "", "oip-rest", Cause.UNPARSEABLE)


@pytest.mark.parametrize("path", ["/predict", OIP_PATH])
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonp"},
        {"content-type": ""},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "gzip, gzip"},
        {"content-type": "application/json", "content-encoding": "br"},
    ],
)
async def test_only_plain_json_is_taken(
    world: World, client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    """Everything else is 415 and says what to send."""
    answer = await client.post(path, content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert world.last.cause is Cause.MEDIA_TYPE


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", 'application/json; charset="UTF-8"', "application/json;x=y"],
)
async def test_json_may_be_spelled_in_many_ways(client: httpx.AsyncClient, content_type: str) -> None:
    """Case and harmless parameters do not matter."""
    answer = await client.post(
        "/predict",
        content=b'{"model": "doubler", "inputs": [[1, 2]]}',
        headers={"content-type": content_type, "content-encoding": "identity"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("value", "status", "cause"),
    [
        ("abc", 400, Cause.UNPARSEABLE),
        ("-1", 400, Cause.UNPARSEABLE),
        ("NaN", 400, Cause.UNPARSEABLE),
        ("0", 504, Cause.DEADLINE),
        ("1e9", 200, None),
    ],
)
async def test_clients_set_their_own_deadline(
    world: World, client: httpx.AsyncClient, value: str, status: int, cause: Cause | None
) -> None:
    """A bad one is refused, a spent one reaches no server, a far one is capped."""
    answer = await client.post("/predict", json=GOOD, headers={"x-request-timeout-ms": value})
    assert answer.status_code == status
    assert world.last.cause is cause
    assert world.sent == (1 if cause is None else 0)


async def test_a_deadline_that_passes_upstream_is_a_504(world: World, client: httpx.AsyncClient) -> None:
    """The client is told in time, whatever the server does."""
    world.backends["ts"].hold = asyncio.Event()
    answer = await client.post("/predict", json=GOOD, headers={"x-request-timeout-ms": "20"})
    assert answer.status_code == 504
    assert world.last.cause is Cause.DEADLINE


async def test_a_header_sent_twice_with_different_values_is_refused(world: World) -> None:
    """No client is answered from elsewhere than it believes."""
    for name, cause in ((b"x-stack", Cause.INVALID_INPUT), (b"x-request-timeout-ms", Cause.UNPARSEABLE)):
        sent = await played(world, [chunk(b"{}")], [JSON_HEADER, (name, b"1"), (name, b"2")], "/predict")
        assert sent.status in (400, 422)
        assert world.last.cause is cause


async def test_a_body_over_the_cap_is_refused_and_its_connection_closed(world: World) -> None:
    """Declared, it is refused before it is read; chunked, as it passes the cap."""
    for headers, messages in (
        ([(b"content-length", b"1000000")], [chunk(b"x" * 1000, True), chunk()]),
        ([], [chunk(b"x" * 4096, True), chunk(b"x", True), chunk(b"x" * 9)]),
    ):
        sent = await played(world, list(messages), [JSON_HEADER, *headers], OIP_PATH)
        assert sent.status == 413
        assert sent.headers[b"connection"] == b"close"
        assert sent.body
        assert world.last.cause is Cause.TOO_LARGE


async def test_a_refused_small_body_leaves_the_connection_open(world: World) -> None:
    """A refusal under load must not cost the client its connection."""
    with admitted(world.admission):
        full = World(Limits(in_flight=0))
        sent = await played(full, [], [JSON_HEADER, (b"content-length", b"20")], "/predict")
    assert sent.status == 503
    assert sent.headers[b"retry-after"] == b"1"
    assert b"connection" not in sent.headers
    assert full.last.cause is Cause.OVERLOADED


async def test_a_slow_body_is_a_408_or_the_clients_own_deadline(world: World) -> None:
    """Whichever comes first."""
    stalled = [chunk(b"{", True)]
    sent = await played(world, stalled, [JSON_HEADER, (b"content-length", b"20")], "/predict")
    assert sent.status == 408
    assert world.last.cause is Cause.CLIENT_TOO_SLOW
    sent = await played(
        world, stalled, [JSON_HEADER, (b"content-length", b"20"), (b"x-request-timeout-ms", b"20")], "/predict"
    )
    assert sent.status == 504
    assert world.last.cause is Cause.DEADLINE


async def test_a_client_that_leaves_is_counted_and_its_call_cancelled(world: World) -> None:
    """Upstream stops too, and nothing is sent to nobody."""
    cancelled = False
    left = asyncio.Event()

    class Hold(asyncio.Event):
        async def wait(self) -> bool:  # type: ignore[override]
            nonlocal cancelled
            left.set()
            try:
                return await super().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

    world.backends["ts"].hold = Hold()
    body = [chunk(b'{"model": "doubler", "inputs": [[1, 2]]}')]

    async def receive() -> Message:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    sent = Sent()
    await world.app()(scope(headers=[JSON_HEADER]), receive, sent)
    assert sent.messages == []
    assert cancelled
    assert world.last == Finished("doubler", None, "torchserve", "predict", Cause.CLIENT_GONE)
    assert world.admission.in_flight == 0


async def test_a_server_that_shuts_down_still_answers(world: World) -> None:
    """A request cut off by the end of the drain gets its one answer: come back later."""
    world.backends["ts"].hold = asyncio.Event()
    sent = Sent()
    serving = asyncio.create_task(
        world.app()(scope(headers=[JSON_HEADER]), receiving([chunk(b'{"model": "doubler", "inputs": [[1, 2]]}')]), sent)
    )
    while not world.sent:
        await asyncio.sleep(0)
    serving.cancel()
    await serving
    assert sent.status == 503
    assert world.last.cause is Cause.NOT_READY


async def test_a_bug_is_counted_and_opaque(
    world: World, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer has an id, the log the rest."""

    def bug(_: InferenceRequest) -> InferenceResponse:
        raise KeyError("secret")

    world.backends["ts"].answer = bug
    answer = await client.post("/predict", json=GOOD)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert world.last.cause is Cause.INTERNAL


async def test_places_are_given_back_after_every_outcome(world: World, client: httpx.AsyncClient) -> None:
    """Good or bad, a request leaves nothing behind."""
    await client.post("/predict", json=GOOD)
    await client.post("/predict", json={})
    await client.post("/predict", content=b"x" * 5000, headers={"content-type": "application/json"})
    assert (world.admission.in_flight, world.admission.in_flight_bytes) == (0, 0)


def test_paths_name_a_model_and_perhaps_a_version() -> None:
    """A version is a number; the codec tells what is none."""
    assert model_spec({"model": "a"}) == ModelSpec("a")
    assert model_spec({"model": "a", "version": "3"}) == ModelSpec("a", 3)


@pytest.mark.parametrize("version", ["-1", "9e9", "latest;rm", "1.0", "٣", "9" * 19])
async def test_what_is_no_version_is_not_found(world: World, client: httpx.AsyncClient, version: str) -> None:
    """As any version that is not there."""
    answer = await client.post(f"/v2/models/doubler/versions/{version}/infer", json=OIP_GOOD)
    assert answer.status_code == 404
    assert world.last.cause is Cause.VERSION_NOT_FOUND
