"""Following the folders on disk: start, roll-over, failures and removals."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tensorflow_serving.apis import model_pb2

from serving.tfserving.savedmodel_server.config import ModelConfig, VersionPolicy
from serving.tfserving.savedmodel_server.manager import Manager, StartError
from serving.tfserving.savedmodel_server.versions import State
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeLoader


def put(base: Path, *names: str, broken: bool = False) -> None:
    """Makes version folders."""
    for name in names:
        (base / name).mkdir(parents=True)
        if broken:
            (base / name / "broken").touch()


@asynccontextmanager
async def managing(*models: ModelConfig, loader: FakeLoader | None = None) -> AsyncIterator[Manager]:
    """A manager that never polls by itself; its loader's work is over when it is left."""
    with ThreadPoolExecutor(1) as executor:
        yield Manager(models, loader or FakeLoader(), executor, poll_s=0)


def states(manager: Manager) -> dict[int, State]:
    """The states of model m's versions."""
    return {number: version.state for number, version in manager.versions.of("m").items()}


async def test_starting_serves_the_latest_version(tmp_path: Path) -> None:
    """Numbers only, leading zeros allowed; files and other names are ignored."""
    put(tmp_path, "1", "00000012", "next", ".13")
    (tmp_path / "14").touch()
    loader = FakeLoader()
    async with managing(ModelConfig("m", tmp_path), loader=loader) as manager:
        await manager.start()
        assert states(manager) == {12: State.AVAILABLE}
        assert [path.name for path, _ in loader.loaded] == ["00000012"]


async def test_starting_waits_for_a_missing_base_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and goes on when the folder comes."""
    async with managing(ModelConfig("m", tmp_path / "m")) as manager:
        await manager.poll()
        await manager.poll()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "could not find base path" in caplog.text
        (tmp_path / "m").mkdir()
        await manager.poll()
        assert "no versions found under base path" in caplog.text
        starting = asyncio.create_task(manager.start())
        await asyncio.to_thread(put, tmp_path / "m", "1")
        await starting
        assert states(manager) == {1: State.AVAILABLE}


async def test_a_model_that_cannot_load_stops_the_start(tmp_path: Path) -> None:
    """With the reason, rather than a wait without end."""
    put(tmp_path, "1", broken=True)
    async with managing(ModelConfig("m", tmp_path)) as manager:
        with pytest.raises(StartError, match=r"name: m version: 1} due to error: INVALID_ARGUMENT: it is broken"):
            await manager.start()


async def test_a_label_needs_an_available_version(tmp_path: Path) -> None:
    """As TensorFlow Serving checks when it reads its configuration."""
    put(tmp_path, "1", "2")
    async with managing(ModelConfig("m", tmp_path, labels={"old": 1})) as manager:
        with pytest.raises(StartError, match="assign label to version 1 of model m, which is not currently available"):
            await manager.start()
    async with managing(ModelConfig("m", tmp_path, VersionPolicy(latest=None), {"old": 1})) as manager:
        await manager.start()


async def test_a_new_version_takes_over_once_it_is_available(tmp_path: Path) -> None:
    """The old one is closed only when its last request has ended."""
    put(tmp_path, "1")
    loader = FakeLoader()
    async with managing(ModelConfig("m", tmp_path), loader=loader) as manager:
        await manager.start()
        with manager.versions.using(model_pb2.ModelSpec(name="m")) as (number, _):
            assert number == 1
            put(tmp_path, "2")
            await manager.poll()
            assert states(manager) == {2: State.AVAILABLE, 1: State.UNLOADING}
            assert not loader.loaded[0][1].closed
        await manager.poll()
        assert states(manager) == {2: State.AVAILABLE, 1: State.END}
        assert loader.loaded[0][1].closed


async def test_a_version_that_fails_leaves_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not tried again until its folder was away."""
    put(tmp_path, "1")
    async with managing(ModelConfig("m", tmp_path)) as manager:
        await manager.start()
        put(tmp_path, "2", broken=True)
        await manager.poll()
        await manager.poll()
        assert states(manager) == {2: State.END, 1: State.AVAILABLE}
        assert manager.versions.of("m")[2].error is not None
        assert caplog.text.count("loading failed") == 1
        shutil.rmtree(tmp_path / "2")
        await manager.poll()
        put(tmp_path, "2")
        await manager.poll()
        assert states(manager)[2] is State.AVAILABLE


async def test_a_removed_version_gives_way_to_an_older_one(tmp_path: Path) -> None:
    """Removing the newest folder is a way back."""
    put(tmp_path, "1", "2")
    async with managing(ModelConfig("m", tmp_path)) as manager:
        await manager.start()
        shutil.rmtree(tmp_path / "2")
        await manager.poll()
        await manager.poll()
        assert states(manager) == {2: State.END, 1: State.AVAILABLE}
        put(tmp_path, "2")
        await manager.poll()
        await manager.poll()
        assert states(manager) == {2: State.AVAILABLE, 1: State.END}


async def test_a_base_path_that_goes_away_changes_nothing(tmp_path: Path) -> None:
    """A file system that fails for a moment must not take the model with it."""
    put(tmp_path / "m", "1")
    async with managing(ModelConfig("m", tmp_path / "m")) as manager:
        await manager.start()
        shutil.rmtree(tmp_path / "m")
        await manager.poll()
        assert states(manager) == {1: State.AVAILABLE}


async def test_every_version_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it comes, and two when it goes."""
    caplog.set_level(logging.INFO)
    put(tmp_path, "1")
    async with managing(ModelConfig("m", tmp_path)) as manager:
        await manager.start()
        put(tmp_path, "2")
        await manager.poll()
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("manager")]
    assert [line.partition(" after")[0] for line in lines] == [
        "model m version 1: available",
        "model m version 2: available",
        "model m version 1: unloading",
        "model m version 1: unloaded",
    ]
