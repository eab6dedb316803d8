"""Whole run folders with stated laws, made in moments: what a campaign would have left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loadtests.analysis.cell import summarise
from loadtests.analysis.samples import Values
from loadtests.cell_spec import CellSpec, Load, Step, Target
from loadtests.raw import RAW_SCHEMA
from loadtests.store import StoredRun, seal_round
from loadtests.store.stored import target_key, write_lines

T0 = 1_790_000_000.0
WARM_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Law:
    """One server that answers in the order of arrival.

    The service of a request is lognormal with that median (ms) and sigma and keeps the server busy for it; `base_ms` is
    added without keeping anyone waiting. `stall` is (at, length) in seconds of the measured time. `gateway_ms` is what
    a gateway in between adds and accounts for. `round_sigma` scatters whole rounds.
    """

    median_ms: float = 1.0
    sigma: float = 0.4
    base_ms: float = 1.0
    stall: tuple[float, float] | None = None
    gateway_ms: float | None = None
    round_sigma: float = 0.01
    wrong_share: float = 0.0
    refused_share: float = 0.0
    lag_ms: float = 0.02


def target(name: str, *, model: str = "simplenn", stack: str = "torchserve", wire: str = "rest", **more: Any) -> Target:
    """A target as the demo's servers would be."""
    via = more.get("path") == "gateway"
    protocol = ("predict" if wire == "rest" else "oip-grpc") if via else f"{stack}-{wire}"
    servers = {"torchserve": "TorchServe 0.12.0", "tfserving": "TensorFlow Serving 2.20.0"}
    variant = {"torchserve": "torchscript", "tfserving": "savedmodel"}.get(stack, "")
    facts = {"variant": variant, "server": servers.get(stack, ""), "stack": stack, **more}
    if via:
        facts.setdefault("upstream_protocol", f"{stack}-{wire}")
    return Target(name=name, protocol=protocol, address="127.0.0.1:9000", model=model, **facts)  # type: ignore[arg-type]


def server_load(rate: float = 200.0, seconds: float = 60.0, **more: Any) -> Load:
    """Poisson arrivals at one rate."""
    return Load(kind="server", arrivals="poisson", steps=(Step(rate, seconds),), **more)


def rows_of(spec: CellSpec, law: Law, *, warm_up: int = 1000) -> pa.Table:
    """The raw record of one cell under a law; the schedule is seeded without the target, as the generator's is."""
    schedule = np.random.default_rng([spec.campaign_seed, spec.scenario_index, spec.round])
    chance = np.random.default_rng([spec.campaign_seed, spec.round, *spec.slug.encode()])
    step, t_int = _arrivals(spec, schedule, warm_up)
    count = len(t_int)
    measured = step >= 0
    factor = float(np.exp(chance.normal(0, law.round_sigma)))
    service = law.median_ms / 1e3 * factor * np.exp(law.sigma * chance.standard_normal(count))
    base = law.base_ms / 1e3 * factor * np.exp(0.05 * chance.standard_normal(count))
    lag = law.lag_ms / 1e3 * chance.exponential(1.0, count)
    if spec.load.arrivals == "closed":
        t_int = _closed(service + base, t_int, spec.load.concurrency)
        lag = np.zeros(count)
    t_snd = t_int + lag
    if law.stall and measured.any():
        first = int(np.searchsorted(t_int, law.stall[0]))
        service[min(first, count - 1)] += law.stall[1]
    gateway = np.zeros(count) if law.gateway_ms is None else law.gateway_ms / 1e3 * chance.gamma(4.0, 0.25, count)
    upstream = service + base if spec.load.arrivals == "closed" else _queue(t_snd, service) - t_snd + base
    t_end = t_snd + upstream + gateway + 1e-4 * chance.gamma(4.0, 0.25, count)
    outcome = np.full(count, "ok", dtype=object)
    outcome[chance.random(count) < law.wrong_share] = "wrong_answer"
    outcome[chance.random(count) < law.refused_share] = "http_5xx"
    timeout = t_end - t_snd > spec.load.timeout_seconds
    outcome[timeout], t_end[timeout] = "timeout", t_snd[timeout] + spec.load.timeout_seconds
    columns: dict[str, Any] = {
        "step": step,
        "worker": np.zeros(count, np.int16),
        "seq": np.arange(count),
        "question": np.arange(count, dtype=np.int32) % 64,
        "measured": measured,
        "t_int": t_int,
        "t_snd": t_snd,
        "t_end": t_end,
        "outcome": pa.array(outcome, pa.string()),
        "bytes_out": np.full(count, 210, np.int32),
        "bytes_in": np.full(count, 96, np.int32),
        "endpoint": pa.array(["ts" if law.gateway_ms is not None else None] * count, pa.string()),
        "stack": pa.array([spec.target.stack or None] * count, pa.string()),
        "server": pa.array([spec.target.server or None] * count, pa.string()),
        "detail": pa.array(np.where(outcome == "http_5xx", "503 overloaded", None), pa.string()),
    }
    via = law.gateway_ms is not None
    parts = {"decode": 0.25, "queue": 0.35, "encode": 0.4}
    for part, share in parts.items():
        columns[f"gw_{part}_ms"] = gateway * share * 1e3 if via else None
    columns["gw_upstream_ms"] = upstream * 1e3 if via else None
    columns["gw_total_ms"] = (upstream + gateway) * 1e3 if via else None
    arrays = []
    for field in RAW_SCHEMA:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(count, field.type))
        elif pa.types.is_dictionary(field.type):
            arrays.append(values.dictionary_encode().cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    table = pa.table(arrays, schema=RAW_SCHEMA)
    if spec.load.arrivals != "closed":
        return table
    kept = table.filter(pa.array(~measured | (t_int < spec.load.seconds)))
    return kept.set_column(2, RAW_SCHEMA.field("seq"), pa.array(np.arange(len(kept))))


def health_of(spec: CellSpec, rows: pa.Table, **changes: Any) -> dict[str, Any]:
    """A sound generator's account of the cell; `changes` are of its one worker."""
    measured = rows["measured"].to_numpy()
    t_snd, t_end = rows["t_snd"].to_numpy(), rows["t_end"].to_numpy()
    ticks = np.arange(0.05, spec.load.seconds, 0.1)
    in_flight = np.searchsorted(np.sort(t_snd), ticks) - np.searchsorted(np.sort(t_end), ticks)
    worker = {
        "index": 0,
        "cpu_max": 0.42,
        "cpu_samples": [0.3, 0.42, 0.35],
        "throttled": 0,
        "lag": {"p50": 1.4e-5, "p99": 9.2e-5, "max": 3e-4},
        "late_share": 0.0,
        "dropped": 0,
        "sent": int(measured.sum()),
        "connections_opened_measured": 0,
        "in_flight": np.column_stack([ticks, in_flight]).tolist(),
        "clock_step_ms": 0.1,
        **changes,
    }
    count = int(measured.sum())
    return {
        "schema": 1,
        "t0_unix": T0,
        "workers": [worker],
        "scheduled": count,
        "finished": count,
        "seconds": spec.load.seconds,
    }


def resources_of(spec: CellSpec) -> dict[str, Any]:
    """What the server used, as the campaign would have measured it."""
    busy = {"torchserve": 31.0, "tfserving": 18.0}.get(spec.target.stack, 10.0)
    usage = {"kind": "process", "status": "measured", "why": "", "threads": 42, "ctx_voluntary": 120_000}
    more = {"ctx_involuntary": 900, "throttled": None, "restarts": 0, "rss_peak": 900_000_000, "cpu_s_per_1k": None}
    servers = [{"name": spec.target.stack or "server", "cpu_s": busy, **usage, **more}]
    if spec.target.path == "gateway":
        servers.append({"name": "gateway", "cpu_s": 6.0, **usage, **more, "rss_peak": 110_000_000})
    gpu = {"status": "not measured", "why": "no NVIDIA driver"}
    return {"schema": 1, "seconds": 92.0, "requests": 13_000, "servers": servers, "gpu": gpu}


def write_stream(path: Path, rows: pa.Table, *, batch: int = 4096) -> None:
    """A cell's record as the generator appends it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        for piece in rows.to_batches(max_chunksize=batch):
            writer.write_batch(piece)


def plan(
    scenarios: Sequence[tuple[str, Load]],
    targets: Iterable[Target],
    *,
    rounds: int,
    seed: int = 7,
    slo_ms: float | None = 50.0,
) -> list[CellSpec]:
    """Every scenario with every target in every round, and the first target's A/A twin in each scenario."""
    cells = []
    targets = list(targets)
    for number in range(rounds):
        order = np.random.default_rng([seed, number]).permutation(len(scenarios) * (len(targets) + 1))
        position = 0
        for index, (name, load) in enumerate(scenarios):
            twin_of = replace(targets[0], name=f"{targets[0].name} (A/A)")
            for own in [*targets, twin_of]:
                twin = _slug(name, targets[0].name) if own is twin_of else ""
                cells.append(
                    CellSpec(
                        slug=_slug(name, own.name),
                        target=own,
                        scenario=name,
                        load=load,
                        campaign_seed=seed,
                        scenario_index=index,
                        round=number,
                        order_in_round=int(order[position]),
                        slo_ms=slo_ms,
                        control=twin,
                    )
                )
                position += 1
    return cells


def _slug(scenario: str, target_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=()-]", "_", f"{scenario}-{target_name}")


def write_run(
    folder: Path,
    cells: Sequence[CellSpec],
    laws: dict[str, Law],
    *,
    tier: str = "run",
    ledger: dict[str, Any] | None = None,
    lines: bool = True,
) -> Path:
    """Writes a complete run; `laws` are by target name, an A/A twin's being its model's. Returns `folder`."""
    folder.mkdir(parents=True)
    _dump(folder / "manifest.json", manifest(folder.name, tier))
    found = []
    for number in sorted({cell.round for cell in cells}):
        for spec in (cell for cell in cells if cell.round == number):
            rows = rows_of(spec, laws[spec.target.name.removesuffix(" (A/A)") if spec.control else spec.target.name])
            write_stream(folder / "raw" / str(number) / f"{spec.slug}.0.arrow", rows)
            health, resources = health_of(spec, rows), resources_of(spec)
            _dump(folder / "health" / str(number) / f"{spec.slug}.json", health)
            _dump(folder / "resources" / str(number) / f"{spec.slug}.json", resources)
            if lines:
                line = summarise(spec, rows, health, resources, parity_of(spec.target), tier=tier)
                found.append(line | StoredRun(folder).provenance(spec))
        seal_round(folder, number)
    targets = {cell.target.name: cell.target for cell in cells if not cell.control}
    facts = {target_key(own.model, name): ledger_of(own, (ledger or {}).get(name, {})) for name, own in targets.items()}
    _dump(folder / "ledger.json", {"schema": 1, "targets": facts})
    checked = {target_key(own.model, name): parity_of(own) for name, own in targets.items()}
    _dump(folder / "parity.json", {"schema": 1, "targets": checked})
    state = {"schema": 1, "status": "complete", "reason": "", "planned": [cell.to_json() for cell in cells]}
    done = [[cell.round, cell.slug] for cell in cells]
    _dump(
        folder / "state.json", {**state, "done": done, "sealed": sorted({number for number, _ in done}), "searches": {}}
    )
    (folder / "campaign.yaml").write_text(f"name: synthetic\nseed: 7\ntier: {tier}\nprice_per_hour: 0.4\n")
    if lines:
        write_lines(StoredRun(folder).cells_file, found)
    return folder


def parity_of(own: Target) -> dict[str, Any]:
    """A parity gate that passed."""
    cache = {"repeated_ms": 2.1, "different_ms": 2.1, "ratio": 1.0, "suspected": False}
    return {"checked": 64, "bad": 0, "max_abs": 3.1e-6, "max_rel": 2.3e-7, "fault": "", "cache": cache}


def ledger_of(own: Target, changes: dict[str, Any]) -> dict[str, Any]:
    """A target's entry; `changes` are of what must be alike."""
    program = own.stack or "server"
    like = {
        "golden_answers": "9f2c" * 16,
        "payload_rows": "1",
        "payload_bytes_out": 210,
        "payload_bytes_in": 96,
        "config": "default",
    }
    return {
        "target": own.name,
        "model": own.model,
        "server": own.server,
        "address": own.address,
        "like": {**like, f"{program}.cpus": "0-1", f"{program}.memory_limit": None, **changes},
        "facts": {
            "files": {"toy.mar": "5e1f" * 16},
            "programs": {program: {"kind": "process", "command": ["serve", program], "threads": 42}},
        },
    }


def manifest(run: str, tier: str) -> dict[str, Any]:
    """Where and how."""
    environment = {
        "date": "2026-11-25T21:00:00+00:00",
        "cpu_model": "An imaginary CPU",
        "cores": 8,
        "memory_gib": 32.0,
        "os": "Debian GNU/Linux 12",
        "kernel": "6.1",
        "machine": "x86_64",
        "python": "3.11.7",
        "packages": {"locust": "2.46.3"},
        "git_commit": "0" * 40,
        "git_dirty": False,
    }
    return {
        "schema": 1,
        "run": run,
        "id": "1d" * 32,
        "tier": tier,
        "seed": 7,
        "command": "twinserve bench run campaign.yaml",
        "reproduce": f"git checkout COMMIT; twinserve bench run runs/{run}/campaign.yaml",
        "placement": "same host",
        "environment": environment,
    }


def _dump(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def _arrivals(spec: CellSpec, chance: np.random.Generator, warm_up: int) -> tuple[npt.NDArray[np.int16], Values]:
    """(step, scheduled instant) of each request, ascending; the warm-up before zero is step -1."""
    steps = [np.full(warm_up, -1, np.int16)]
    times = [np.sort(chance.uniform(-WARM_UP_S, 0, warm_up))]
    start = 0.0
    for index, step in enumerate(spec.load.steps):
        rate = step.rate or 2000.0 * spec.load.concurrency
        count = chance.poisson(rate * step.seconds) if step.rate or spec.load.arrivals == "closed" else 0
        times.append(start + np.sort(chance.uniform(0, step.seconds, count)))
        steps.append(np.full(count, index, np.int16))
        start += step.seconds
    return np.concatenate(steps), np.concatenate(times)


def _closed(service: Values, t_int: Values, clients: int) -> Values:
    """Each client sends when it has its answer; only as many as fit are kept in order."""
    measured = t_int >= 0
    sent = t_int.copy()
    own = service[measured]
    for client in range(clients):
        mine = own[client::clients]
        starts = np.concatenate([[0.0], np.cumsum(mine + 1e-4)[:-1]])
        where = np.flatnonzero(measured)[client::clients]
        sent[where] = starts
    return sent


def _queue(arrivals: Values, service: Values) -> Values:
    """When each request leaves one server in the order of arrival (Lindley's recursion without the loop)."""
    done = np.cumsum(service)
    return done + np.maximum.accumulate(arrivals - np.concatenate([[0.0], done[:-1]]))
