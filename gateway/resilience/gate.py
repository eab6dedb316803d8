"""The circuit breaker around an endpoint's stack: the gate above the batcher, the record below it."""

from __future__ import annotations

import asyncio

from gateway.core.backend import Handler, Middleware
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError, RefusedError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.resilience.circuit_breaker import CircuitBreaker

# A call that had at least this long and did not answer counts as failed, whatever deadline it had.
PATIENCE_S = 0.5


def shut(breaker: CircuitBreaker, *, endpoint: str, model: str) -> RefusedError:
    """What a request is refused with while `breaker` does not let it through."""
    return RefusedError(
        Cause.NOT_READY,
        f"endpoint '{endpoint}' failed too often for model '{model}' and is left alone "
        f"for {breaker.retry_after_s:.1f} s",
        retry_after_s=max(1.0, breaker.retry_after_s),
    )


def gate(breaker: CircuitBreaker, *, endpoint: str) -> Middleware:
    """Refuses with NOT_READY while `breaker` does, before anything queues. Counted per request."""

    def wrap(inner: Handler) -> Handler:
        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            admittance = breaker.enter()
            if admittance is None:
                raise shut(breaker, endpoint=endpoint, model=request.model.name)
            try:
                return await inner(request, context)
            finally:
                breaker.leave(admittance)

        return handle

    return wrap


def record(breaker: CircuitBreaker, clock: Clock) -> Middleware:
    """Tells `breaker` how each upstream call ended: once, however many requests it carried.

    A call that was cancelled says nothing of the server, unless it was for a deadline that the server had long enough:
    whoever waits for the call may notice that first.
    """

    def wrap(inner: Handler) -> Handler:
        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            begin = clock.now()
            try:
                response = await inner(request, context)
            except (GatewayError, asyncio.CancelledError) as exc:
                now = clock.now()
                tell(breaker, context.cause_of(exc, now), now - begin)
                raise
            breaker.record(None)
            return response

        return handle

    return wrap


def tell(breaker: CircuitBreaker, cause: Cause, seconds: float) -> None:
    """Records that a call failed after `seconds`, where the server may be to blame."""
    # Of a client's own short deadline it is not.
    if cause is not Cause.CLIENT_GONE and (cause is not Cause.DEADLINE or seconds >= PATIENCE_S):
        breaker.record(cause)
