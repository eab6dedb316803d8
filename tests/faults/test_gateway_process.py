"""The gateway as a process: ended and reloaded under load, and sent more than any process should hold."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.core.errors import Cause
from tests.fakes.relay import Answer, Delay
from tests.fakes.script import Oversized
from tests.faults.clients import DOORS, OK, UNANSWERED, Clients, Door, crowd
from tests.faults.processes import gateway_process, upstreams, write_contract
from tests.faults.world import BODY_BYTES, LONG_MS, SLOTS, WAYS, Way

pytestmark = pytest.mark.faults

RESTARTS = 20
CALLERS = 24
# Requests that are answered before SIGTERM comes.
BEFORE = 120
TENSORFLOW = Way("tfserving", "grpc")
TORCH = Way("torchserve", "rest")


def document(folder: Path, endpoints: dict[str, Any], *targets: str, **changes: Any) -> dict[str, Any]:
    """gateway.yaml with one model, `double`."""
    model = {"contract": write_contract(folder), "targets": [{"endpoint": name} for name in targets], **changes}
    limits = {"body_bytes": BODY_BYTES, "json_bytes": BODY_BYTES}
    return {"endpoints": endpoints, "models": {"double": model}, "limits": limits, "log_level": "warning"}


class Visitors:
    """Callers of both doors who ask one request after the other, until the door is closed; numbers start at `base`.

    `told` has the outcome of each number, and `enough` is set once so many were answered that the load is steady.
    """

    def __init__(self, clients: Clients, base: int) -> None:
        self._clients = clients
        self._numbers = count(base)
        self.told: dict[int, str] = {}
        self.enough = asyncio.Event()

    async def come(self) -> None:
        """Returns when the last of them has found the door closed."""
        await asyncio.gather(*(self._call(DOORS[caller % 2]) for caller in range(CALLERS)))

    async def _call(self, door: Door) -> None:
        outcome = ""
        while not outcome.startswith(UNANSWERED):
            number = next(self._numbers)
            outcome = self.told[number] = await self._clients.ask("double", door, LONG_MS, number=number)
            if self._clients.ended["double"][OK] >= BEFORE:
                self.enough.set()


async def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    """Twenty times: what has begun is answered, whoever comes later is refused, and the gateway ends with 0."""
    told: Counter[str] = Counter()
    async with upstreams(TORCH, TENSORFLOW) as (servers, seen):
        for server in servers:
            # As long as a small model takes: there is always something under way.
            server.falls_under(Delay(0.005))
        endpoints = {"ts": servers[0].endpoint(), "tf": servers[1].endpoint()}
        config = document(tmp_path, endpoints, "ts", "tf", policy="round_robin")
        for number in range(RESTARTS):
            async with gateway_process(tmp_path, config) as gateway:
                visitors = Visitors(gateway.clients, 1 + number * 100_000)
                coming = asyncio.create_task(visitors.come())
                await asyncio.wait_for(visitors.enough.wait(), 60)
                gateway.signal(signal.SIGTERM)
                await asyncio.wait_for(coming, 60)
                assert await gateway.ended() == 0, gateway.log.read_text()[-2000:]
            lost = {key: outcome for key, outcome in visitors.told.items() if key in seen and outcome != OK}
            assert not lost, f"restart {number}: {lost}"
            told.update(":".join(outcome.split(":")[:2]) for outcome in visitors.told.values())
    print(f"\n{RESTARTS} restarts: {dict(told)}")
    assert max(seen.values()) == 1
    assert told[OK] >= RESTARTS * BEFORE
    # Nothing else: no connection was cut with a request on it.
    assert [outcome for outcome in told if outcome != OK and not closed(outcome)] == []


def closed(outcome: str) -> bool:
    """Whether this is how a client hears that nobody takes requests any more.

    gRPC's own server tells calls that arrive in the moment of its end by CANCELLED; none of them was begun.
    """
    return outcome.startswith(
        (f"{UNANSWERED}: ClientConnectorError", f"{UNANSWERED}: UNAVAILABLE", f"{UNANSWERED}: CANCELLED")
    )


async def test_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    """Routes, policies, batch limits and whole endpoints change, and every third file is invalid: all are answered."""
    async with upstreams(TORCH, TENSORFLOW) as (servers, seen):
        ts, tf = (server.endpoint() for server in servers)
        first = document(tmp_path, {"ts": ts, "tf": tf}, "ts")
        async with gateway_process(tmp_path, first) as gateway:
            ports = yaml.safe_load(gateway.file.read_text())["server"]
            calling = asyncio.create_task(
                crowd(CALLERS, 40, lambda caller: gateway.clients.ask("double", DOORS[caller % 2], LONG_MS))
            )
            readings = 0
            while not calling.done():
                number = readings + 1
                targets = (("ts",), ("tf", "ts"), ("gone",))[number % 3]
                changes = {"policy": ("round_robin", "fastest")[number % 2], "batching": {"max_size": 1 + number % 8}}
                # The same server, but another endpoint each time.
                endpoints = {"ts": {**ts, "slots": SLOTS + number % 2}, "tf": tf}
                changed = {**document(tmp_path, endpoints, *targets, **changes), "server": ports}
                part = tmp_path / "part"
                part.write_text(yaml.safe_dump(changed, sort_keys=False))
                part.replace(gateway.file)
                gateway.signal(signal.SIGHUP)
                async with asyncio.timeout(30):
                    while (await gateway.clients.metrics()).total("gateway_config_reloads_total") <= readings:
                        await asyncio.sleep(0.01)
                readings = (await gateway.clients.metrics()).total("gateway_config_reloads_total")
            await calling
            reloads = (await gateway.clients.metrics()).by("outcome", "gateway_config_reloads_total")
            print(f"\n{dict(reloads)}, {dict(gateway.clients.ended['double'])}")
            assert set(gateway.clients.ended["double"]) == {OK}
            assert gateway.clients.ended["double"].total() == CALLERS * 40
            assert max(seen.values()) == 1
            assert min(reloads["ok"], reloads["invalid"]) >= 1


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_reply_of_any_size_costs_the_gateway_little_memory(tmp_path: Path, way: Way) -> None:
    """It is cut at the cap: 1 GB over HTTP, with its length or without, and 64 MB in one gRPC message."""
    async with upstreams(way) as ((server,), _), AsyncExitStack() as stack:
        config = document(tmp_path, {"sick": server.endpoint()}, "sick")
        gateway = await stack.enter_async_context(gateway_process(tmp_path, config))
        for door in DOORS:
            assert await gateway.clients.ask("double", door, LONG_MS) == OK
        before = gateway.rss
        outcomes = []
        for reply in replies(way):
            server.fake.otherwise = Oversized(64 << 20)
            if reply is not None:
                server.falls_under(reply)
            outcomes.append(await gateway.clients.ask("double", "rest", LONG_MS))
        grown = gateway.rss - before
        await server.recovers()
        assert set(outcomes) == {Cause.UPSTREAM_BAD_REPLY.value}
        # Each of them may leave the cap's worth behind, and the allocator some pages.
        assert grown < 16 * BODY_BYTES, f"grew by {grown >> 20} MiB"


def replies(way: Way) -> list[Answer | None]:
    """Replies of 1 GB: of an announced length, and without one; over gRPC what the fake itself sends."""
    if way.transport == "grpc":
        return [None, None]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    size = 1 << 30
    return [Answer(head + b"Content-Length: %d\r\n\r\n" % size, size), Answer(head + b"\r\n", size)]
