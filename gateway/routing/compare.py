"""Policy `compare`: every target is asked, the primary's answer is the answer, and the others are told beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.core.backend import Handler
from gateway.core.clock import Clock
from gateway.core.context import CallContext, Timings
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Compared, InferenceRequest, InferenceResponse
from gateway.routing.difference import difference
from gateway.routing.table import Route

# The others get this share of the time left, so that a slow one costs its own answer and not the primary's.
OTHERS_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Way:
    """How one target is asked."""

    endpoint: str
    stack: str
    handler: Handler


async def compared(
    route: Route, request: InferenceRequest, context: CallContext, ways: Sequence[Way], clock: Clock
) -> InferenceResponse:
    """The answer of the first of `ways`, with what every one of them gave; raises what went wrong with the first."""
    limit = OTHERS_SHARE * (context.deadline - clock.now())
    others = [
        asyncio.create_task(_timed(way, request, _own(context), clock, limit), name="compare") for way in ways[1:]
    ]
    try:
        begin = clock.now()
        primary = await ways[0].handler(request, context)
        seconds = clock.now() - begin
        answers = await asyncio.gather(*others)
    finally:
        for task in others:
            task.cancel()
    told = [Compared(ways[0].endpoint, ways[0].stack, seconds, primary, served_by=primary.served_by)]
    contract = route.contract(request.model.signature_name)
    for answer in answers:
        if answer.response is None:
            told.append(answer)
            continue
        found = difference(contract, answer.response.outputs, primary.outputs)
        told.append(replace(answer, max_abs=found.max_abs, max_scaled=found.max_scaled, agrees=found.agrees))
    return replace(primary, comparison=tuple(told))


async def _timed(way: Way, request: InferenceRequest, context: CallContext, clock: Clock, limit: float) -> Compared:
    begin = clock.now()
    try:
        async with asyncio.timeout(limit):
            response = await way.handler(request, context)
    except GatewayError as exc:
        return Compared(way.endpoint, way.stack, clock.now() - begin, None, exc.cause, exc.detail, context.served_by)
    except TimeoutError:
        text = "no answer within the time that a comparison leaves"
        return Compared(way.endpoint, way.stack, clock.now() - begin, None, Cause.DEADLINE, text, context.served_by)
    return Compared(way.endpoint, way.stack, clock.now() - begin, response, served_by=response.served_by)


def _own(context: CallContext) -> CallContext:
    return replace(context, timings=Timings(), served_by=None)
