"""Counts and traces upstream calls, each once, below everything that queues or retries."""

from __future__ import annotations

from time import perf_counter

from gateway.core.backend import Handler, Middleware
from gateway.core.clock import Clock
from gateway.core.context import CallContext
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.observer import Observer
from gateway.core.trace import Attempt


def attempt_metrics(observer: Observer, clock: Clock, *, endpoint: str, stack: str) -> Middleware:
    """Reports each call to `endpoint` with its cause and time, and adds the time to phase `upstream`.

    Where the call is traced, the server is sent what makes its own spans part of the trace.
    """

    def wrap(inner: Handler) -> Handler:
        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            model = request.model.name
            attempt: Attempt | None = None
            if context.trace is not None:
                attempt = context.trace.attempt(context.company, model=model, endpoint=endpoint, stack=stack)
                context.sent_along = attempt.headers
            begin = perf_counter()
            cause: Cause | None = None
            try:
                response = await inner(request, context)
            except BaseException as exc:
                cause = context.cause_of(exc, clock.now())
                raise
            finally:
                seconds = perf_counter() - begin
                context.timings.add("upstream", seconds)
                observer.attempt_finished(model=model, endpoint=endpoint, stack=stack, cause=cause, seconds=seconds)
                if attempt is not None:
                    attempt.finish(cause)
            return response

        return handle

    return wrap
