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
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.manager import LoadPolicy, Manager
from serving.tfserving.savedmodel_server.versions import State
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeLoader


def put(base: Path, *names: str, broken: bool = False) -> None:
    """Makes version folders."""
    for name in names:
        (base / name).mkdir(parents=True)
        if broken:
            (base / name / "broken").touch()


ONCE = LoadPolicy(poll_s=0, retries=0)


@asynccontextmanager
async def managing(loader: FakeLoader | None = None, policy: LoadPolicy = ONCE) -> AsyncIterator[Manager]:
    """A manager that never polls by itself; its loader's work is over when it is left."""
    with ThreadPoolExecutor(2) as executor:
        manager = Manager(loader or FakeLoader(), executor, executor, policy)
        yield manager
        await manager.stop()


def model(name: str, folder: Path, **labels: int) -> ModelConfig:
    """A model by its name, in the folder of that name."""
    return ModelConfig(name, folder / name, labels=labels)


def states(manager: Manager, name: str = "m") -> dict[int, State]:
    """The states of a model's versions."""
    return {number: version.state for number, version in manager.versions.of(name).items()}


async def test_starting_serves_the_latest_version(tmp_path: Path) -> None:
    """Numbers only, leading zeros allowed; files and other names are ignored."""
    put(tmp_path, "1", "00000012", "next", ".13")
    (tmp_path / "14").touch()
    loader = FakeLoader()
    async with managing(loader) as manager:
        await manager.start([ModelConfig("m", tmp_path)])
        assert states(manager) == {12: State.AVAILABLE}
        assert [path.name for path, _ in loader.loaded] == ["00000012"]


async def test_starting_waits_for_a_missing_base_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and goes on when the folder comes."""
    async with managing() as manager:
        starting = asyncio.create_task(manager.start([ModelConfig("m", tmp_path / "m")]))
        await asyncio.sleep(0)
        await manager.poll()
        await manager.poll()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "could not find base path" in caplog.text
        (tmp_path / "m").mkdir()
        await manager.poll()
        assert "no versions found under base path" in caplog.text
        await asyncio.to_thread(put, tmp_path / "m", "1")
        await starting
        assert states(manager) == {1: State.AVAILABLE}


async def test_a_model_that_cannot_load_stops_the_start(tmp_path: Path) -> None:
    """With the reason, rather than a wait without end, and only once every other model is decided."""
    put(tmp_path / "m", "1", "2", broken=True)
    put(tmp_path / "n", "1")
    async with managing() as manager:
        with pytest.raises(ServingError) as caught:
            await manager.start([ModelConfig("m", tmp_path / "m", VersionPolicy(latest=None)), model("n", tmp_path)])
        assert str(caught.value) == (
            "UNKNOWN: 1 servable(s) did not become available: "
            "{{{name: m version: 2} due to error: INVALID_ARGUMENT: it is broken}, }"
        )
        assert states(manager, "n") == {1: State.AVAILABLE}


async def test_a_new_version_takes_over_once_it_is_available(tmp_path: Path) -> None:
    """The old one is closed only when its last request has ended."""
    put(tmp_path, "1")
    loader = FakeLoader()
    async with managing(loader) as manager:
        await manager.start([ModelConfig("m", tmp_path)])
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
    async with managing() as manager:
        await manager.start([ModelConfig("m", tmp_path)])
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
    async with managing() as manager:
        await manager.start([ModelConfig("m", tmp_path)])
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
    async with managing() as manager:
        await manager.start([model("m", tmp_path)])
        shutil.rmtree(tmp_path / "m")
        await manager.poll()
        assert states(manager) == {1: State.AVAILABLE}


async def test_every_version_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line when it comes, and two when it goes."""
    caplog.set_level(logging.INFO)
    put(tmp_path, "1")
    async with managing() as manager:
        await manager.start([ModelConfig("m", tmp_path)])
        put(tmp_path, "2")
        await manager.poll()
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("manager")]
    assert [line.partition(" after")[0] for line in lines] == [
        "model m version 1: available",
        "model m version 2: available",
        "model m version 1: unloading",
        "model m version 1: unloaded",
    ]
