"""The contract of `gateway.core.backend.Backend`: one table of cases over every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.core.tensor import DATATYPES
from tests.contract.worlds import MAX_REPLY_BYTES, MODELS, WORLDS, World, deadline_in, request, sample
from tests.fakes.fake_torchserve import FakeTorchServe
from tests.fakes.script import Behaviour, Fail, Garbage, Hang, Lose, Oversized, QueueFull, Refuse

Check = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One behaviour; `wire` where it takes a model server, which the null backend has not."""

    check: Check
    wire: bool = True

    def __str__(self) -> str:
        return self.check.__name__


async def failure(answer: Awaitable[InferenceResponse]) -> GatewayError:
    """The error that a call ends with."""
    with pytest.raises(GatewayError) as caught:
        await answer
    return caught.value


async def scripted(world: World, behaviour: Behaviour, seconds: float = 10.0) -> GatewayError:
    """The error of a call that the server treats so; the same endpoint answers the next call."""
    await world.infer(request())
    world.upstream.then(behaviour)
    error = await failure(world.infer(request(), seconds))
    assert world.upstream.calls["predict"] == 2, "a failed call is never sent again"
    await recovers(world)
    return error


async def recovers(world: World) -> None:
    """Returns when the endpoint answers again; fails after 5 s.

    A gRPC channel may notice a broken connection only with its next call, which is then lost too.
    """
    async with asyncio.timeout(5):
        while True:
            try:
                assert (await world.infer(request())).version == 2
            except GatewayError as exc:
                if exc.cause not in (Cause.UPSTREAM_LOST, Cause.UPSTREAM_UNREACHABLE):
                    raise
            else:
                return


async def infers_fp32(world: World) -> None:
    """All outputs come back by name, with the model, the version that answered and the client's id."""
    response = await world.infer(request())
    outputs = {tensor.name: tensor for tensor in response.outputs}
    x = sample("FP32").array
    expected = {"y": x * 2, "sum": x.sum(axis=1)} if world.fake else {"y": x * 0, "sum": x.sum(axis=1) * 0}
    assert (response.model, response.version, response.id) == ("double", 2, "client-id")
    assert set(outputs) == {"y", "sum"}
    for name, array in expected.items():
        assert outputs[name].datatype == "FP32"
        assert outputs[name].array.dtype == np.float32
        np.testing.assert_array_equal(outputs[name].array, array)


async def infers_every_datatype(world: World) -> None:
    """Each datatype goes there and back unchanged, or is refused as UNSUPPORTED_DATATYPE before it is sent."""
    for datatype in sorted(DATATYPES):
        asked = request(f"echo_{datatype.lower()}", datatype)
        if datatype in world.unsupported:
            assert (await failure(world.infer(asked))).cause is Cause.UNSUPPORTED_DATATYPE, datatype
            continue
        (output,) = (await world.infer(asked)).outputs
        x = sample(datatype).array
        assert (output.name, output.datatype, output.shape) == ("y", datatype, (3, 2))
        assert output.array.dtype == x.dtype
        if world.fake:
            assert output.array.tolist() == x.tolist(), datatype


async def infers_the_wanted_outputs(world: World) -> None:
    """Outputs that were asked for by name are there; at most they, where the protocol can say so."""
    response = await world.infer(replace(request(), wanted=("sum",)))
    assert "sum" in {tensor.name for tensor in response.outputs}


async def infers_a_named_version(world: World) -> None:
    """A version that exists answers when it is named."""
    assert (await world.infer(request(version=2))).version == 2


async def unknown_model(world: World) -> None:
    """An unknown model is MODEL_NOT_FOUND, for inference and for its state."""
    assert (await failure(world.infer(request("nope")))).cause is Cause.MODEL_NOT_FOUND
    with pytest.raises(GatewayError) as caught:
        await world.backend.model_state("nope")
    assert caught.value.cause is Cause.MODEL_NOT_FOUND


async def unknown_version(world: World) -> None:
    """A version that does not exist is VERSION_NOT_FOUND, and the others go on answering."""
    assert (await failure(world.infer(request(version=99)))).cause is Cause.VERSION_NOT_FOUND
    assert (await world.infer(request())).version == 2


async def expired_deadline(world: World) -> None:
    """A call whose deadline has passed is DEADLINE, and nothing is sent."""
    assert (await failure(world.infer(request(), 0.0))).cause is Cause.DEADLINE
    if world.fake:
        assert not world.upstream.calls


async def names_the_server(world: World) -> None:
    """The program that answers is named with its version."""
    assert await world.backend.server() == world.server


async def tells_model_state(world: World) -> None:
    """A loaded model's versions are listed; tensors too, where the server knows them."""
    state = await world.backend.model_state("double")
    assert state.versions == (2,)
    assert state.ready
    assert (state.metadata is not None) == world.metadata
    if state.metadata is not None:
        assert state.metadata.versions == (2,)
        assert [(spec.name, spec.datatype, spec.shape) for spec in state.metadata.inputs] == [("x", "FP32", (-1, 2))]
        outputs = {(spec.name, spec.datatype, spec.shape) for spec in state.metadata.outputs}
        assert outputs == {("y", "FP32", (-1, 2)), ("sum", "FP32", (-1,))}


async def lists_its_models(world: World) -> None:
    """All models by name, or None where the protocol has no list of them; one that came or went shows at once."""
    if not world.lists:
        assert await world.backend.models() is None
        return
    names = await world.backend.models()
    assert names is not None
    assert sorted(names) == sorted(model.name for model in MODELS)
    if world.fake:
        world.fake.models["new"] = world.fake.models.pop("double")
        names = await world.backend.models()
        assert names is not None
        assert "new" in names
        assert "double" not in names


async def model_refuses(world: World) -> None:
    """What the model itself refuses is UPSTREAM_REJECTED, with its text, capped."""
    error = await scripted(world, Refuse("shapes differ " + "x" * 2000))
    assert error.cause is Cause.UPSTREAM_REJECTED
    assert error.detail.startswith("shapes differ")
    assert len(error.detail) <= 512


async def model_fails(world: World) -> None:
    """A failure of the model's code is UPSTREAM_FAILED."""
    assert (await scripted(world, Fail())).cause is Cause.UPSTREAM_FAILED


async def queue_full(world: World) -> None:
    """A full queue of the server is OVERLOADED."""
    assert (await scripted(world, QueueFull())).cause is Cause.OVERLOADED


async def unreachable(world: World) -> None:
    """A server that takes no connection is UPSTREAM_UNREACHABLE, for inference and for its name."""
    await world.infer(request())
    await world.upstream.close()
    async with asyncio.timeout(5):
        error = await failure(world.infer(request()))
        while error.cause is Cause.UPSTREAM_LOST:
            # The call went out on the connection that was just closed, which the channel has yet to notice.
            error = await failure(world.infer(request()))
    assert error.cause is Cause.UPSTREAM_UNREACHABLE
    with pytest.raises(GatewayError) as caught:
        await world.backend.server()
    assert caught.value.cause is Cause.UPSTREAM_UNREACHABLE


async def lost_after_send(world: World) -> None:
    """A connection that breaks while the answer is awaited is UPSTREAM_LOST, with the original error kept."""
    error = await scripted(world, Lose())
    assert error.cause is Cause.UPSTREAM_LOST
    assert error.__cause__ is not None


async def garbage_reply(world: World) -> None:
    """An answer that does not decode is UPSTREAM_BAD_REPLY."""
    assert (await scripted(world, Garbage())).cause is Cause.UPSTREAM_BAD_REPLY
    world.upstream.then(Garbage(b""))
    assert (await failure(world.infer(request()))).cause is Cause.UPSTREAM_BAD_REPLY


async def oversized_reply(world: World) -> None:
    """An answer over the cap is UPSTREAM_BAD_REPLY, and is not read to its end."""
    assert (await scripted(world, Oversized(100 * MAX_REPLY_BYTES))).cause is Cause.UPSTREAM_BAD_REPLY


async def slow_reply(world: World) -> None:
    """An answer that does not come in time is DEADLINE, at the deadline, and the server's work is given up."""
    loop = asyncio.get_running_loop()
    await world.infer(request())
    world.upstream.then(Hang())
    begin = loop.time()
    assert (await failure(world.infer(request(), 0.15))).cause is Cause.DEADLINE
    assert 0.1 < loop.time() - begin < 1.0
    await world.upstream.in_flight.reaches(0)


async def cancel_frees_the_connection(world: World) -> None:
    """Cancelling the caller cancels the upstream call; a pooled connection is closed, a channel stays usable."""
    await world.infer(request())
    world.upstream.then(Hang(), Hang())
    calls = [asyncio.create_task(world.infer(request())) for _ in range(2)]
    await world.upstream.in_flight.reaches(2)
    for call in calls:
        call.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True))
    await world.upstream.in_flight.reaches(0)
    if world.pooled:
        await world.wire.open.reaches(0)
    assert (await world.infer(request())).version == 2


async def close_fails_calls_in_flight(world: World) -> None:
    """Closing the backend ends calls in flight with UPSTREAM_LOST, and later ones with UPSTREAM_UNREACHABLE."""
    await world.infer(request())
    world.upstream.then(Hang())
    call = asyncio.create_task(world.infer(request()))
    await world.upstream.in_flight.reaches(1)
    await world.backend.close()
    assert (await failure(call)).cause is Cause.UPSTREAM_LOST
    assert (await failure(world.infer(request()))).cause is Cause.UPSTREAM_UNREACHABLE


async def concurrent_calls_keep_apart(world: World) -> None:
    """Many calls at once each get their own answer."""

    def asked(row: int) -> InferenceRequest:
        tensor = replace(sample("FP32"), array=np.full((1, 2), row, np.float32))
        return replace(request(), inputs=(tensor,), id=str(row))

    responses = await asyncio.gather(*(world.infer(asked(row)) for row in range(32)))
    for row, response in enumerate(responses):
        (y,) = (tensor.array for tensor in response.outputs if tensor.name == "y")
        assert (response.id, y.tolist()) == (str(row), [[2 * row, 2 * row]])


async def large_request(world: World) -> None:
    """A request of several MiB is sent whole, beyond the default limits of gRPC and of one HTTP write."""
    tensor = replace(sample("FP32"), array=np.ones((700_000, 2), np.float32))
    (total,) = (await world.infer(replace(request("count"), inputs=(tensor,)), 60.0)).outputs
    assert total.array.tolist() == [1_400_000]


async def no_worker(world: World) -> None:
    """A model without workers, which only TorchServe can have, is NOT_READY and not OVERLOADED."""
    fake = world.upstream
    if isinstance(fake, FakeTorchServe):
        fake.workers = []
        fake.then(QueueFull())
        assert (await failure(world.backend.infer(request(), deadline_in(5)))).cause is Cause.NOT_READY
        assert (await world.backend.model_state("double")).versions == ()


CASES = (
    Case(infers_fp32, wire=False),
    Case(infers_every_datatype, wire=False),
    Case(infers_the_wanted_outputs, wire=False),
    Case(infers_a_named_version, wire=False),
    Case(unknown_model, wire=False),
    Case(unknown_version, wire=False),
    Case(expired_deadline, wire=False),
    Case(names_the_server, wire=False),
    Case(tells_model_state, wire=False),
    Case(lists_its_models, wire=False),
    Case(model_refuses),
    Case(model_fails),
    Case(queue_full),
    Case(no_worker),
    Case(unreachable),
    Case(lost_after_send),
    Case(garbage_reply),
    Case(oversized_reply),
    Case(slow_reply),
    Case(cancel_frees_the_connection),
    Case(close_fails_calls_in_flight),
    Case(concurrent_calls_keep_apart),
    Case(large_request),
)
TABLE = [(name, case) for name in WORLDS for case in CASES if name != "null" or not case.wire]


@pytest.mark.parametrize(("backend", "case"), TABLE, ids=str)
async def test_backends_keep_the_contract(backend: str, case: Case) -> None:
    """Every backend behaves as the case's docstring says."""
    async with WORLDS[backend]() as world:
        await case.check(world)
