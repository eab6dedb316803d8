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
            # As asyncio.timeout does it, at half its price.
            loop = asyncio.get_running_loop()
            task = asyncio.current_task(loop)
            assert task is not None  # noqa: S101 - a coroutine that runs has one
            before = task.cancelling()
            expired = False

            def expire() -> None:
                nonlocal expired
                expired = True
                task.cancel()

            timer = loop.call_later(left, expire)
            try:
                return await inner(request, context)
            except asyncio.CancelledError as exc:
                # Where somebody else cancelled too, theirs must go on.
                if expired and task.cancelling() <= before + 1:
                    raise GatewayError(Cause.DEADLINE, f"no answer within the {left * 1e3:.0f} ms left") from exc
                raise
            finally:
                timer.cancel()
                if expired:
                    task.uncancel()

        return handle

    return wrap
