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
            attempt = _begun(context, model, endpoint, stack)
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


def attempt_traces(clock: Clock, *, endpoint: str, stack: str) -> Middleware:
    """The same for calls that are counted elsewhere: each is a part of its trace, where it has one, and no more."""

    def wrap(inner: Handler) -> Handler:
        async def handle(request: InferenceRequest, context: CallContext) -> InferenceResponse:
            attempt = _begun(context, request.model.name, endpoint, stack)
            if attempt is None:
                return await inner(request, context)
            cause: Cause | None = None
            try:
                response = await inner(request, context)
            except BaseException as exc:
                cause = context.cause_of(exc, clock.now())
                raise
            finally:
                attempt.finish(cause)
            return response

        return handle

    return wrap


def _begun(context: CallContext, model: str, endpoint: str, stack: str) -> Attempt | None:
    """The call's part of its trace, of which the server is told; None where it has no trace."""
    if context.trace is None:
        return None
    attempt = context.trace.attempt(context.company, model=model, endpoint=endpoint, stack=stack)
    context.sent_along = attempt.headers
    return attempt
