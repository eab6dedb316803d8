"""No request outlives its deadline."""

from __future__ import annotations

import asyncio

from gateway.core.backend import Handler, Middleware
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse


def deadline(clock: Clock) -> Middleware:
    """Raises DEADLINE at `context.deadline`; a request whose deadline has passed goes no further."""

    def wrap(inner: Handler) -> Handler:
        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            left = context.deadline - clock.now()
            if left <= 0:
                raise GatewayError(Cause.DEADLINE, "the deadline had passed before the request could be sent")
            limit = asyncio.timeout(left)
            try:
                async with limit:
                    return await inner(request, context)
            except TimeoutError as exc:
                if not limit.expired():
                    raise
                raise GatewayError(Cause.DEADLINE, f"no answer within the {left * 1e3:.0f} ms left") from exc

        return handle

    return wrap
