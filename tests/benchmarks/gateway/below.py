"""What a request costs below the front ends: `python -m tests.benchmarks.gateway.below [CASE ...]`.

`DataPlane.infer` is called by tasks of this process, as many at once as a case says, and its own processor time is
divided by the requests. Without clients' sockets and JSON it shows what single layers cost; the least of several rounds
counts, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import uvloop

from gateway.core.clock import SystemClock
from gateway.core.context import CallContext
from gateway.core.contract import ModelContract
from gateway.core.messages import InferenceRequest, ModelSpec, TensorSpec
from gateway.core.tensor import Tensor
from gateway.dataplane import DataPlane
from gateway.fleet import opened
from gateway.plan import Configuration
from gateway.resilience.deadline import deadline
from gateway.settings import Settings
from gateway.telemetry.histogram import Registry
from gateway.telemetry.metrics import PrometheusObserver
from serving.local import LocalStack
from serving.settings import LaunchSettings
from tests.benchmarks.gateway import servers
from tests.benchmarks.gateway.servers import MODEL, ROW

TIMEOUT_S = 30.0
CONTRACT = ModelContract(
    MODEL, 1, (TensorSpec("features", "FP32", (-1, 10)),), (TensorSpec("progression", "FP32", (-1, 1)),), batch_cap=64
)


@dataclass(frozen=True, slots=True)
class Case:
    """So many callers at once, on an upstream ('null' is in the process) with these slots, batched or not."""

    upstream: str
    callers: int
    slots: int
    batching: bool


CASES = {
    "null, 1 caller": Case("null", 1, 64, False),
    "null, 64 callers": Case("null", 64, 64, False),
    "HTTP, 1 caller": Case("echo", 1, 64, False),
    "HTTP, 64 callers": Case("echo", 64, 64, False),
    "HTTP, 64 callers in batches": Case("echo", 64, 4, True),
}


async def measured(case: Case, port: int, requests: int, rounds: int, profile: cProfile.Profile | None) -> float:
    """Microseconds of this process a request, the least of the rounds."""
    up: dict[str, Any] = {"stack": "noop"}
    if case.upstream == "echo":
        up = {"stack": "tfserving", "transport": "rest", "rest": servers.url(port, "")}
    settings = Settings.model_validate(
        {
            "endpoints": {"up": {**up, "slots": case.slots}},
            "models": {MODEL: {"targets": [{"endpoint": "up"}], "batching": {"max_size": 64 if case.batching else 1}}},
        }
    )
    clock = SystemClock()
    async with opened(Configuration(settings, {MODEL: CONTRACT}), clock, PrometheusObserver(Registry())) as fleet:
        data_plane = DataPlane(fleet.router, deadline(clock))
        await fleet.router.health.check_all()
        row = np.array([ROW], np.float32)

        async def caller(count: int) -> None:
            for _ in range(count):
                request = InferenceRequest(ModelSpec(MODEL), (Tensor("features", "FP32", row),))
                context = CallContext("id", "predict", clock.now() + TIMEOUT_S, "127.0.0.1")
                await data_plane.infer(request, context)

        async def all_callers() -> float:
            begin = time.process_time()
            async with asyncio.TaskGroup() as group:
                for _ in range(case.callers):
                    group.create_task(caller(requests // case.callers))
            return (time.process_time() - begin) / (requests // case.callers * case.callers) * 1e6

        await all_callers()
        # As in the gateway: what is loaded is not looked through for cycles.
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        if profile is None:
            return min([await all_callers() for _ in range(rounds)])
        profile.enable()
        try:
            return await all_callers()
        finally:
            profile.disable()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a case, or a profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"of: {', '.join(map(repr, CASES))} (default: all)")
    parser.add_argument("--requests", type=int, default=6400, help="of one round (default: 6400)")
    parser.add_argument("--rounds", type=int, default=7, help="of which the least counts (default: 7)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, by cProfile")
    options = parser.parse_args(arguments)
    port = servers.free_ports(1)[0]
    echo = servers.python_server(
        "echo", "tests.benchmarks.gateway.echo_http", port, servers.answering(port, f"/v1/models/{MODEL}"), "an echo"
    )
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(TemporaryDirectory()))
        cleanup.enter_context(LocalStack(LaunchSettings(artifacts=folder), stages=[[echo]]))
        for name in options.cases or CASES:
            profile = cProfile.Profile() if options.profile else None
            micros = uvloop.run(measured(CASES[name], port, options.requests, options.rounds, profile))
            print(f"{name}: {micros:.1f} µs")
            if profile is not None:
                pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
