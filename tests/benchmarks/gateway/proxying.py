"""Rows 5 and 6: what a request costs the processor as it passes through, beside Envoy."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.gateway import servers
from tests.benchmarks.gateway.bench import PREDICT_BODY, Bench, cpu_per, has_batching
from tests.benchmarks.gateway.load import Wrk
from tests.benchmarks.gateway.servers import MODEL, Server
from tests.benchmarks.gateway.table import Goal, Result

CONNECTIONS = 64
PATH = f"/predict/{MODEL}"


def plain(bench: Bench) -> list[Result]:
    """Row 5: batching off, upstream nginx as a TensorFlow Serving that answers at once."""
    upstream_port = servers.free_ports(1)[0]
    upstream = servers.nginx(bench.folder / "nginx", upstream_port)
    return [
        _beside_envoy(
            bench,
            upstream,
            upstream_port,
            row="5",
            batching=False,
            goal=Goal(2.5, 1.5, at_most=True),
            what="CPU a request as a plain proxy (JSON parsed and encoded anew, batching off, upstream nginx, 64 "
            "connections) ÷ Envoy's",
        )
    ]


def batched(bench: Bench) -> list[Result]:
    """Row 6: batching on, upstream an echo that answers as many rows as it is asked."""
    upstream_port = servers.free_ports(1)[0]
    upstream = servers.python_server(
        "echo",
        "tests.benchmarks.gateway.echo_http",
        upstream_port,
        servers.answering(upstream_port, f"/v1/models/{MODEL}"),
        "the benchmark's own echo",
    )
    note = "" if has_batching() else "This gateway cannot batch yet: measured without."
    return [
        _beside_envoy(
            bench,
            upstream,
            upstream_port,
            row="6",
            batching=True,
            goal=Goal(1.5, 1.0, at_most=True),
            what="the same with batching on, upstream an echo that answers batches ÷ Envoy's, unbatched",
            note=note,
        )
    ]


def _beside_envoy(
    bench: Bench,
    upstream: Server,
    upstream_port: int,
    *,
    row: str,
    batching: bool,
    goal: Goal,
    what: str,
    note: str = "",
) -> Result:
    rest, grpc, proxy = servers.free_ports(3)
    config = {
        "endpoints": {
            "up": {
                "stack": "tfserving",
                "transport": "rest",
                "rest": servers.url(upstream_port, ""),
                "slots": 4 if batching else CONNECTIONS,
            }
        },
        "models": bench.models("up", batching=batching),
    }
    gateway = servers.gateway(bench.folder, "gateway", rest, grpc, config)
    envoy = servers.envoy(bench.folder, "envoy", proxy, upstream_port)
    wrk = Wrk(bench.folder, "predict", PREDICT_BODY)
    with bench.running([upstream], [gateway, envoy]) as pids:
        urls = {"gateway": servers.url(rest, PATH), "envoy": servers.url(proxy, PATH)}
        for url in urls.values():
            wrk.run(url, connections=CONNECTIONS, seconds=bench.warm_up)
        loads: dict[str, list[float]] = {"gateway": [], "envoy": []}

        def cost(name: str) -> float:
            run = partial(wrk.run, urls[name], connections=CONNECTIONS, seconds=bench.seconds)
            micros, load = cpu_per(pids[name], run, lambda load: load.requests)
            loads[name].append(round(load.per_second))
            return micros

        found = bench.interleaved(partial(cost, "gateway"), partial(cost, "envoy"))
    return Result(
        row,
        what,
        [ours / theirs for ours, theirs in found],
        goal,
        note=note,
        figures={
            "gateway_us": [ours for ours, _ in found],
            "envoy_us": [theirs for _, theirs in found],
            "requests_per_second": loads,
        },
    )
