"""Rows 8 to 10: the gateway by itself, on the null backend: workers, many models, memory."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

from gateway.core.contract import ModelContract
from serving import probes
from tests.benchmarks.gateway import processes, servers
from tests.benchmarks.gateway.bench import PREDICT_BODY, Bench, cpu_per
from tests.benchmarks.gateway.load import LoadError, Wrk
from tests.benchmarks.gateway.servers import HOST, MODEL
from tests.benchmarks.gateway.table import Goal, Result

CONNECTIONS = 64
SLOTS = 256
MODELS = 1000
FEW_REQUESTS = 10_000
# A run of the soak is this long at most, so that progress shows.
SOAK_RUN_S = 30


def workers(bench: Bench) -> list[Result]:
    """Row 8."""
    what = "2 workers ÷ 1 worker, null backend, requests/s"
    goal = Goal(None, 1.7, at_most=False)
    wrk = Wrk(bench.folder, "predict", PREDICT_BODY)
    ports = {count: servers.free_ports(2) for count in (1, 2)}
    gateways = [
        servers.gateway(bench.folder, f"workers-{count}", rest, grpc, {"server": {"workers": count}, **_null(bench)})
        for count, (rest, grpc) in ports.items()
    ]
    used: list[float] = []
    cpu: dict[int, list[float]] = {count: [] for count in ports}
    with bench.running(gateways) as pids:

        def rate(count: int) -> float:
            before, begin = processes.children_cpu_seconds(), time.perf_counter()
            url = servers.url(ports[count][0], f"/predict/{MODEL}")
            micros, load = cpu_per(
                pids[f"workers-{count}"],
                partial(wrk.run, url, connections=CONNECTIONS, seconds=bench.seconds),
                lambda load: load.requests,
            )
            used.append((processes.children_cpu_seconds() - before) / (time.perf_counter() - begin))
            cpu[count].append(micros)
            return load.per_second

        for count in ports:
            rate(count)
        used.clear()
        for measured in cpu.values():
            measured.clear()
        found = bench.interleaved(partial(rate, 2), partial(rate, 1))
    one_us, two_us = (median(cpu[count]) for count in (1, 2))
    return [
        Result(
            "8",
            what,
            [two / one for two, one in found],
            goal,
            note=f"The load generator used {max(used):.2f} cores at most. A request took the gateway {one_us:.0f} µs "
            f"of processor time with one worker, {two_us:.0f} µs with two.",
            figures={"two": [two for two, _ in found], "one": [one for _, one in found], "cpu_us": cpu},
        )
    ]


def many_models(bench: Bench) -> list[Result]:
    """Row 9."""
    wrk = Wrk(bench.folder, "predict", PREDICT_BODY)
    (one_rest, one_grpc), (many_rest, many_grpc) = servers.free_ports(2), servers.free_ports(2)
    one = servers.gateway(bench.folder, "one-model", one_rest, one_grpc, _null(bench))
    many = servers.gateway(bench.folder, "many-models", many_rest, many_grpc, _many(bench))
    with bench.running([one, many]) as pids:
        for name in _names():
            # Each has its time series only once it was asked.
            answer = probes.ask(HOST, many_rest, f"/predict/{name}", "POST", body=PREDICT_BODY)
            if answer is None or answer.status != 200:
                raise LoadError(f"model '{name}' of {MODELS} was not answered")
        urls = {
            "one": servers.url(one_rest, f"/predict/{MODEL}"),
            "many": servers.url(many_rest, f"/predict/{_names()[MODELS // 2]}"),
        }
        for url in urls.values():
            wrk.run(url, connections=1, seconds=bench.warm_up)
        found = bench.interleaved(
            *(partial(wrk.run, urls[name], connections=1, seconds=bench.seconds) for name in ("many", "one"))
        )
        scrapes = [_scrape(many_rest) for _ in range(bench.rounds)]
        memory = {
            name: round(processes.rss_mb(pids[f"{name}-model{'s' if name == 'many' else ''}"]), 1) for name in urls
        }
    size = scrapes[-1][1]
    return [
        Result(
            "9",
            f"{MODELS} configured models, null backend, 1 connection: p50 ÷ p50 with 1 model",
            [several.p50_ms / single.p50_ms for several, single in found],
            Goal(1.05, 1.0, at_most=True),
            figures={"rss_mb": memory, "p50_ms": [[load.p50_ms for load in pair] for pair in found]},
        ),
        Result(
            "9b",
            f"time of one scrape of /metrics with {MODELS} models that were all asked",
            [seconds * 1e3 for seconds, _ in scrapes],
            Goal(250, None, at_most=True),
            unit="ms",
            note=f"The answer has {size / 1e6:.2f} MB.",
            figures={"bytes": size},
        ),
    ]


def memory(bench: Bench) -> list[Result]:
    """Row 10."""
    wrk = Wrk(bench.folder, "predict", PREDICT_BODY)
    rest, grpc = servers.free_ports(2)
    gateway = servers.gateway(bench.folder, "gateway", rest, grpc, _null(bench))
    with bench.running([gateway]) as pids:
        url = servers.url(rest, f"/predict/{MODEL}")
        done = 0
        while done < FEW_REQUESTS:
            done += wrk.run(url, connections=CONNECTIONS, seconds=2).requests
        early = processes.rss_mb(pids["gateway"])
        bench.report(f"    after {done} requests: {early:.1f} MB")
        while done < bench.soak_requests:
            done += wrk.run(url, connections=CONNECTIONS, seconds=min(SOAK_RUN_S, 5 * bench.seconds)).requests
            bench.report(f"    after {done} of {bench.soak_requests}: {processes.rss_mb(pids['gateway']):.1f} MB")
        late = processes.rss_mb(pids["gateway"])
    return [
        Result(
            "10",
            f"resident memory after {done:,} requests ÷ after {FEW_REQUESTS:,}",
            [late / early],
            Goal(1.05, 1.0, at_most=True),
            note=f"{late:.1f} and {early:.1f} MB.",
            figures={"requests": done, "late_mb": late, "early_mb": early},
        )
    ]


def _null(bench: Bench) -> dict[str, Any]:
    return {"endpoints": {"null": {"stack": "noop", "slots": SLOTS}}, "models": bench.models("null")}


def _names() -> list[str]:
    return [f"{MODEL}-{number:04}" for number in range(MODELS)]


def _many(bench: Bench) -> dict[str, Any]:
    folder = bench.folder / "contracts"
    folder.mkdir(parents=True, exist_ok=True)
    text = ModelContract.load(bench.model().contract).to_json()
    models: dict[str, Any] = {}
    for name in _names():
        contract = folder / f"{name}.json"
        contract.write_text(text.replace(f'"name": "{MODEL}"', f'"name": "{name}"', 1))
        models |= bench.models("null", contract=contract, name=name)
    return {"endpoints": {"null": {"stack": "noop", "slots": SLOTS}}, "models": models}


def _scrape(port: int) -> tuple[float, int]:
    """Seconds and bytes of one scrape."""
    begin = time.perf_counter()
    answer = probes.ask(HOST, port, "/metrics", timeout_s=30)
    if answer is None or answer.status != 200:
        raise LoadError("/metrics did not answer")
    return time.perf_counter() - begin, len(answer.body)
