"""What one worker tells of itself."""

from __future__ import annotations

import pytest

from gateway.core.backend import Asked
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.fleet import opened
from gateway.plan import Configuration
from gateway.settings import Settings
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import PrometheusObserver
from gateway.view import FleetView
from tests.builders import FakeClock, context, contract, request


async def _lost(_request: InferenceRequest, _context: CallContext) -> InferenceResponse:
    raise GatewayError(Cause.UPSTREAM_LOST, "as told")


async def test_a_breaker_that_may_be_tried_is_not_shown_as_open() -> None:
    """Though nobody has tried it: a spare server's would be open for ever."""
    clock, registry = FakeClock(), Registry()
    model = {"contract": "unused", "targets": [{"endpoint": "a"}]}
    settings = Settings(endpoints={"a": {"stack": "noop"}}, models={"doubler": model})
    async with opened(Configuration(settings, {"doubler": contract()}), clock, PrometheusObserver(registry)) as fleet:
        view = FleetView(fleet, registry, clock)

        async def shown() -> float:
            name = 'gateway_breaker_state{endpoint="a",model="doubler"} '
            (line,) = [line for line in (await view.metrics()).decode().splitlines() if line.startswith(name)]
            return float(line.removeprefix(name))

        handler = fleet.members["a"].stack.around("doubler", lambda _: None, Asked(_lost)).handler
        assert await shown() == 0
        for _ in range(5):
            with pytest.raises(GatewayError):
                await handler(request(), context())
        assert await shown() == 2
        clock.advance(1.0)
        assert await shown() == 1
