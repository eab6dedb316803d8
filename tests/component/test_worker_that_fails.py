"""A worker process that cannot start, and what its supervisor learns of it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.plan import Configuration
from gateway.settings import Settings
from gateway.supervisor import spawned
from gateway.worker import EXIT_FAILED
from gateway.workers.assignment import Assignment
from gateway.workers.control import Control


@pytest.mark.parametrize("heard", [True, False])
async def test_a_worker_that_cannot_start_ends_with_the_status_that_says_so(heard: bool) -> None:
    """Whether or not its supervisor takes its word for why."""
    told: list[bytes] = []
    settings = Settings(server={"rest_port": 0, "grpc_port": 0}, endpoints={"none": {"stack": "noop"}})

    async def settled(_: bytes) -> bytes:
        return b""

    async def failed(body: bytes) -> bytes:
        told.append(body)
        if not heard:
            raise OSError("no room to write it down")
        return b""

    # Not to be shared: another worker of the port would need SO_REUSEPORT on this one too.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assignment = Assignment(1, Configuration(settings, {}), taken.getsockname()[1], 0).to_json()

        async def assigned(_: bytes) -> bytes:
            return assignment

        near, far = socket.socketpair()
        with far:
            process = await spawned(far, 0)
        control = Control(
            *await asyncio.open_unix_connection(sock=near),
            {"assignment": assigned, "settled": settled, "failed": failed, "ready": settled},
        )
        reading = asyncio.create_task(control.run())
        try:
            async with asyncio.timeout(30):
                status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await control.close()
            await reading
    assert status == EXIT_FAILED
    (word,) = told
    assert b"choose another server.rest_port" in word
