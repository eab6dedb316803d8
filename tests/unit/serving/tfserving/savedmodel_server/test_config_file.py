"""Following the configuration file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from serving.tfserving.savedmodel_server import config
from serving.tfserving.savedmodel_server.config_file import ConfigFile
from serving.tfserving.savedmodel_server.versions import State
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeLoader
from tests.unit.serving.tfserving.savedmodel_server.test_manager import managing, model, put, states


def write(folder: Path, names: Iterable[str], extra: str = "") -> Path:
    """The file with these models."""
    file = folder / "models.config"
    entries = " ".join(
        f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow" {extra} }}'
        for name in names
    )
    file.write_text(f"model_config_list {{ {entries} }}")
    return file


async def test_a_change_is_a_reload(tmp_path: Path) -> None:
    """A file that stays the same does nothing, an empty one neither."""
    for name in "ab":
        put(tmp_path / name, "1")
    file, loader = write(tmp_path, "a"), FakeLoader()
    async with managing(loader) as manager:
        models = config.from_file(file) or ()
        await manager.start(models)
        followed = ConfigFile(file, manager)
        await followed.poll()
        assert len(loader.loaded) == 1
        write(tmp_path, "b")
        await followed.poll()
        await followed.poll()
        await manager.poll()
        assert (states(manager, "a"), states(manager, "b")) == ({1: State.END}, {1: State.AVAILABLE})
        file.write_text("")
        await followed.poll()
        assert states(manager, "b") == {1: State.AVAILABLE}
        assert len(loader.loaded) == 2


async def test_the_file_has_the_last_word(tmp_path: Path) -> None:
    """A configuration that came in another way lasts until the next look."""
    for name in "ab":
        put(tmp_path / name, "1")
    file = write(tmp_path, "a")
    async with managing() as manager:
        await manager.start(config.from_file(file) or ())
        await manager.reload([model("b", tmp_path)])
        await ConfigFile(file, manager).poll()
        assert states(manager, "a") == {1: State.AVAILABLE}


async def test_a_wrong_file_keeps_what_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and takes a right one up again."""
    put(tmp_path / "a", "1")
    file = write(tmp_path, "a")
    async with managing() as manager:
        models = config.from_file(file) or ()
        await manager.start(models)
        followed = ConfigFile(file, manager)
        for wrong in ("nonsense", None):
            caplog.clear()
            file.write_text(wrong) if wrong else file.unlink()
            await followed.poll()
            await followed.poll()
            assert states(manager, "a") == {1: State.AVAILABLE}
            assert caplog.text.count("failed to reload") == 1
        caplog.clear()
        write(tmp_path, "a", 'version_labels { key: "next" value: 2 }')
        await followed.poll()
        assert "which is not currently available for inference" in caplog.text
        write(tmp_path, "a", 'version_labels { key: "now" value: 1 }')
        await followed.poll()
        assert manager.versions.labelled("a", "now") == 1


async def test_a_poll_time_of_0_reads_the_file_once(tmp_path: Path) -> None:
    """At the start, and never again."""
    async with managing() as manager:
        await ConfigFile(tmp_path / "nothing", manager).follow(0)
