"""Tests of gateway.backends.oip_rest, beside the contract suite: the form of requests, versions, strange servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from gateway.backends.oip_rest import OipRest
from gateway.core.errors import Cause
from gateway.core.tensor import Tensor
from tests.fakes.fake_oip import FakeOip
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.script import Garbage, Status, double, echo
from tests.unit.gateway.backends.support import call, failure, raw_server, request


@pytest.fixture
async def fake() -> AsyncIterator[FakeOip]:
    """A server with versions 1 and 3 of `double`, in the binary extension."""
    async with FakeOip(double(versions=(1, 3)), echo("FP16"), echo("BYTES", "a/b ü")) as fake:
        yield fake


@pytest.fixture
async def backend(fake: FakeOip) -> AsyncIterator[OipRest]:
    """A backend for the fake."""
    backend = OipRest(fake.rest_url + "/")
    yield backend
    await backend.close()


async def test_metadata_is_asked_once(fake: FakeOip, backend: OipRest) -> None:
    """The first call asks what the server can and which versions there are; later ones only infer."""
    for _ in range(3):
        assert (await backend.infer(request(), call())).version == 3
    assert fake.calls == {"server": 1, "metadata": 1, "predict": 3}


@pytest.mark.parametrize(("binary", "kind"), [(True, "application/octet-stream"), (False, "application/json")])
async def test_the_binary_extension_is_used_where_it_is_offered(
    fake: FakeOip, backend: OipRest, binary: bool, kind: str
) -> None:
    """The server's metadata decides the form, and may change while the gateway runs."""
    await backend.infer(request(), call())
    fake.binary = binary
    await backend.server()
    response = await backend.infer(request(), call())
    assert fake.sent[-1] == ("/v2/models/double/infer", kind)
    assert {tensor.name: tensor.array.tolist() for tensor in response.outputs} == {"y": [[2, 4]], "sum": [3]}


async def test_16_bit_floats_are_not_sent_as_json(fake: FakeOip, backend: OipRest) -> None:
    """Without the extension they are refused before anything is sent."""
    fake.binary = False
    tensor = Tensor("x", "FP16", np.ones((1, 2), np.float16))
    error = await failure(backend.infer(replace(request("echo_fp16"), inputs=(tensor,)), call()))
    assert error.cause is Cause.UNSUPPORTED_DATATYPE
    assert fake.calls["predict"] == 0


async def test_versions_and_names_are_in_the_path(fake: FakeOip, backend: OipRest) -> None:
    """A version in the server's own spelling, a name percent-encoded."""
    fake.spellings = {3: "3.0"}
    await backend.infer(request(version=3), call())
    tensor = Tensor("x", "BYTES", np.array([[b"\xff", b""]], dtype=object))
    response = await backend.infer(replace(request("a/b ü"), inputs=(tensor,)), call())
    assert response.outputs[0].array.tolist() == [[b"\xff", b""]]
    assert [path for path, _ in fake.sent] == [
        "/v2/models/double/versions/3.0/infer",
        "/v2/models/a%2Fb%20%C3%BC/infer",
    ]


@pytest.mark.parametrize("form", ["unversioned", "unlisted"])
async def test_a_model_without_versions_answers_version_1(fake: FakeOip, backend: OipRest, form: str) -> None:
    """It is sent none, whether it has none or does not list the one it has."""
    fake.models["double"] = double(versions=(1,))
    getattr(fake, form).add("double")
    assert (await backend.model_state("double")).versions == (1,)
    assert (await backend.infer(request(version=1), call())).version == 1
    assert fake.sent == [("/v2/models/double/infer", "application/octet-stream")]
    assert (await failure(backend.infer(request(version=2), call()))).cause is Cause.VERSION_NOT_FOUND


async def test_a_model_that_loads_has_no_version(fake: FakeOip, backend: OipRest) -> None:
    """Not ready is told by the status alone."""
    fake.loading.add("double")
    assert (await backend.model_state("double")).versions == ()


async def test_a_server_that_describes_no_tensors_is_taken_as_it_is(fake: FakeOip, backend: OipRest) -> None:
    """A custom runtime has versions and no metadata."""
    fake.describes_tensors = False
    state = await backend.model_state("double")
    assert (state.versions, state.metadata) == ((3, 1), None)


async def test_statuses_and_texts_reach_the_table(fake: FakeOip, backend: OipRest) -> None:
    """An error's text is the server's, its cause the table's."""
    fake.then(Status(400, "Model double is not ready yet."))
    error = await failure(backend.infer(request(), call()))
    assert (error.cause, error.detail) == (Cause.NOT_READY, "Model double is not ready yet.")


async def test_json_without_outputs_is_a_bad_reply(fake: FakeOip, backend: OipRest) -> None:
    """Valid JSON that is no inference response."""
    fake.then(Garbage(b'{"model_name": "double"}'))
    assert (await failure(backend.infer(request(), call()))).cause is Cause.UPSTREAM_BAD_REPLY


async def test_another_kind_of_server_is_told() -> None:
    """A TensorFlow Serving, or a web server, on the configured port is no OIP server."""
    async with FakeTfServing(double()) as other, raw_server(b"HTTP/1.1 404 Not Found\r\n\r\n<html>") as port:
        for url in (other.rest_url, f"http://127.0.0.1:{port}"):
            backend = OipRest(url)
            error = await failure(backend.server())
            await backend.close()
            assert error.cause in (Cause.UPSTREAM_BAD_REPLY, Cause.UPSTREAM_REJECTED)


async def test_models_are_listed_by_the_index_or_by_kserves_list(fake: FakeOip, backend: OipRest) -> None:
    """Whichever the server has; one that can be had no more is not listed."""
    fake.unloaded.add("gone")
    assert await backend.models() == ("double", "echo_fp16", "a/b ü")
    assert await backend.models() == ("double", "echo_fp16", "a/b ü")
    assert fake.calls["list"] == 2
    other = OipRest(fake.rest_url)
    fake.lists = "kserve"
    assert await other.models() == ("double", "echo_fp16", "a/b ü")
    assert await other.models() is not None
    assert fake.calls["list"] == 5
    await other.close()


async def test_a_server_without_any_list_is_not_asked_again_until_it_is_another(
    fake: FakeOip, backend: OipRest
) -> None:
    """Its name with its version tells."""
    fake.lists = None
    await backend.server()
    assert [await backend.models() for _ in range(3)] == [None, None, None]
    assert fake.calls["list"] == 2
    fake.version, fake.lists = "2.2", "index"
    await backend.server()
    assert await backend.models() == ("double", "echo_fp16", "a/b ü")
