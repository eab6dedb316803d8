"""When a batch's slot goes to the next one."""

from __future__ import annotations

import asyncio

from gateway.batching.fair_queue import BatchLimits
from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse
from tests.unit.gateway.batching.test_batcher import Bench, settled


async def test_the_next_batch_is_sent_before_members_go_on() -> None:
    """A server need not wait until each of them has written its answer."""
    bench = Bench(limits=BatchLimits(2, 10_000))
    sent: list[int] = []

    async def handler(request: InferenceRequest, context: CallContext) -> InferenceResponse:
        response = await bench.handler(request, context)
        sent.append(len(bench.server.calls))
        return response

    tasks = [await bench.send(value, handler=handler) for value in (1.0, 2.0, 3.0, 4.0)]
    await bench.server.let_go(2)
    assert [len(rows) for rows in bench.server.rows] == [1, 2, 1]
    assert sent == [1, 3, 3]
    await bench.server.let_go()
    await asyncio.gather(*tasks)
    await settled()
    assert bench.at_rest
