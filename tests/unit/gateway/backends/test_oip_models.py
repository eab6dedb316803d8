"""Tests of gateway.backends.oip_models: versions by number here, by any word or none there."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.backends.oip_models import UNSTATED, OipModels, server_name
from gateway.codecs.oip_server import ServedModel, ServerMetadata
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse, ModelSpec
from tests.unit.gateway.backends.support import failure, request


@dataclass
class Server:
    """One model's versions by their spelling, those that are ready, and how often it was described."""

    versions: dict[int, str]
    ready: set[str] = field(default_factory=set)
    described: int = 0
    error: GatewayError | None = None

    async def describe(self, model: str, timeout_s: float) -> ServedModel:
        self.described += 1
        if self.error is not None:
            raise self.error
        return ServedModel(dict(self.versions), None)

    async def is_ready(self, model: str, spelling: str, timeout_s: float) -> bool:
        return spelling in self.ready

    def models(self) -> OipModels:
        return OipModels(self.describe, self.is_ready)


def answer(version: int | None) -> InferenceResponse:
    return InferenceResponse("double", version, ())


@pytest.mark.parametrize(
    ("metadata", "configured", "name"),
    [
        (("mlserver", "1.7.1"), None, "mlserver 1.7.1"),
        (("mlserver", "1.7.1"), "mine", "mlserver 1.7.1"),
        (("kserve", ""), "KServe 0.15", "KServe 0.15"),
        (("kserve", ""), None, "kserve"),
        (("", "2"), None, UNSTATED),
        (('a"b\n', "1"), None, "ab 1"),
    ],
)
def test_a_server_is_named_by_its_metadata(metadata: tuple[str, str], configured: str | None, name: str) -> None:
    """Name and version; as configured where one is missing; never what would break a header."""
    assert server_name(ServerMetadata(*metadata, frozenset()), configured) == name


async def test_versions_are_asked_once_and_spelled_as_the_server_does() -> None:
    """Later calls of a known version ask nothing."""
    server = Server({2: "2.0", 1: "1"})
    models = server.models()
    assert await models.spelling(ModelSpec("m", version=2), 1.0) == "2.0"
    assert await models.spelling(ModelSpec("m", version=1), 1.0) == "1"
    assert await models.spelling(ModelSpec("m"), 1.0) == ""
    assert server.described == 1


async def test_a_new_version_is_found_and_an_unknown_one_named() -> None:
    """A version that is not known is looked for once more before it is refused, with those there are."""
    server = Server({1: "1"})
    models = server.models()
    await models.spelling(ModelSpec("m"), 1.0)
    server.versions[2] = "2"
    assert await models.spelling(ModelSpec("m", version=2), 1.0) == "2"
    with pytest.raises(GatewayError, match="no version 3; its versions: 2, 1") as caught:
        await models.spelling(ModelSpec("m", version=3), 1.0)
    assert caught.value.cause is Cause.VERSION_NOT_FOUND


async def test_a_model_without_versions_is_version_1_until_it_says_otherwise() -> None:
    """It is sent no version; an answer that states one corrects what it counts as."""
    models = Server({}, ready={""}).models()
    assert await models.spelling(ModelSpec("double", version=1), 1.0) == ""
    assert (await models.state("double")).versions == (1,)
    assert models.completed(request(), answer(None)).version == 1
    assert models.completed(request(), answer(7)).version == 7
    assert models.completed(request(), answer(None)).version == 7
    assert (await models.state("double")).versions == (7,)
    assert await models.spelling(ModelSpec("double", version=7), 1.0) == ""
    with pytest.raises(GatewayError, match="its versions: 7"):
        await models.spelling(ModelSpec("double", version=1), 1.0)


async def test_another_version_than_the_one_asked_for_is_no_answer() -> None:
    """A version that was asked for by number either answers or is VERSION_NOT_FOUND."""
    models = Server({}).models()
    await models.spelling(ModelSpec("double", version=1), 1.0)
    with pytest.raises(GatewayError) as caught:
        models.completed(request(version=1), answer(7))
    assert caught.value.cause is Cause.VERSION_NOT_FOUND
    assert models.completed(request(version=7), answer(None)).version == 7


async def test_only_one_of_one_can_have_answered() -> None:
    """An answer without a version is the only version's; of several it is left open."""
    server = Server({3: "3"})
    models = server.models()
    await models.spelling(ModelSpec("double"), 1.0)
    assert models.completed(request(), answer(None)).version == 3
    server.versions[4] = "4"
    await models.state("double")
    assert models.completed(request(), answer(None)).version is None
    assert models.completed(request(), answer(4)).version == 4


async def test_only_ready_versions_can_answer() -> None:
    """Versions that load or have failed are left out, the newest of the others comes first."""
    models = Server({1: "1", 2: "2.0", 3: "3"}, ready={"1", "2.0"}).models()
    state = await models.state("double")
    assert state.versions == (2, 1)
    assert state.metadata is None


async def test_a_model_that_is_gone_is_forgotten() -> None:
    """MODEL_NOT_FOUND reaches the caller, and the next call asks again."""
    server = Server({1: "1"})
    models = server.models()
    await models.spelling(ModelSpec("m"), 1.0)
    server.error = GatewayError(Cause.MODEL_NOT_FOUND, "gone")
    assert (await failure(models.state("m"))).cause is Cause.MODEL_NOT_FOUND
    assert (await failure(models.spelling(ModelSpec("m"), 1.0))).cause is Cause.MODEL_NOT_FOUND
