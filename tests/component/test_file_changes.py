"""Tests of gateway.reload: which changes of a file are seen, however it is replaced."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

from gateway.reload import changes_of


class Seen:
    """Counts the changes that were told."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def add(self) -> None:
        self.count += 1
        self._changed.set()

    async def next(self) -> None:
        """Returns after one more change; fails after 20 s."""
        async with asyncio.timeout(20):
            await self._changed.wait()
        self._changed.clear()


@asynccontextmanager
async def watched(file: Path) -> AsyncIterator[Seen]:
    """The changes of a file, from when a first one was told."""
    seen = Seen()

    async def watch() -> None:
        async with aclosing(changes_of(file)) as changes:
            async for _ in changes:
                seen.add()

    task = asyncio.create_task(watch())
    try:
        for second in range(40):
            # Touched until that is seen: from then on it is watched.
            os.utime(file, (second, second))
            with suppress(TimeoutError):
                await asyncio.wait_for(seen.next(), 0.5)
                break
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_file_written_anew_is_a_change(tmp_path: Path) -> None:
    """In place."""
    file = tmp_path / "gateway.yaml"
    file.write_text("a")
    async with watched(file) as seen:
        file.write_text("bb")
        await seen.next()


async def test_a_file_replaced_by_rename_is_a_change_every_time(tmp_path: Path) -> None:
    """As editors do it: the watch does not end with the first file."""
    file = tmp_path / "gateway.yaml"
    file.write_text("a")
    async with watched(file) as seen:
        for number in range(3):
            part = tmp_path / "part"
            part.write_text(str(number) * 5)
            part.replace(file)
            await seen.next()


async def test_a_config_map_that_is_swapped_is_a_change_every_time(tmp_path: Path) -> None:
    """Kubernetes links the file to `..data/`, which links to a folder: only that link is replaced."""
    swap(tmp_path, "1")
    file = tmp_path / "gateway.yaml"
    file.symlink_to("..data/gateway.yaml")
    async with watched(file) as seen:
        for number in ("2", "3"):
            swap(tmp_path, number)
            await seen.next()


async def test_a_storm_of_writes_is_few_changes(tmp_path: Path) -> None:
    """A file is told of once it rests, not at every write."""
    file = tmp_path / "gateway.yaml"
    file.write_text("a")
    async with watched(file) as seen:
        for number in range(200):
            file.write_text("x" * number)
        await seen.next()
        file.write_text("the end")
        await seen.next()
    assert seen.count < 10


def swap(folder: Path, version: str) -> None:
    """A new version of a config map, as the kubelet writes it."""
    fresh = folder / f"..{version}"
    fresh.mkdir()
    (fresh / "gateway.yaml").write_text(version * 7)
    link = folder / "..data_tmp"
    link.symlink_to(fresh.name)
    link.replace(folder / "..data")
