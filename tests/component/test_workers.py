"""A gateway of two workers, as processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from gateway._generated import oip_pb2
from tests.component.workers_world import World, loaded, running


def counted(page: str) -> float:
    """The requests of clients that a page of metrics has."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "gateway_request_duration_seconds_count"
    )


async def infer(world: World) -> bytes:
    """One request over gRPC, on a connection of its own."""
    request = oip_pb2.ModelInferRequest(model_name="doubler")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(np.zeros(2, "<f4").tobytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(world.grpc, options=options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return await call(request.SerializeToString(), timeout=10)


async def test_two_workers_are_one_gateway(tmp_path: Path) -> None:
    """Both answer at both ports; one page of metrics counts each request once; a reload reaches both, or none; an end
    by SIGTERM under load loses no request that was taken.
    """
    async with running(tmp_path) as world:
        async with asyncio.timeout(10):
            # Each worker hears of the other only just after both have opened.
            while await world.ask("/v2/health/ready", admin=False) != {"ready": True}:
                await asyncio.sleep(0.01)
        for _ in range(40):
            assert await world.predict() == (200, "one")
            await infer(world)
        await world.until(lambda: sum(world.answered().values()) == 80)
        by_protocol = {(line["worker"], line["protocol"]) for line in world.said("request")}
        assert by_protocol == {(worker, protocol) for worker in (1, 2) for protocol in ("predict", "oip-grpc")}
        assert counted(await world.ask("/metrics", admin=False)) == counted(await world.ask("/metrics")) == 80

        world.write(targets=[{"endpoint": "two"}])
        assert (await world.ask("/reload", "POST"))["last"]["outcome"] == "ok"
        assert {await world.predict() for _ in range(20)} == {(200, "two")}
        world.process.send_signal(signal.SIGHUP)
        await world.until(lambda: bool(world.said("the configuration was reloaded (signal)")))
        world.write(targets=[{"endpoint": "three"}])
        assert "unknown endpoint 'three'" in (await world.ask("/reload", "POST"))["detail"]
        assert {await world.predict() for _ in range(20)} == {(200, "two")}
        target = (await world.ask("/routes"))["routes"]["doubler"]["targets"][0]
        assert (target["endpoint"], target["slots"]["all"], list(target["workers"])) == ("two", 64, ["1", "2"])

        async with loaded(world, 16) as load:
            world.process.terminate()
            assert await world.process.wait() == 0
        assert set(load.outcomes) <= {"200", "broken"}
    assert sum(world.answered().values()) == 120 + load.outcomes["200"]
    assert world.unlogged == []


async def test_a_killed_process_takes_along_what_it_had(tmp_path: Path) -> None:
    """Each client loses one request at most; the other worker goes on, no counter is set back, and both serve again.

    Where the supervisor itself is killed, no worker outlives it.
    """
    clients = 16
    async with running(tmp_path) as world:
        killed = world.pids()[1]
        async with loaded(world, clients) as load:
            before = counted(await world.ask("/metrics"))
            os.kill(killed, signal.SIGKILL)
            await world.until(lambda: len(world.said("worker 1 takes requests")) == 2)
            assert counted(await world.ask("/metrics")) >= before
        assert set(load.outcomes) <= {"200", "broken"}
        assert load.outcomes["broken"] <= clients
        assert len(world.said("worker 1 ended by signal 9; it is started again")) == 1
        # It writes its own lines a moment after the supervisor has written of it.
        await world.until(lambda: world.pids()[1] != killed)
        assert "\ngateway_worker_restarts_total 1.0\n" in await world.ask("/metrics")
        seen = world.answered()
        for _ in range(40):
            assert (await world.predict())[0] == 200
        await world.until(lambda: all(world.answered()[worker] > seen[worker] for worker in (1, 2)))

        world.process.kill()
        await world.process.wait()
        # They drain without a word from it; standard error ends with the last of them.
        await world.until(lambda: {line["worker"] for line in world.said("draining")} == {1, 2})
    assert world.unlogged == []
