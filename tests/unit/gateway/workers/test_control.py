"""The channel between the supervisor and a worker."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.workers.control import Control, ControlError, ControlLostError, Handler


@asynccontextmanager
async def pair(**handlers: Handler) -> AsyncIterator[tuple[Control, Control]]:
    """Both ends; the second has the handlers."""
    ends = []
    names: tuple[Mapping[str, Handler], ...] = ({}, handlers)
    for end, known in zip(socket.socketpair(), names, strict=True):
        control = Control(*await asyncio.open_unix_connection(sock=end), known)
        ends.append((control, asyncio.create_task(control.run())))
    try:
        yield ends[0][0], ends[1][0]
    finally:
        for control, reading in ends:
            await control.close()
            await reading


async def echo(body: bytes) -> bytes:
    return body


async def test_a_call_gets_its_own_answer_whatever_is_under_way() -> None:
    """Answers may come in another order than the calls; bytes travel as they are, a few or many."""
    hold = asyncio.Event()

    async def slow(body: bytes) -> bytes:
        await hold.wait()
        return body[::-1]

    large = bytes(range(256)) * 40_000
    async with pair(slow=slow, echo=echo) as (near, _):
        waiting = asyncio.create_task(near.call("slow", b"abc", timeout_s=5))
        assert await near.call("echo", large, timeout_s=5) == large
        assert not waiting.done()
        hold.set()
        assert await waiting == b"cba"


async def test_what_a_handler_raises_reaches_the_caller() -> None:
    """A gateway's error with its cause, anything else as its text."""

    async def refuse(_: bytes) -> bytes:
        raise GatewayError(Cause.MODEL_NOT_FOUND, "unknown model 'x'")

    async def fail(_: bytes) -> bytes:
        raise ValueError("no such port")

    async with pair(refuse=refuse, fail=fail) as (near, _):
        with pytest.raises(GatewayError, match="unknown model 'x'") as found:
            await near.call("refuse", timeout_s=5)
        assert found.value.cause is Cause.MODEL_NOT_FOUND
        with pytest.raises(ControlError, match="no such port"):
            await near.call("fail", timeout_s=5)
        with pytest.raises(ControlError, match="unheard"):
            await near.call("unheard", timeout_s=5)


async def test_an_answer_that_does_not_come_in_time_is_an_error() -> None:
    """And the channel goes on; what comes late is nobody's."""
    hold = asyncio.Event()

    async def slow(_: bytes) -> bytes:
        await hold.wait()
        return b"late"

    async with pair(slow=slow, echo=echo) as (near, _):
        with pytest.raises(ControlError, match="no answer to 'slow' within 0.01 s"):
            await near.call("slow", timeout_s=0.01)
        hold.set()
        assert await near.call("echo", b"next", timeout_s=5) == b"next"


async def test_the_end_of_one_side_ends_every_call_of_the_other() -> None:
    """Those that wait, and those to come."""
    asked = asyncio.Event()

    async def never(_: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return b""

    async with pair(never=never) as (near, far):
        waiting = asyncio.create_task(near.call("never", timeout_s=None))
        await asked.wait()
        await far.close()
        with pytest.raises(ControlLostError):
            await waiting
        with pytest.raises(ControlLostError):
            await near.call("never", timeout_s=5)
        near.tell("never")


async def test_what_is_told_is_heard_and_not_answered() -> None:
    """Telling does not wait."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(body: bytes) -> bytes:
        heard.set_result(body)
        return b"unwanted"

    async with pair(hear=hear) as (near, _):
        near.tell("hear", b"news")
        assert await heard == b"news"


async def test_a_frame_that_is_none_of_ours_ends_the_channel() -> None:
    """Its length would be the memory that it takes."""
    ours, theirs = socket.socketpair()
    control = Control(*await asyncio.open_unix_connection(sock=ours), {})
    with theirs:
        theirs.sendall(struct.pack(">II", 1 << 31, 0))
        await control.run()
    await control.close()
    with pytest.raises(ControlLostError):
        await control.call("x", timeout_s=5)
