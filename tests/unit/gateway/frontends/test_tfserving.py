"""What TF Serving's two doors share."""

from __future__ import annotations

import pytest

from gateway.codecs.tfserving_documents import VersionState
from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ModelSpec
from gateway.frontends.tfserving import check_servable, chosen_version, described, version_states
from tests.unit.gateway.frontends.world import World


@pytest.mark.parametrize(
    ("spec", "cause", "text"),
    [
        (ModelSpec("nope", signature_name="s"), Cause.MODEL_NOT_FOUND, "Latest(nope)"),
        (ModelSpec("nope", 2, signature_name="s"), Cause.MODEL_NOT_FOUND, "Specific(nope, 2)"),
        (ModelSpec("nope", label="x", signature_name="s"), Cause.LABEL_NOT_FOUND, "version label: x"),
        (ModelSpec("doubler", 2, signature_name="s"), Cause.VERSION_NOT_FOUND, "Specific(doubler, 2)"),
        (ModelSpec("doubler", label="x", signature_name="s"), Cause.LABEL_NOT_FOUND, "version label: x"),
        (ModelSpec("doubler", 1, signature_name="s"), Cause.SIGNATURE_NOT_FOUND, "none called s"),
    ],
)
async def test_model_version_and_label_come_before_the_signature(spec: ModelSpec, cause: Cause, text: str) -> None:
    """TF Serving's order, and its words."""
    plane = (await World.started()).plane
    with pytest.raises(GatewayError) as caught:
        check_servable(plane, spec, "none called {}")
    assert caught.value.cause is cause
    assert text in caught.value.detail


async def test_what_is_there_passes() -> None:
    """By number, by label, by neither, with the one signature there is."""
    plane = (await World.started()).plane
    for spec in (ModelSpec("doubler"), ModelSpec("doubler", 1), ModelSpec("doubler", label="stable")):
        check_servable(plane, spec, "")
    check_servable(plane, ModelSpec("doubler", signature_name="serving_default"), "")


async def test_status_follows_the_selection() -> None:
    """A stack whose server is gone does not answer, though the model does."""
    world = await World.started()
    spec = ModelSpec("doubler")
    world.backends["tf"].reachable = False
    for _ in range(10):
        await world.health.check(world.endpoints["tf"])
    assert version_states(world.plane, spec, {}) == [VersionState(1, True)]
    assert version_states(world.plane, spec, {"stack": "torchserve"}) == [VersionState(1, True)]
    assert version_states(world.plane, spec, {"stack": "tfserving"}) == [VersionState(1, False)]
    with pytest.raises(GatewayError) as caught:
        version_states(world.plane, spec, {"stack": "onnx"})
    assert caught.value.cause is Cause.MODEL_NOT_FOUND


async def test_version_0_is_the_gateways_choice_where_there_is_no_such_version() -> None:
    """OpenVINO's client writes 0 where its user names no version; unknown models and other versions stay as asked."""
    plane = (await World.started()).plane
    assert chosen_version(plane, ModelSpec("doubler", 0, signature_name="s")) == ModelSpec(
        "doubler", signature_name="s"
    )
    for spec in (ModelSpec("doubler"), ModelSpec("doubler", 1), ModelSpec("doubler", 7), ModelSpec("nope", 0)):
        assert chosen_version(plane, spec) == spec


async def test_version_0_is_itself_where_the_model_has_it() -> None:
    """Whether a server answers with it now, or the contract says that it is there."""
    world = await World.started()
    for backend in world.backends.values():
        backend.state = ModelState((0, 1))
    for endpoint in world.endpoints.values():
        await world.health.check(endpoint)
    assert chosen_version(world.plane, ModelSpec("doubler", 0)) == ModelSpec("doubler", 0)


async def test_metadata_needs_no_server() -> None:
    """It is the contract's; without a server that answers the version is the contract's too."""
    world = World()
    signatures, version = described(world.plane, ModelSpec("doubler"), {})
    assert (signatures["serving_default"].name, version) == ("doubler", 1)
