"""Answers belong to their requests: a million nonces through router and batcher while everything around them breaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest

from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import NullObserver
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Batching, Route, RouteTable, Traffic
from gateway.stacks import EndpointStack
from tests.builders import FakeBackend, contract, request, tensor

pytestmark = pytest.mark.faults

REQUESTS = 1_000_000
CALLERS = 192
# One request in so many is left by its caller, and one upstream call in so many fails, by each cause.
LEFT = 97
FAILS = {Cause.UPSTREAM_REJECTED: 61, Cause.UPSTREAM_LOST: 997, Cause.UPSTREAM_UNREACHABLE: 211, Cause.OVERLOADED: 307}
RELOAD_EVERY = 5_000
ENDPOINTS = {"ts": False, "ts2": False, "tf": True}


class Echo(FakeBackend):
    """Gives the nonces back after a few turns of the loop, in calls that overtake one another; sometimes it fails."""

    random = Random(11)

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """`y` is the request's own `x`, or an error."""
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        for cause, one_in in FAILS.items():
            if not self.random.randrange(one_in):
                raise GatewayError(cause, "as told")
        return InferenceResponse(request.model.name, 1, (tensor("y", request.inputs[0].array),))


@dataclass
class Slots(NullObserver):
    """The most slots and places that were ever taken at an endpoint."""

    most: dict[str, tuple[int, int]] = field(default_factory=dict)
    batches: Counter[int] = field(default_factory=Counter)

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        """Keeps the largest of each."""
        before = self.most.get(endpoint, (0, 0))
        self.most[endpoint] = max(before[0], busy), max(before[1], queued)

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        """Counts calls by their requests."""
        self.batches[requests] += 1


class Storm:
    """Callers with nonces of their own, some of whom leave; routes that are replaced under them."""

    def __init__(self) -> None:
        self.observer = Slots()
        self.clock = SystemClock()
        self.random = Random(7)
        self.stacks = {
            name: EndpointStack(name, "s", slots=2, queue=64, clock=self.clock, observer=self.observer, cancels=cancels)
            for name, cancels in ENDPOINTS.items()
        }
        self.endpoints = {name: Endpoint(name, "s", Echo(), around) for name, around in self.stacks.items()}
        self.health = HealthMonitor(self.endpoints.values(), observer=self.observer)
        self.router = Router(RouteTable({}), self.endpoints, self.health, random=Random(5))
        self.asked = 0
        self.ended: Counter[str] = Counter()
        self.reload(0)

    def reload(self, number: int) -> None:
        """Another policy, another order, other limits."""
        names = list(ENDPOINTS)
        order = names[number % 3 :] + names[: number % 3]
        policy = ("round_robin", "least_request", "weighted", "fastest", "failover")[number % 5]
        traffic = Traffic(policy=policy, batching=Batching(max_rows=4 + number % 9))
        route = Route.of(contract(batch_cap=16), tuple(Target(name, "doubler") for name in order), traffic=traffic)
        self.router.replace(RouteTable({"doubler": route}))

    async def call(self, caller: int) -> None:
        """One caller: a request after the other, until all have been sent."""
        while self.asked < REQUESTS:
            self.asked += 1
            if not self.asked % RELOAD_EVERY:
                self.reload(self.asked // RELOAD_EVERY)
            rows = 1 + self.asked % 3
            nonces = [[float(self.asked), float(row)] for row in range(rows)]
            context = CallContext("r", "predict", self.clock.now() + 60, caller=f"c{caller % 7}")
            task = asyncio.ensure_future(self.router.dispatch(request(nonces), context))
            if not self.random.randrange(LEFT):
                for _ in range(self.random.randrange(5)):
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


async def test_no_answer_ever_reaches_another_request() -> None:
    """A million requests: each ends once, with its own nonces or an error; slots, queues and tasks end at zero.

    float32 holds every whole number up to 2^24, so that a million nonces differ.
    """
    storm = Storm()
    for endpoint in storm.endpoints.values():
        await storm.health.check(endpoint)
    await asyncio.gather(*(storm.call(caller) for caller in range(CALLERS)))
    for around in storm.stacks.values():
        await around.close()
        assert (around.batcher.busy, around.batcher.queued) == (0, 0)
    print(f"\nended: {dict(storm.ended)}\nbatches by requests: {dict(sorted(storm.observer.batches.items()))}")
    assert sum(storm.ended.values()) == storm.asked == REQUESTS
    assert storm.ended["answered"] > 0.8 * REQUESTS
    assert sum(count for size, count in storm.observer.batches.items() if size > 1) > 10_000
    for name in ENDPOINTS:
        busy, queued = storm.observer.most[name]
        assert busy <= 2
        assert queued <= 64
