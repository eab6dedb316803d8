"""When a free slot is taken: by a burst, and by the batch behind another one."""

from __future__ import annotations

import asyncio

from gateway.batching.fair_queue import BatchLimits
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from tests.builders import request
from tests.unit.gateway.batching.test_batcher import Bench, answer_of, cause_of, settled


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


def burst(bench: Bench, *values: float, seconds: float = 60.0) -> list[asyncio.Task[InferenceResponse]]:
    """Requests that come in one turn of the event loop."""

    async def send(value: float) -> InferenceResponse:
        context = CallContext(f"r{value:g}", "predict", bench.clock.now() + seconds, caller="a")
        return await bench.handler(request([[value, -value]]), context)

    return [asyncio.create_task(send(value)) for value in values]


async def test_a_burst_travels_together_where_a_server_goes_on() -> None:
    """The first of it has no call to itself."""
    bench = Bench(slots=2, cancels=False)
    tasks = burst(bench, 1, 2, 3)
    await settled()
    assert bench.server.rows == [[[1, -1], [2, -2], [3, -3]]]
    await bench.server.let_go()
    assert [answer_of(task) for task in tasks] == [2, 4, 6]
    assert bench.at_rest


async def test_a_burst_has_no_more_places_than_there_are() -> None:
    """One call runs and one request waits, whatever comes at once."""
    bench = Bench(slots=1, queue=1, cancels=False)
    tasks = burst(bench, 1, 2, 3, 4)
    await settled()
    assert [cause_of(task) for task in tasks[2:]] == [Cause.OVERLOADED] * 2
    await bench.server.let_go(2)
    assert [answer_of(task) for task in tasks[:2]] == [2, 4]
    assert bench.at_rest


async def test_a_slot_that_a_burst_is_about_to_take_is_not_idle() -> None:
    """What was sent in the same turn of the event loop, and asked after it, would wait behind the burst."""
    bench = Bench(slots=1, cancels=False)
    assert bench.batcher.idle
    (task,) = burst(bench, 1)
    await asyncio.sleep(0)
    assert (bench.batcher.busy, bench.batcher.queued, bench.batcher.idle) == (0, 1, False)
    await settled()
    await bench.server.let_go()
    assert answer_of(task) == 2
    assert bench.batcher.idle


async def learned(bench: Bench) -> None:
    """A call has taken a second, and the next one will not take less."""
    task = await bench.send(0)
    bench.clock.advance(1.0)
    await bench.server.let_go()
    assert answer_of(task) == 0


async def test_the_rest_of_a_burst_is_not_sent_without_the_time_that_a_call_takes() -> None:
    """It had found a free slot when it came, but then waited for another call's end like all others."""
    bench = Bench(slots=1, cancels=False, limits=BatchLimits(1, 10_000))
    await learned(bench)
    first, second = burst(bench, 1, 2, seconds=1.5)
    await settled()
    bench.clock.advance(0.9)
    await bench.server.let_go()
    assert (answer_of(first), cause_of(second)) == (2, Cause.DEADLINE)
    assert bench.server.rows == [[[0, 0]], [[1, -1]]]
    assert bench.at_rest


async def test_a_burst_that_finds_a_slot_is_sent_whatever_the_last_call_took() -> None:
    """A refusal for a wrong guess would never correct it."""
    bench = Bench(slots=1, cancels=False)
    await learned(bench)
    tasks = burst(bench, 1, 2, seconds=0.5)
    await settled()
    await bench.server.let_go()
    assert [answer_of(task) for task in tasks] == [2, 4]


async def test_a_burst_is_not_taken_apart_without_the_time_that_a_call_takes() -> None:
    """Its members' second calls begin when the first has failed, not in the turn that brought them."""
    bench = Bench(slots=1, cancels=False)
    await learned(bench)

    def refuse(_: InferenceRequest) -> InferenceResponse:
        raise GatewayError(Cause.UPSTREAM_REJECTED, "as told")

    bench.server.answer = refuse
    tasks = burst(bench, 1, 2, seconds=1.5)
    await settled()
    bench.clock.advance(0.9)
    await bench.server.let_go()
    assert [cause_of(task) for task in tasks] == [Cause.DEADLINE] * 2
    assert len(bench.server.calls) == 2
    assert bench.at_rest
