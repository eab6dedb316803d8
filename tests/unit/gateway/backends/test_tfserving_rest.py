"""Tests of gateway.backends.tfserving_rest, beside the contract suite: whose answer it is, and which datatypes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gateway.backends.tfserving_rest import TfServingRest
from gateway.core.errors import Cause
from tests.fakes.fake_tfserving import FakeTfServing
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import Status, double, echo
from tests.unit.gateway.backends.support import call, failure, request


@pytest.fixture
async def fake() -> AsyncIterator[FakeTfServing]:
    """A server with versions 1 and 3 of `double`, of which `stable` is 1."""
    async with FakeTfServing(replace(double(versions=(1, 3)), labels={"stable": 1})) as fake:
        yield fake


@pytest.fixture
async def backend(fake: FakeTfServing) -> AsyncIterator[TfServingRest]:
    """A backend for the fake."""
    backend = TfServingRest(fake.rest_url + "/")
    yield backend
    await backend.close()


async def test_the_version_that_answered_is_told(backend: TfServingRest) -> None:
    """The newest version, and one by number; which version a label means, REST does not say."""
    assert (await backend.infer(request(), call())).version == 3
    assert (await backend.infer(request(version=1), call())).version == 1
    response = await backend.infer(request(label="stable"), call())
    assert response.version is None
    assert {tensor.name for tensor in response.outputs} == {"y", "sum"}


async def test_status_and_metadata_are_asked_once(fake: FakeTfServing, backend: TfServingRest) -> None:
    """The first call of a model asks what the answer's datatypes will be; later ones only predict."""
    for _ in range(3):
        await backend.infer(request(), call())
    assert fake.calls == {"status": 1, "metadata": 1, "predict": 3}


async def test_a_version_that_was_replaced_is_followed_by_its_successor(
    fake: FakeTfServing, backend: TfServingRest
) -> None:
    """A request without a version never fails because the newest one changed meanwhile, nor its datatypes."""
    await backend.infer(request(), call())
    fake.models["double"] = echo("FP32", "double", versions=(4,))
    response = await backend.infer(request(), call())
    assert response.version == 4
    assert [tensor.name for tensor in response.outputs] == ["y"]


async def test_a_named_version_that_is_gone_is_not_replaced(fake: FakeTfServing, backend: TfServingRest) -> None:
    """Who asks for a version gets that one or VERSION_NOT_FOUND."""
    await backend.infer(request(version=3), call())
    fake.models["double"] = double(versions=(4,))
    assert (await failure(backend.infer(request(version=3), call()))).cause is Cause.VERSION_NOT_FOUND


async def test_a_new_version_is_used_once_its_state_was_seen(fake: FakeTfServing, backend: TfServingRest) -> None:
    """While the old version answers, requests stay with it until the state is asked again."""
    assert (await backend.infer(request(), call())).version == 3
    fake.models["double"] = double(versions=(3, 4))
    assert (await backend.infer(request(), call())).version == 3
    assert (await backend.model_state("double")).versions == (4, 3)
    assert (await backend.infer(request(), call())).version == 4


async def test_a_label_that_moved_is_asked_anew(fake: FakeTfServing, backend: TfServingRest) -> None:
    """What a label's metadata said is forgotten whenever the model's state is asked."""
    await backend.infer(request(label="stable"), call())
    await backend.infer(request(label="stable"), call())
    assert fake.calls["metadata"] == 1
    await backend.model_state("double")
    before = fake.calls["metadata"]
    await backend.infer(request(label="stable"), call())
    assert fake.calls["metadata"] == before + 1


async def test_unknown_labels_and_signatures(backend: TfServingRest) -> None:
    """Each has a cause of its own; the default signature by its name is known."""
    assert (await failure(backend.infer(request(label="nope"), call()))).cause is Cause.LABEL_NOT_FOUND
    assert (await failure(backend.infer(request(signature_name="nope"), call()))).cause is Cause.SIGNATURE_NOT_FOUND
    assert (await backend.infer(request(signature_name="serving_default"), call())).version == 3


async def test_invented_signatures_do_not_fill_memory(fake: FakeTfServing, backend: TfServingRest) -> None:
    """Metadata is kept for a bounded number of versions and labels."""
    fake.models["double"] = double(versions=tuple(range(1, 101)))
    for version in range(1, 101):
        await backend.infer(request(version=version), call())
    assert (await backend.infer(request(version=100), call())).version == 100
    assert fake.calls["metadata"] == 100


async def test_a_model_that_is_loading_is_not_ready(fake: FakeTfServing, backend: TfServingRest) -> None:
    """A known model without an available version is NOT_READY for inference, and its state says so."""
    fake.models["double"] = double(versions=())
    assert not (await backend.model_state("double")).ready
    assert (await failure(backend.infer(request(), call()))).cause is Cause.NOT_READY


async def test_names_are_percent_encoded(fake: FakeTfServing, backend: TfServingRest) -> None:
    """A model's name reaches the server whole, whatever is in it."""
    name = "a/b c?d:é%"
    fake.models[name] = double(name)
    assert (await backend.infer(request(name), call())).version == 1
    assert (await backend.model_state(name)).versions == (1,)


async def test_a_server_without_a_mark_is_tensorflow_serving() -> None:
    """Its version is unknown unless it is configured."""
    async with FakeTfServing(mark=None) as fake:
        for configured, name in (
            (None, "TensorFlow Serving (version not stated)"),
            ("TensorFlow Serving 2.20.0", "TensorFlow Serving 2.20.0"),
        ):
            backend = TfServingRest(fake.rest_url, server=configured)
            assert await backend.server() == name
            await backend.close()


async def test_a_model_without_the_default_signature_is_ready_without_metadata() -> None:
    """Who names its signature is answered, so the model is ready; what `serving_default` takes is not known."""
    async with FakeTfServing(double(), signature="other") as fake:
        backend = TfServingRest(fake.rest_url)
        state = await backend.model_state("double")
        assert (state.ready, state.metadata) == (True, None)
        assert (await backend.infer(request(signature_name="other"), call())).version == 1
        await backend.close()


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (Status(503, "no healthy upstream"), Cause.NOT_READY),
        (Status(501, "Conversion of JSON Value: 1 to type: half"), Cause.UNSUPPORTED_DATATYPE),
        (Status(504, "session deadline"), Cause.DEADLINE),
        (Status(403, "no"), Cause.INTERNAL),
        (Status(302, ""), Cause.UPSTREAM_BAD_REPLY),
        (Status(413, ""), Cause.TOO_LARGE),
    ],
)
async def test_statuses_of_the_server_itself(
    fake: FakeTfServing, backend: TfServingRest, status: Status, cause: Cause
) -> None:
    """What the server, or a proxy in front of it, says by its status arrives as the cause of the table."""
    fake.then(status)
    assert (await failure(backend.infer(request(), call()))).cause is cause


async def test_something_else_on_the_port_is_a_bad_reply() -> None:
    """Answers that are not TensorFlow Serving's are not taken for its refusals."""
    async with FakeTorchServe(double()) as other:
        backend = TfServingRest(f"{other.rest_url}")
        assert (await failure(backend.model_state("double"))).cause is not Cause.MODEL_NOT_FOUND
        await backend.close()


async def test_each_signature_has_its_own_tensors(fake: FakeTfServing, backend: TfServingRest) -> None:
    """All come with one question, and each is answered by its own datatypes."""
    fake.models["double"] = replace(double(), others={"ints": echo("INT64")})
    state = await backend.model_state("double")
    assert {name: item.inputs[0].datatype for name, item in state.signatures.items()} == {
        "serving_default": "FP32",
        "ints": "INT64",
    }
    (output,) = (await backend.infer(request(signature_name="ints"), call())).outputs
    assert (output.datatype, output.array.tolist()) == ("INT64", [[1, 2]])
    assert fake.calls["metadata"] == 1


async def test_a_server_that_was_started_again_is_believed(fake: FakeTfServing, backend: TfServingRest) -> None:
    """The same versions may have other tensors: what was known of any of them is forgotten."""
    await backend.infer(request(version=1), call())
    await backend.model_state("double")
    fake.models["double"] = echo("INT64", "double", versions=(1, 3))
    state = await backend.model_state("double")
    assert state.metadata is not None
    assert state.metadata.inputs[0].datatype == "INT64"
    (output,) = (await backend.infer(request(version=1), call())).outputs
    assert output.datatype == "INT64"
