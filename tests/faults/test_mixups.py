"""Answers belong to their requests: a million nonces through router and batcher while everything around them breaks."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml

from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.contract import Parity
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import NullObserver
from gateway.fleet import Fleet, opened
from gateway.plan import configuration_of
from gateway.reload import Reloader, Source
from gateway.settings import load
from tests.builders import FakeBackend, contract, request, tensor

pytestmark = pytest.mark.faults

REQUESTS = 1_000_000
CALLERS = 192
# One request in so many is left by its caller, and one upstream call in so many fails, by each cause.
LEFT = 97
FAILS = {Cause.UPSTREAM_REJECTED: 61, Cause.UPSTREAM_LOST: 997, Cause.UPSTREAM_UNREACHABLE: 211, Cause.OVERLOADED: 307}
RELOAD_EVERY = 5_000
ADDRESSES = {"rest": "http://127.0.0.1:1", "management": "http://127.0.0.1:1", "grpc": "127.0.0.1:1"}
# A server that goes on with calls that are cancelled, and one that does not, both twice.
ENDPOINTS = {"ts": "torchserve", "ts2": "torchserve", "tf": "tfserving", "tf2": "tfserving"}
POLICIES = ("round_robin", "least_request", "weighted", "fastest", "failover")
SLOTS, QUEUE = 2, 64


class Echo(FakeBackend):
    """Gives the nonces back after a few turns of the loop, in calls that overtake one another; sometimes it fails."""

    random = Random(11)
    asked_when_closed = 0

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """`y` is the request's own `x`, or an error."""
        Echo.asked_when_closed += self.closed
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        Echo.asked_when_closed += self.closed
        for cause, one_in in FAILS.items():
            if not self.random.randrange(one_in):
                raise GatewayError(cause, "as told")
        return InferenceResponse(request.model.name, 1, (tensor("y", request.inputs[0].array),))


@dataclass
class Seen(NullObserver):
    """The most slots and places that were ever taken at an endpoint, batches by their size, readings of the file."""

    most: dict[str, tuple[int, int]] = field(default_factory=dict)
    batches: Counter[int] = field(default_factory=Counter)
    reloads: Counter[str] = field(default_factory=Counter)

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        """Keeps the largest of each."""
        before = self.most.get(endpoint, (0, 0))
        self.most[endpoint] = max(before[0], busy), max(before[1], queued)

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        """Counts calls by their requests."""
        self.batches[requests] += 1

    def config_reloaded(self, *, outcome: str) -> None:
        """Counts it."""
        self.reloads[outcome] += 1


def write(file: Path, number: int) -> None:
    """The file's edition of this number: another policy, order, batch limit, one endpoint described anew, another gone;
    every seventh is not usable.
    """
    names = list(ENDPOINTS)[: 3 + number % 2]
    order = names[number % 3 :] + names[: number % 3]
    endpoints = {name: {"stack": ENDPOINTS[name], **ADDRESSES, "slots": SLOTS, "queue": QUEUE} for name in names}
    # The same server, but another endpoint, which is connected anew.
    endpoints["ts2"]["queue"] = QUEUE - number % 5
    model = {
        "contract": str(file.parent / "contract.json"),
        "policy": POLICIES[number % 5] if number % 7 != 6 else "unheard of",
        "cross_stack": True,
        "targets": [{"endpoint": name} for name in order],
        "batching": {"max_size": 4 + number % 9},
    }
    file.write_text(yaml.safe_dump({"endpoints": endpoints, "models": {"doubler": model}}))


class Storm:
    """Callers with nonces of their own, some of whom leave; a file that changes under them."""

    def __init__(self, fleet: Fleet, file: Path, observer: Seen) -> None:
        self._fleet = fleet
        self._file = file
        self._reloader = Reloader(fleet, Source(lambda: load(file), file), observer)
        self._clock = SystemClock()
        self._random = Random(7)
        # An edition is read before the next one is written: two readings of one would connect nothing anew.
        self._editing = asyncio.Lock()
        self.asked = 0
        self.ended: Counter[str] = Counter()

    async def call(self, caller: int) -> None:
        """One caller: a request after the other, until all have been sent."""
        while self.asked < REQUESTS:
            self.asked += 1
            number = self.asked
            if not number % RELOAD_EVERY:
                # Whoever comes while it is read, and while its endpoints are connected, goes by the one before.
                async with self._editing:
                    write(self._file, number // RELOAD_EVERY)
                    await self._reloader.reload("file")
            rows = 1 + number % 3
            nonces = [[float(number), float(row)] for row in range(rows)]
            context = CallContext("r", "predict", self._clock.now() + 60, caller=f"c{caller % 7}")
            task = asyncio.ensure_future(self._fleet.router.dispatch(request(nonces), context))
            if not self._random.randrange(LEFT):
                for _ in range(self._random.randrange(5)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                response = await task
            except asyncio.CancelledError:
                self.ended["left"] += 1
            except GatewayError as exc:
                self.ended[exc.cause.value] += 1
            else:
                assert np.array_equal(response.outputs[0].array, np.asarray(nonces, np.float32))
                self.ended["answered"] += 1


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """Nothing of the log: of two hundred readings it has a line each."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet_log")
async def test_no_answer_ever_reaches_another_request(tmp_path: Path) -> None:
    """A million requests: each ends once, with its own nonces or an error; slots, queues and tasks end at zero.

    float32 holds every whole number up to 2^24, so that a million nonces differ. The file is read, validated and
    applied as the running gateway does it, with all that it does to endpoints; only the servers are the test's.
    """
    observer, servers = Seen(), list[Echo]()
    file = tmp_path / "gateway.yaml"
    (tmp_path / "contract.json").write_text(contract(batch_cap=16, parity=Parity(True, 0.0, 0.0)).to_json())
    write(file, 0)

    def connect(**_: object) -> Echo:
        servers.append(Echo())
        return servers[-1]

    first = await asyncio.to_thread(lambda: configuration_of(load(file)))
    async with opened(first, SystemClock(), observer, connect) as fleet:
        fleet.start()
        await fleet.settle()
        storm = Storm(fleet, file, observer)
        await asyncio.gather(*(storm.call(caller) for caller in range(CALLERS)))
        for member in fleet.members.values():
            await member.stack.batcher.quiet()
            assert (member.stack.batcher.busy, member.stack.batcher.queued) == (0, 0)
    print(f"\nended: {dict(storm.ended)}\nbatches by requests: {dict(sorted(observer.batches.items()))}")
    print(f"readings of the file: {dict(observer.reloads)}, servers connected: {len(servers)}")
    assert sum(storm.ended.values()) == storm.asked == REQUESTS
    assert storm.ended["answered"] > 0.8 * REQUESTS
    assert sum(count for size, count in observer.batches.items() if size > 1) > 10_000
    assert min(observer.reloads.values()) > 10
    # Each edition connects one endpoint anew at least; what was described otherwise is closed, and asked no more.
    assert len(servers) > observer.reloads["ok"]
    assert all(server.closed for server in servers)
    assert Echo.asked_when_closed == 0
    for name in ENDPOINTS:
        busy, queued = observer.most[name]
        assert busy <= SLOTS
        assert queued <= QUEUE
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
