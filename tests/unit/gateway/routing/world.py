"""A router over fake model servers, with the traffic rules of a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import NullObserver
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Route, RouteTable, Traffic
from gateway.stacks import EndpointStack
from tests.builders import FakeBackend, FakeClock, context, contract, request

STACKS = {"ts": "torchserve", "ts2": "torchserve", "tf": "tfserving", "tf2": "tfserving"}
ALL = tuple(STACKS)
Answer = Callable[[InferenceRequest], InferenceResponse]


@dataclass
class Counts(NullObserver):
    retries: list[str] = field(default_factory=list)
    mirrored: list[str] = field(default_factory=list)
    breakers: list[tuple[str, str]] = field(default_factory=list)

    def retried(self, *, model: str, outcome: str) -> None:
        self.retries.append(outcome)

    def mirror_finished(
        self, *, model: str, endpoint: str, outcome: str, seconds: float | None, difference: float | None
    ) -> None:
        self.mirrored.append(outcome)

    def breaker_changed(self, *, endpoint: str, model: str, state: str) -> None:
        self.breakers.append((endpoint, state))

    def breaker_gone(self, *, endpoint: str, model: str) -> None:
        self.breakers.append((endpoint, "gone"))


def failing(cause: Cause) -> Answer:
    def fail(_: InferenceRequest) -> InferenceResponse:
        raise GatewayError(cause, "as told")

    return fail


class World:
    """Model `doubler` on four endpoints of two stacks, with the traffic rules of a test."""

    def __init__(self, *endpoints: str, slots: int = 4, **traffic: Any) -> None:
        self.clock = FakeClock()
        self.counts = Counts()
        self.backends = {name: FakeBackend(name=f"{name} 1.0") for name in STACKS}
        self.endpoints = {
            name: Endpoint(
                name,
                STACKS[name],
                backend,
                EndpointStack(name, STACKS[name], slots=slots, queue=8, clock=self.clock, observer=self.counts),
            )
            for name, backend in self.backends.items()
        }
        self.health = HealthMonitor(self.endpoints.values(), observer=self.counts)
        self.router = Router(
            RouteTable({}), self.endpoints, self.health, clock=self.clock, observer=self.counts, random=Random(7)
        )
        self.route(tuple(Target(name, "doubler") for name in endpoints or ALL), **traffic)

    def route(self, targets: tuple[Target, ...], **traffic: Any) -> None:
        route = Route.of(contract(), targets, traffic=Traffic(**traffic))
        self.router.replace(RouteTable({"doubler": route}))

    async def verified(self) -> World:
        for endpoint in self.endpoints.values():
            await self.health.check(endpoint)
        return self

    async def ask(self, asked: InferenceRequest | None = None, call: CallContext | None = None) -> str:
        """The endpoint that answered."""
        response = await self.router.dispatch(asked or request(), call or context())
        assert response.served_by is not None
        return response.served_by.endpoint

    async def refusal(self, asked: InferenceRequest | None = None) -> Cause:
        with pytest.raises(GatewayError) as caught:
            await self.router.dispatch(asked or request(), context())
        return caught.value.cause

    @property
    def sent(self) -> dict[str, int]:
        return {name: len(backend.requests) for name, backend in self.backends.items() if backend.requests}
