"""Replacing the configuration, retries, and labels: what TensorFlow Serving's ReloadConfig does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tensorflow_serving.apis import model_pb2

from serving.tfserving.savedmodel_server.config import ModelConfig, VersionPolicy
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.manager import LoadPolicy
from serving.tfserving.savedmodel_server.versions import State
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeLoader
from tests.unit.serving.tfserving.savedmodel_server.test_manager import managing, model, put, states


async def test_a_reload_replaces_everything(tmp_path: Path) -> None:
    """New models answer when it returns, those left out are gone, those that stay are not loaded again."""
    for name in "abc":
        put(tmp_path / name, "1")
    loader = FakeLoader()
    async with managing(loader) as manager:
        await manager.start([model("a", tmp_path), model("b", tmp_path)])
        await manager.reload([model("b", tmp_path), model("c", tmp_path)])
        assert states(manager, "b") == states(manager, "c") == {1: State.AVAILABLE}
        await manager.poll()
        assert states(manager, "a") == {1: State.END}
        assert sorted(path.parent.name for path, _ in loader.loaded) == ["a", "b", "c"]
        await manager.reload([model("a", tmp_path)])
        assert states(manager, "a") == {1: State.AVAILABLE}


async def test_a_removed_model_is_drained_and_may_come_back(tmp_path: Path) -> None:
    """Its last request keeps it; a model of that name waits for it to be gone."""
    put(tmp_path / "m", "1")
    async with managing() as manager:
        await manager.start([model("m", tmp_path)])
        with manager.versions.using(model_pb2.ModelSpec(name="m")):
            await manager.reload([])
            assert states(manager) == {1: State.UNLOADING}
            again = asyncio.create_task(manager.reload([model("m", tmp_path)]))
            await asyncio.sleep(0)
            assert states(manager) == {1: State.UNLOADING}
        await again
        assert states(manager) == {1: State.AVAILABLE}


async def test_a_changed_policy_is_followed(tmp_path: Path) -> None:
    """A model that stays changes in the background."""
    put(tmp_path, "1", "2")
    async with managing() as manager:
        await manager.start([ModelConfig("m", tmp_path)])
        await manager.reload([ModelConfig("m", tmp_path, VersionPolicy(latest=None))])
        await manager.poll()
        assert states(manager) == {2: State.AVAILABLE, 1: State.AVAILABLE}
        await manager.reload([ModelConfig("m", tmp_path, VersionPolicy(latest=None, specific=frozenset({1})))])
        await manager.poll()
        assert states(manager) == {2: State.END, 1: State.AVAILABLE}


async def test_a_new_model_that_fails_fails_the_reload(tmp_path: Path) -> None:
    """The rest of the configuration is in force all the same."""
    put(tmp_path / "good", "1")
    put(tmp_path / "bad", "1", broken=True)
    async with managing() as manager:
        await manager.start([])
        with pytest.raises(ServingError) as caught:
            await manager.reload([model("good", tmp_path), model("bad", tmp_path)])
        assert str(caught.value) == (
            "UNKNOWN: 1 model(s) did not become available: "
            "{{{name: bad version: 1} due to error: INVALID_ARGUMENT: it is broken}, }"
        )
        assert states(manager, "good") == {1: State.AVAILABLE}
        await manager.reload([model("good", tmp_path), model("bad", tmp_path)])


async def test_a_refused_configuration_changes_nothing(tmp_path: Path) -> None:
    """Platforms and labels are looked at first."""
    put(tmp_path / "m", "1")
    async with managing() as manager:
        await manager.start([model("m", tmp_path)])
        with pytest.raises(ServingError, match="INVALID_ARGUMENT: Illegal to change a model's platform"):
            await manager.reload([ModelConfig("m", tmp_path / "m", platform="other")])
        with pytest.raises(
            ServingError, match="FAILED_PRECONDITION: Request to assign label to version 2 of model m, "
        ):
            await manager.reload([model("m", tmp_path, next=2)])
        await manager.poll()
        assert states(manager) == {1: State.AVAILABLE}
        await manager.reload([model("m", tmp_path, now=1)])
        assert manager.versions.labelled("m", "now") == 1


async def test_labels_of_a_first_configuration_need_the_policy(tmp_path: Path) -> None:
    """Nothing is available before it; with the policy, a label in use still moves to available versions only."""
    put(tmp_path / "m", "1")
    async with managing() as manager:
        with pytest.raises(
            ServingError, match="assign label to version 1 of model m, which is not currently available"
        ):
            await manager.start([model("m", tmp_path, now=1)])
    async with managing(policy=LoadPolicy(poll_s=0, any_label=True)) as manager:
        await manager.start([model("m", tmp_path, now=1)])
        await manager.reload([model("m", tmp_path, now=1, later=2)])
        with pytest.raises(ServingError, match="assign label to version 3"):
            await manager.reload([model("m", tmp_path, now=3)])
        assert [manager.versions.labelled("m", label) for label in ("now", "later")] == [1, 2]


async def test_a_load_is_retried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As often as the policy says; meanwhile the version is loading."""
    put(tmp_path / "m", "1", broken=True)
    async with managing(policy=LoadPolicy(poll_s=0, retries=2, retry_interval_s=0)) as manager:
        with pytest.raises(ServingError, match="did not become available"):
            await manager.start([model("m", tmp_path)])
        assert caplog.text.count("loading failed") == 3
        assert states(manager) == {1: State.END}


async def test_a_version_that_nobody_wants_is_not_retried(tmp_path: Path) -> None:
    """Its wait for the next try ends at once."""
    put(tmp_path / "m", "1", broken=True)
    async with managing(policy=LoadPolicy(poll_s=0, retries=1, retry_interval_s=3600)) as manager:
        starting = asyncio.create_task(manager.start([model("m", tmp_path)]))
        while states(manager) != {1: State.LOADING}:
            await asyncio.sleep(0)
        put(tmp_path / "m", "2")
        await starting
        await manager.poll()
        assert states(manager) == {2: State.AVAILABLE, 1: State.END}
