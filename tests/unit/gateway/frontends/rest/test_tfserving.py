"""TF Serving's door over REST, over a gateway in memory."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, TensorSpec
from gateway.frontends.edge import Admission, Limits
from gateway.frontends.rest.errors import OIP, TFSERVING, TFSERVING_SHAPE, is_tfserving
from gateway.frontends.rest.tfserving import inflated
from tests.builders import contract, tensor
from tests.unit.gateway.codecs.tensors import untimed
from tests.unit.gateway.frontends.rest.asgi import Sent, receiving, scope
from tests.unit.gateway.frontends.world import Finished, World, admitted

PREDICT = "/v1/models/doubler:predict"
GOOD = {"instances": [[1, 2]]}


@pytest.fixture
async def world() -> World:
    return await World.started(Limits(json_bytes=4096))


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.rest() as client:
        yield client


async def test_rows_in_rows_out(world: World, client: httpx.AsyncClient) -> None:
    """Who answered, how long it took and the id are in the headers, as at the other doors."""
    answer = await client.post(PREDICT, json=GOOD, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [[2.0, 4.0]]})
    assert answer.headers["content-type"] == "application/json"
    assert (
        answer.headers["x-served-by"]
        == 'endpoint=ts; stack=torchserve; server="ts 1.0"; version=1; variant=torchscript'
    )
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["server-timing"].startswith("decode;dur=")
    assert world.last == Finished("doubler", 1, "torchserve", "tfserving-rest", None)


@pytest.mark.parametrize(
    "path",
    [
        PREDICT,
        "/V1/Models/doubler:PREDICT",
        "/v1/models/doubler/versions/1:predict",
        "/v1/models/doubler/versions/001:predict",
        "/v1/models/doubler/versions/0:predict",
        "/v1/models/doubler/labels/stable:predict",
        "/v1/models/doubl%65r:predict",
        PREDICT + "?query=is-ignored",
    ],
)
async def test_paths_are_tf_servings(client: httpx.AsyncClient, path: str) -> None:
    """Case does not matter but in names, and the query is nobody's business; content types are ignored."""
    answer = await client.post(path, content=b'{"inputs": [[1, 2]]}', headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()) == (200, {"outputs": [[2.0, 4.0]]})


async def test_headers_choose_where_it_is_answered(client: httpx.AsyncClient) -> None:
    """The same client reaches either stack."""
    for stack in ("torchserve", "tfserving"):
        answer = await client.post(PREDICT, json=GOOD, headers={"x-stack": stack})
        assert f"stack={stack};" in answer.headers["x-served-by"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/v1/models/nope:predict", {}, 404, "Servable not found for request: Latest(nope)"),
        ("POST", "/v1/models/nope/versions/3:predict", {}, 404, "Servable not found for request: Specific(nope, 3)"),
        (
            "POST",
            "/v1/models/doubler/versions/9:predict",
            {},
            404,
            "Servable not found for request: Specific(doubler, 9)",
        ),
        ("POST", "/v1/models/doubler/labels/x:predict", {}, 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/nope/labels/x:predict", {}, 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/nope:predict", [], 400, "JSON Value: ... Is not object"),
        ("POST", "/v1/models/nope:predict", {"signature_name": 1}, 400, "key must be a string value."),
        ("POST", PREDICT, {"signature_name": "s"}, 400, 'Serving signature name: "s" not found in signature def'),
        ("POST", PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
        ("POST", PREDICT, {"inputs": [[1]]}, 400, "expected [-1, 2]"),
        ("POST", f"/v1/models/doubler/versions/{2**63}:predict", {}, 400, "Failed to convert version: 922337"),
        ("POST", "/v1/models/doubler:classify", {}, 400, "classify works on tf.Example"),
        ("POST", "/v1/models/doubler/versions/1:Regress", {}, 400, "regress works on tf.Example, which the gateway "),
        ("POST", "/v1/foo", {}, 400, "Malformed request: POST /v1/foo"),
        ("POST", "/v1/models/doubler/versions/1/labels/stable:predict", {}, 400, "Malformed request: POST /v1/models"),
        ("POST", "/v1/models/doubler/versions/one:predict", {}, 400, "Malformed request: POST /v1/models"),
        ("GET", PREDICT, None, 400, "Malformed request: GET /v1/models/doubler:predict"),
        ("PUT", "/v1/models/doubler", None, 400, "Malformed request: PUT /v1/models/doubler"),
        ("GET", "/v1/", None, 400, "Malformed request: GET /v1/"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/nope", None, 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/doubler/versions/9", None, 404, "Could not find version 9 of model doubler"),
        ("GET", "/v1/models/nope/metadata", None, 404, "Servable not found for request: Latest(nope)"),
        ("GET", "/v1/models/doubler/labels/x/metadata", None, 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models/a%2Fb", None, 400, "there is no such path"),
    ],
)
async def test_errors_are_tf_servings(
    client: httpx.AsyncClient, method: str, path: str, body: Any, status: int, text: str
) -> None:
    """In its order of checks, its words and its layout."""
    answer = await client.request(method, path, content=None if body is None else json.dumps(body).encode())
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.startswith('{\n    "error": "')
    assert answer.text.endswith('"\n}')
    assert text in answer.json()["error"]


async def test_what_is_refused_before_a_door_is_reported(world: World, client: httpx.AsyncClient) -> None:
    """Unknown routes and wrong verbs, under the door's own protocol."""
    for path, cause in (("/v1/foo", Cause.ROUTE_NOT_FOUND), (PREDICT, Cause.METHOD_NOT_ALLOWED)):
        await client.get(path)
        assert world.last == Finished("", None, "", "tfserving-rest", cause)


@pytest.mark.parametrize(
    "path",
    ["/v1/models/doubler", *(f"/v1/models/doubler/{choice}" for choice in ("versions/1", "versions/0", "labels/no"))],
)
async def test_status_tells_the_versions(client: httpx.AsyncClient, path: str) -> None:
    """Numbers are text; a label is ignored, as TF Serving does."""
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "model_version_status": [
                {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        },
    )


async def test_status_without_a_fit_endpoint_is_not_available() -> None:
    """HTTP says 200 all the same: a client has to look at the state."""
    world = World()
    async with world.rest() as client:
        answer = await client.get("/v1/models/doubler")
    (found,) = answer.json()["model_version_status"]
    assert (answer.status_code, found["state"], found["status"]["error_code"]) == (200, "END", "UNAVAILABLE")


@pytest.mark.parametrize("choice", ["", "/versions/1", "/versions/0", "/labels/stable"])
async def test_metadata_is_the_contracts(client: httpx.AsyncClient, choice: str) -> None:
    """`signature_def` twice, sizes as text, names as in the .proto."""
    answer = await client.get(f"/v1/models/doubler{choice}/metadata")
    document = answer.json()
    assert document["model_spec"] == {"name": "doubler", "signature_name": "", "version": "1"}
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
            "name": "x:0",
        }
    }
    assert set(signature["outputs"]) == {"y"}


async def test_gzip_is_inflated_under_the_cap(client: httpx.AsyncClient) -> None:
    """Other codings are ignored; what inflates to too much is refused, and so is half a stream."""
    body = gzip.compress(json.dumps(GOOD).encode())
    for coding, content, status in (
        ("gzip", body, 200),
        ("x-GZIP", body, 200),
        ("br", json.dumps(GOOD).encode(), 200),
        ("gzip", json.dumps(GOOD).encode(), 400),
        ("gzip", body[:-1], 400),
        ("gzip", body + b"x", 400),
        ("gzip", gzip.compress(b" " * 4097), 413),
        ("gzip", gzip.compress(b" " * 4096), 400),
    ):
        answer = await client.post(PREDICT, content=content, headers={"content-encoding": coding})
        assert answer.status_code == status, (coding, answer.text)


def test_inflating_counts_every_byte() -> None:
    """A bomb stops at the first chunk over the room that is left."""
    admission = Admission(Limits(in_flight_bytes=100_000))
    with admitted(admission) as ticket, pytest.raises(GatewayError) as caught:
        inflated(gzip.compress(bytes(10_000_000)), ticket, 50_000_000)
    assert caught.value.cause is Cause.OVERLOADED
    assert admission.in_flight_bytes == 0


@untimed
@given(st.binary() | st.binary().map(gzip.compress) | st.binary().map(lambda data: b"\x1f\x8b\x08" + data))
def test_any_bytes_are_inflated_or_refused(body: bytes) -> None:
    """Nothing but a GatewayError that blames the client."""
    cause: Cause | None = None
    with admitted(Admission(Limits())) as ticket:
        try:
            inflated(body, ticket, 64)
        except GatewayError as exc:
            cause = exc.cause
    assert cause in (None, Cause.UNPARSEABLE, Cause.TOO_LARGE)


# The client takes `.` and `..` out of a path before it sends it, which is then not below /v1/.
PATHS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda path: not {".", ".."} & set(path.split("/"))
)


@given(PATHS, st.sampled_from(["GET", "POST", "PUT", "HEAD"]))
@settings(deadline=None, max_examples=50)
def test_any_path_below_v1_is_answered(path: str, method: str) -> None:
    """With one of the door's own statuses."""

    async def asked() -> int:
        async with (await World.started()).rest() as client:
            return (await client.request(method, "/v1/" + quote(path), content=b"{}")).status_code

    assert asyncio.run(asked()) in (200, 400, 404)


FREE = contract(finite="allowed")
HALVES = contract(
    inputs=(TensorSpec("x", "FP32", (-1, 2)),), outputs=(TensorSpec("y", "FP16", (-1, 2)),), finite="allowed"
)


async def answered(model: ModelContract, body: bytes) -> httpx.Response:
    world = await World.started(model=model)

    def give(asked: InferenceRequest) -> InferenceResponse:
        return InferenceResponse("doubler", 1, (tensor("y", asked.inputs[0].array, model.outputs[0].datatype),))

    world.backends["ts"].answer = give
    async with world.rest() as client:
        return await client.post(PREDICT, content=body)


async def test_nan_passes_where_the_contract_lets_it() -> None:
    """As a bare token, both ways."""
    answer = await answered(FREE, b'{"instances": [[NaN, -Inf]]}')
    assert answer.status_code == 200
    assert np.isnan(answer.json()["predictions"][0][0])
    assert b"[NaN, -Infinity]" in answer.content


async def test_a_datatype_that_json_lacks_is_501_in_and_400_out() -> None:
    """As TF Serving answers."""
    out = await answered(HALVES, b'{"instances": [[1, 2]]}')
    assert out.status_code == 400
    assert "Failed to write JSON value for tensor type: half" in out.json()["error"]
    within = await answered(contract(inputs=(TensorSpec("x", "FP16", (-1, 2)),)), b'{"instances": [[1, 2]]}')
    assert within.status_code == 501


# Causes whose status is not the Open Inference Protocol's.
OWN = {
    Cause.UNSUPPORTED_DATATYPE: 501,
    Cause.ROUTE_NOT_FOUND: 400,
    Cause.METHOD_NOT_ALLOWED: 400,
    Cause.LABEL_NOT_FOUND: 400,
    Cause.MEDIA_TYPE: 500,
}


@pytest.mark.parametrize("cause", Cause)
def test_statuses_are_those_of_the_design(cause: Cause) -> None:
    """The table is the design's column; what cannot arise has the row of a bug."""
    assert TFSERVING[cause] == OWN.get(cause, OIP[cause])


async def test_errors_below_v1_have_the_doors_shape() -> None:
    """Whoever tells them, and even where a detail is no UTF-8."""
    assert [is_tfserving(path) for path in ("/v1/x", "/V1/", "/v1", "/v12", "/v2/v1/")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    error = GatewayError(Cause.INTERNAL, 'a "quote" and \ud800')
    assert TFSERVING_SHAPE.body(error, "r") == b'{\n    "error": "a \\"quote\\" and ?"\n}'


async def test_a_scope_without_a_raw_path_is_served(world: World) -> None:
    """The ASGI specification makes it optional."""
    sent, asked = Sent(), scope("GET", "/v1/models/doubler")
    del asked["raw_path"]
    await world.app()(asked, receiving([]), sent)
    assert sent.status == 200
