"""Tests of gateway.backends.torchserve_keys: when the key file is read, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.backends.errors import TokenRefusedError
from gateway.backends.torchserve_keys import KeyFile, NoKeys
from gateway.core.errors import Cause
from tests.unit.gateway.backends.support import failure

GOOD = {
    "management": {"key": "man-1", "expiration time": "2026-01-01T01:00:00.123456789Z"},
    "inference": {"key": "inf-1", "expiration time": "2026-01-01T02:00:00.123456789Z"},
    "API": {"key": "api-1"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with keys."""
    path = tmp_path / "key_file.json"
    write(path)
    return path


# Longer than any test waits.
FOREVER_S = 60
HALF = '{"inference": {"ke'


def write(path: Path, inference: str = "inf-1") -> None:
    """Rewrites the file in place, as TorchServe does."""
    path.write_text(json.dumps({**GOOD, "inference": {**GOOD["inference"], "key": inference}}))


def rotate_management(path: Path) -> None:
    """Rewrites the file with another management key."""
    path.write_text(json.dumps({**GOOD, "management": {**GOOD["management"], "key": "man-2"}}))


def put(path: Path, text: str | None) -> None:
    """Leaves `text` in the file, or no file."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


def times(path: Path) -> tuple[int, int]:
    """When the file was read and written, in nanoseconds."""
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns


async def echo(authorization: str | None) -> str | None:
    """A server that takes every key."""
    return authorization


class Counted(KeyFile):
    """Counts how often the file is read."""

    reads = 0

    async def _read(self, *, only_if_changed: bool) -> None:
        self.reads += 1
        await super()._read(only_if_changed=only_if_changed)


def takes(*keys: str) -> Callable[[str | None], Awaitable[str]]:
    """A server that takes only these keys."""

    async def send(authorization: str | None) -> str:
        if authorization is None or authorization.removeprefix("Bearer ") not in keys:
            raise TokenRefusedError
        return authorization

    return send


async def test_each_kind_of_call_has_its_key(path: Path) -> None:
    """Bearer and the key, over either transport; without a file there is none."""
    keys = KeyFile(path)
    assert await keys.using("inference", echo, 5) == "Bearer inf-1"
    assert await keys.using("management", echo, 5) == "Bearer man-1"
    assert await NoKeys().using("inference", echo, 5) is None


async def test_a_change_is_noticed_by_the_watch(path: Path) -> None:
    """Time, size or inode; what did not change is not read again."""
    keys = KeyFile(path)
    assert await keys.using("inference", echo, 5) == "Bearer inf-1"
    write(path, "inf-22")
    assert await keys.using("inference", echo, 5) == "Bearer inf-1"
    await keys.renew()
    assert await keys.using("inference", echo, 5) == "Bearer inf-22"
    before = times(path)
    write(path, "inf-33")
    os.utime(path, ns=before)
    await keys.renew()
    assert await keys.using("inference", echo, 5) == "Bearer inf-22"
    os.utime(path)
    await keys.renew()
    assert await keys.using("inference", echo, 5) == "Bearer inf-33"


async def test_a_refused_key_is_read_again_and_tried_once(path: Path) -> None:
    """A rotation between two looks of the watch fails nobody, however many calls meet it at once."""
    keys = KeyFile(path)
    await keys.using("inference", echo, 5)
    write(path, "inf-2")
    assert await asyncio.gather(*(keys.using("inference", takes("inf-2"), 5) for _ in range(8))) == ["Bearer inf-2"] * 8


async def test_a_key_that_is_in_use_before_it_is_in_the_file_is_waited_for(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe changes its mind first and writes after, in place: the file may be old, or half there."""
    keys, begun, refusals = KeyFile(path), threading.Event(), 0
    writing: list[asyncio.Task[None]] = []

    async def send(authorization: str | None) -> str | None:
        nonlocal refusals
        if authorization == "Bearer inf-1":
            refusals += 1
            await asyncio.to_thread(put, path, HALF)
            writing.append(asyncio.create_task(asyncio.to_thread(written_soon)))
            raise TokenRefusedError
        return authorization

    def written_soon() -> None:
        begun.wait(5)
        write(path, "inf-2")

    asking = asyncio.create_task(keys.using("inference", send, 5))
    while not refusals:
        await asyncio.sleep(0)
    begun.set()
    assert await asking == "Bearer inf-2"
    assert refusals == 1
    assert "not JSON" not in caplog.text
    await writing[0]


async def test_keys_may_change_twice_during_a_call(path: Path) -> None:
    """Each new one is tried, up to a bound."""
    keys, sent = KeyFile(path), []

    async def send(authorization: str | None) -> str | None:
        sent.append(authorization)
        await asyncio.to_thread(write, path, f"inf-{len(sent) + 1}")
        raise TokenRefusedError

    error = await failure(keys.using("inference", send, 5))
    assert error.cause is Cause.UPSTREAM_BAD_REPLY
    assert "refused 5 inference keys, one after the other" in error.detail
    assert sent == [f"Bearer inf-{number}" for number in range(1, 6)]


@pytest.mark.parametrize("rewrite", [write, rotate_management], ids=["the same keys", "another management key"])
async def test_a_call_waits_for_a_new_key_also_where_the_file_was_read_after_it_began(
    path: Path, rewrite: Callable[[Path], None]
) -> None:
    """What was read then may be the very key that the call is refused with now."""
    keys = KeyFile(path, patience_s=FOREVER_S)
    refused = asyncio.Event()

    async def send(authorization: str | None) -> str | None:
        if authorization == "Bearer inf-1":
            await asyncio.to_thread(rewrite, path)
            await asyncio.to_thread(os.utime, path, ns=(0, 0))
            await keys.renew()
            refused.set()
            raise TokenRefusedError
        return authorization

    asking = asyncio.create_task(keys.using("inference", send, FOREVER_S))
    await refused.wait()
    for _ in range(3):
        await keys.renew()
    assert not asking.done()
    await asyncio.to_thread(write, path, "inf-2")
    assert await asking == "Bearer inf-2"


async def test_calls_that_wait_share_what_one_of_them_reads(path: Path) -> None:
    """As many looks at the file for hundred calls as for one, give or take."""
    keys = Counted(path, patience_s=FOREVER_S)
    calls = [asyncio.create_task(keys.using("inference", takes("inf-2"), FOREVER_S)) for _ in range(100)]
    while keys.reads < 4:
        await asyncio.sleep(0)
    before = keys.reads
    await asyncio.to_thread(write, path, "inf-2")
    assert await asyncio.gather(*calls) == ["Bearer inf-2"] * 100
    assert keys.reads - before <= 2


async def test_nobody_waits_for_a_key_beyond_the_deadline(path: Path) -> None:
    """Nor does it count as the server's refusal, which may be over in a moment."""
    keys = KeyFile(path, patience_s=FOREVER_S)
    error = await failure(keys.using("inference", takes("inf-2"), 0.01))
    assert error.cause is Cause.DEADLINE


async def test_a_key_that_was_waited_for_in_vain_is_not_waited_for_again(path: Path) -> None:
    """Every later call looks at the file once, and is told, until there is another key."""
    keys = Counted(path, patience_s=0)
    for reads in (2, 3, 4):
        assert "was read again" in (await failure(keys.using("inference", takes("inf-2"), 5))).detail
        assert keys.reads == reads
    write(path, "inf-2")
    assert await keys.using("inference", takes("inf-2"), 5) == "Bearer inf-2"


async def test_a_key_that_the_file_still_has_is_an_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says once which file it is and when the key expired; nothing says the key."""
    keys = KeyFile(path, patience_s=0)
    errors = [await failure(keys.using("inference", takes("inf-2"), 5)) for _ in range(3)]
    assert [error.cause for error in errors] == [Cause.UPSTREAM_BAD_REPLY] * 3
    assert "refuses the inference key in the endpoint's token_file" in errors[0].detail
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert str(path) in told[0]
    assert "2026-01-01T02:00:00.123456789Z" in told[0]
    await failure(keys.using("management", takes("man-2"), 5))
    await failure(keys.using("inference", takes("inf-2"), 5))
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2
    write(path, "inf-3")
    assert (await failure(keys.using("inference", takes("inf-2"), 5))).cause is Cause.UPSTREAM_BAD_REPLY
    everything = caplog.text + repr(keys) + repr(vars(keys)) + "".join(map(repr, errors))
    assert [key for key in ("inf-1", "inf-3", "man-1", "api-1") if key in everything] == []


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        (None, "No such file or directory"),
        ("", "not JSON; expected TorchServe's key_file.json"),
        ("[" * 60_000, "not JSON; expected TorchServe's key_file.json"),
        ("[]", "it has no 'inference' with a 'key'"),
        ('{"inference": {"key": "inf-1"}}', "it has no 'management' with a 'key'"),
        ('{"inference": {"key": "a\\r\\nX: y"}, "management": {"key": "b"}}', "it has no 'inference' with a 'key'"),
        (" " * 70_000, "larger than 65536 bytes"),
    ],
)
async def test_a_file_without_keys_sends_nothing(
    path: Path, caplog: pytest.LogCaptureFixture, text: str | None, trouble: str
) -> None:
    """The call is not ready, so that another endpoint may take it; the log names the file, once."""
    put(path, text)
    keys = KeyFile(path)
    for _ in range(2):
        error = await failure(keys.using("inference", echo, 5))
        assert error.cause is Cause.NOT_READY
        assert trouble in error.detail
    assert caplog.text.count(str(path)) == 1
    write(path)
    assert await keys.using("inference", echo, 5) == "Bearer inf-1"


async def test_a_half_written_file_leaves_the_keys_as_they_were(path: Path) -> None:
    """TorchServe rewrites the file in place; the next look finds it whole."""
    keys = KeyFile(path)
    await keys.using("inference", echo, 5)
    put(path, HALF)
    await keys.renew()
    assert await keys.using("inference", echo, 5) == "Bearer inf-1"
    write(path, "inf-2")
    await keys.renew()
    assert await keys.using("inference", echo, 5) == "Bearer inf-2"
