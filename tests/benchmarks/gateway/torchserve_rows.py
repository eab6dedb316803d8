"""Rows 1 to 4: real TorchServe with one worker, straight and through the gateway."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serving import servers as launcher
from serving.models import BuiltModel
from serving.processes import Server
from serving.settings import LaunchSettings, Ports
from tests.benchmarks.gateway import archives, servers
from tests.benchmarks.gateway.bench import PREDICT_BODY, Bench, has_batching
from tests.benchmarks.gateway.load import Load, Wrk
from tests.benchmarks.gateway.servers import HOST, MODEL, ROW
from tests.benchmarks.gateway.table import Goal, Result

CONNECTIONS = 64
BATCH_SIZES = (1, 8, 32, 64)
DELAYS_MS = (1, 5, 10)
# As a client that knows nothing of frames would ask TorchServe.
DIRECT_BODY = json.dumps({"inputs": {"features": [ROW]}}).encode()
IMAGE = (224, 224, 3)
_UNBATCHED = "This gateway cannot batch yet: measured without."


@dataclass(frozen=True, slots=True)
class Sides:
    """Where the same model is reached, straight and through the gateway."""

    direct: str
    gateway: str


def against_default(bench: Bench) -> list[Result]:
    """Row 1: requests a second, and p99, against TorchServe as it comes."""
    direct, through = _wrks(bench)
    with _served(bench, bench.model()) as sides:
        found = _loads(bench, (through, sides.gateway), (direct, sides.direct), CONNECTIONS)
    figures = _figures(found, "gateway", "direct")
    note = "" if has_batching() else _UNBATCHED
    return [
        Result(
            "1",
            f"{MODEL} on TorchServe, JSON, 64 connections, requests/s: gateway ÷ direct as it comes (batchSize 1)",
            [ours.per_second / theirs.per_second for ours, theirs in found],
            Goal(5, 10, at_most=False),
            note=note,
            figures=figures,
        ),
        Result(
            "1b",
            "the same, p99: gateway ÷ direct",
            [ours.p99_ms / theirs.p99_ms for ours, theirs in found],
            Goal(0.5, None, at_most=True),
            note=note,
        ),
    ]


def against_best(bench: Bench) -> list[Result]:
    """Row 2: against TorchServe's own batching at its best, searched for first."""
    direct, through = _wrks(bench)
    best, searched = _search(bench, direct)
    with _served(bench, bench.model()) as sides, _alone(bench, best[0], "tuned") as tuned:
        found = _loads(bench, (through, sides.gateway), (direct, tuned), CONNECTIONS)
    return [
        Result(
            "2",
            "the same ÷ direct at its best of batchSize {1, 8, 32, 64} x maxBatchDelay {1, 5, 10 ms}",
            [ours.per_second / theirs.per_second for ours, theirs in found],
            Goal(2, 4, at_most=False),
            note=f"Best: {best[1]}. {'' if has_batching() else _UNBATCHED}".strip(),
            figures={"searched_requests_per_second": searched, **_figures(found, "gateway", "best")},
        )
    ]


def one_connection(bench: Bench) -> list[Result]:
    """Row 3: what the gateway adds where nothing queues."""
    direct, through = _wrks(bench)
    with _served(bench, bench.model()) as sides:
        found = _loads(bench, (through, sides.gateway), (direct, sides.direct), 1)
    return [
        Result(
            "3",
            "with 1 connection: p50 via gateway - p50 direct",
            [ours.p50_ms - theirs.p50_ms for ours, theirs in found],
            Goal(0.5, 0.25, at_most=True),
            unit="ms",
            figures=_figures(found, "gateway", "direct"),
        )
    ]


def large_tensor(bench: Bench) -> list[Result]:
    """Row 4: a tensor whose JSON is what costs."""
    model = archives.convnet(bench.folder / "models")
    numbers = random.Random(0)
    image = [[[[numbers.random() for _ in range(IMAGE[2])] for _ in range(IMAGE[1])] for _ in range(IMAGE[0])]]
    body = json.dumps({"inputs": {"image": image}}).encode()
    wrk = Wrk(bench.folder, "image", body)
    with _served(bench, model) as sides:
        found = _loads(bench, (wrk, sides.gateway), (wrk, sides.direct), 1)
    return [
        Result(
            "4",
            "a 1x224x224x3 FP32 JSON tensor to a convnet on TorchServe, 1 connection: p50 direct ÷ p50 via gateway",
            [theirs.p50_ms / ours.p50_ms for ours, theirs in found],
            Goal(1.5, 3, at_most=False),
            note=f"The body has {len(body) / 1e6:.1f} MB.",
            figures=_figures(found, "gateway", "direct"),
        )
    ]


def _wrks(bench: Bench) -> tuple[Wrk, Wrk]:
    return Wrk(bench.folder, "direct", DIRECT_BODY), Wrk(bench.folder, "through", PREDICT_BODY)


@contextmanager
def _served(bench: Bench, model: BuiltModel) -> Iterator[Sides]:
    """TorchServe with this model, and a gateway before it."""
    ports = Ports.free()
    torchserve = _torchserve(bench.folder / "default", ports, model)
    config: dict[str, Any] = {
        "endpoints": {
            "ts": {
                "stack": "torchserve",
                "rest": f"http://{HOST}:{ports.torchserve_rest_port}",
                "management": f"http://{HOST}:{ports.torchserve_management_port}",
                "slots": launcher.SLOTS["torchserve"],
            }
        },
        "models": bench.models("ts", batching=True, contract=model.contract, name=model.name),
    }
    gateway = servers.gateway(bench.folder, "gateway", ports.gateway_rest_port, ports.gateway_grpc_port, config)
    with bench.running([torchserve], [gateway]):
        yield Sides(
            servers.url(ports.torchserve_rest_port, f"/predictions/{model.name}"),
            servers.url(ports.gateway_rest_port, f"/predict/{model.name}"),
        )


@contextmanager
def _alone(bench: Bench, model: BuiltModel, name: str) -> Iterator[str]:
    """The URL of this model on a TorchServe of its own."""
    ports = Ports.free()
    other = Bench(**{field: getattr(bench, field) for field in bench.__slots__} | {"folder": bench.folder / name})
    with other.running([_torchserve(bench.folder / name, ports, model)]):
        yield servers.url(ports.torchserve_rest_port, f"/predictions/{model.name}")


def _torchserve(folder: Path, ports: Ports, model: BuiltModel) -> Server:
    return launcher.torchserve(LaunchSettings(artifacts=folder), ports, [model])


def _search(bench: Bench, wrk: Wrk) -> tuple[tuple[BuiltModel, str], dict[str, float]]:
    """The variant with the most requests a second, and the rate of each; one TorchServe after the other."""
    rates: dict[str, float] = {}
    best: tuple[float, BuiltModel, str] | None = None
    # With batches of one there is nothing to wait for.
    for size, delay in [(1, DELAYS_MS[0]), *((size, delay) for size in BATCH_SIZES[1:] for delay in DELAYS_MS)]:
        name = f"batchSize {size}, maxBatchDelay {delay} ms"
        variant = archives.batching_variant(bench.model(), bench.folder / "models", size, delay)
        with _alone(bench, variant, "search") as url:
            wrk.run(url, connections=CONNECTIONS, seconds=bench.warm_up)
            rate = wrk.run(url, connections=CONNECTIONS, seconds=bench.seconds).per_second
        rates[name] = round(rate, 1)
        bench.report(f"    {name}: {rate:.0f}/s")
        if best is None or rate > best[0]:
            best = rate, variant, name
    assert best is not None
    return (best[1], best[2]), rates


def _loads(bench: Bench, ours: tuple[Wrk, str], theirs: tuple[Wrk, str], connections: int) -> list[tuple[Load, ...]]:
    for wrk, url in (ours, theirs):
        wrk.run(url, connections=connections, seconds=bench.warm_up)
    sides = [partial(wrk.run, url, connections=connections, seconds=bench.seconds) for wrk, url in (ours, theirs)]
    return bench.interleaved(*sides)


def _figures(found: list[tuple[Load, ...]], ours: str, theirs: str) -> dict[str, Any]:
    return {
        name: [
            {"requests_per_second": round(load.per_second, 1), "p50_ms": load.p50_ms, "p99_ms": load.p99_ms}
            for load in (pair[index] for pair in found)
        ]
        for index, name in enumerate((ours, theirs))
    }
