"""Row 7: gRPC in, null backend, beside a bare grpc.aio echo server."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import grpc
import numpy as np

from gateway._generated import oip_pb2
from tests.benchmarks.gateway import servers
from tests.benchmarks.gateway.bench import Bench, cpu_per
from tests.benchmarks.gateway.load import LoadError
from tests.benchmarks.gateway.servers import HOST, MODEL, ROW
from tests.benchmarks.gateway.table import Goal, Result

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CALLS = 32


@dataclass(frozen=True, slots=True)
class GrpcLoad:
    """What one run of the load did; `cpu_seconds` are the load generator's own."""

    requests: int
    seconds: float
    cpu_seconds: float


def message() -> bytes:
    """One row of simplenn with raw contents."""
    asked = oip_pb2.ModelInferRequest(model_name=MODEL)
    asked.inputs.add(name="features", datatype="FP32", shape=[1, len(ROW)])
    asked.raw_input_contents.append(np.asarray(ROW, dtype="<f4").tobytes())
    return asked.SerializeToString()


def run_load(port: int, seconds: float, calls: int = CALLS) -> GrpcLoad:
    """One run against the server on `port`."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.gateway.grpc_load",
        f"{HOST}:{port}",
        METHOD,
        str(calls),
        str(seconds),
    ]
    done = subprocess.run(command, input=message(), capture_output=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise LoadError(f"the gRPC load failed: {done.stderr.decode()[-2000:]}")
    return GrpcLoad(**json.loads(done.stdout))


def per_core(bench: Bench) -> list[Result]:
    """Row 7."""
    rest, ours, theirs = servers.free_ports(3)
    config = {"endpoints": {"null": {"stack": "noop", "slots": CALLS}}, "models": bench.models("null")}
    gateway = servers.gateway(bench.folder, "gateway", rest, ours, config)
    echo = servers.python_server(
        "echo",
        "tests.benchmarks.gateway.grpc_echo",
        theirs,
        lambda: _connected(theirs),
        f"grpc.aio {grpc.__version__} echo",
    )
    loads: list[GrpcLoad] = []
    with bench.running([gateway, echo]) as pids:
        for port in (ours, theirs):
            run_load(port, bench.warm_up)

        def rate(name: str, port: int) -> float:
            micros, load = cpu_per(pids[name], partial(run_load, port, bench.seconds), lambda load: load.requests)
            loads.append(load)
            return 1e6 / micros

        found = bench.interleaved(partial(rate, "gateway", ours), partial(rate, "echo", theirs))
    return [
        Result(
            "7",
            "gRPC in (raw contents, null backend): requests a second and core ÷ a bare grpc.aio echo server",
            [mine / bare for mine, bare in found],
            Goal(0.6, 0.85, at_most=False),
            figures={
                "gateway_per_core": [mine for mine, _ in found],
                "echo_per_core": [bare for _, bare in found],
                "load_generator_cores": [load.cpu_seconds / load.seconds for load in loads],
            },
        )
    ]


def _connected(port: int) -> str | None:
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=2)
        except grpc.FutureTimeoutError:
            return "a gRPC connection"
    return None
