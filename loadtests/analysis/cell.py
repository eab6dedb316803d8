"""One line of `cells.jsonl`: a cell in one round, as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from loadtests.analysis.columns import Columns, Flags
from loadtests.analysis.samples import Values, n_min, percentiles
from loadtests.analysis.validity import BUSIEST, LATE, LITTLE, STEADY_KINDS, UNSENT, Check, check_cell
from loadtests.cell_spec import STAND_IN, CellSpec

SCHEMA = 1
# An error share beyond it fails the objective whatever the latencies are.
MAX_ERRORS = 0.001
_RECOVERY_S = 5.0
_WINDOW_CHECKS = 3
# A lag (p99) of so little of the objective does not decide whether it is missed.
_SHORT_LAG = 0.1
_TOPOLOGY = {"torchserve": "TS", "tfserving": "TFS", "oip": "OIP"}


def summarise(
    spec: CellSpec,
    rows: pa.Table | Columns,
    health: Mapping[str, Any],
    resources: Mapping[str, Any] | None,
    parity: Mapping[str, Any] | None,
    *,
    tier: str = "run",
    torn: bool = False,
) -> dict[str, Any]:
    """The cell's line, JSON types only. `rows` are of `RAW_SCHEMA`, warm-up included, or already columns.

    `L`, `S`, `D` and `parts` are in milliseconds: response time from the scheduled instant, service time from the send,
    dispatch lag, and where the time went. L and S are of right answers, D of all that was sent. A percentile with too
    few samples is null. Rates are a second of the scheduled window; answers that came after its end count. A cell of
    several models has all their names as its `model`. `tier` says
    whose limits decide on `valid`; `torn` that a stream of the record lacks its end mark.
    """
    columns = rows if isinstance(rows, Columns) else Columns.of(rows)
    load, target = spec.load, spec.target
    seconds = _seconds(spec, columns)
    counted, ok = columns.counted(), columns.ok
    latency, service = (columns.t_end - columns.t_int) * 1e3, (columns.t_end - columns.t_snd) * 1e3
    lag = percentiles(((columns.t_snd - columns.t_int) * 1e3)[columns.sent])
    checks = check_cell(spec, columns, health, resources, parity, tier=tier, torn=torn)
    broken = [check for check in checks if check.binding and not check.ok]
    server = " + ".join(columns.servers) or target.server
    objective = _objective(spec, ok, latency, columns.count, seconds)
    by_name = {check.name: check for check in checks}
    law = by_name.get(LITTLE)
    return {
        "schema": SCHEMA,
        "cell": spec.slug,
        "round": spec.round,
        "order_in_round": spec.order_in_round,
        "tier": tier,
        "model": " + ".join(dict.fromkeys([target.model, *(other.model for other in spec.others)])),
        "variant": target.variant,
        "target": target.name,
        "stack": target.stack,
        "path": target.path,
        "topology": _topology(spec),
        "protocol": target.protocol,
        "upstream_protocol": target.upstream_protocol or None,
        "endpoints": list(columns.endpoints),
        "server": server,
        "stand_in": STAND_IN in server or STAND_IN in target.server,
        "control": spec.control or None,
        "scenario": spec.scenario,
        "kind": load.kind,
        "arrivals": load.arrivals,
        "rows": load.rows,
        "concurrency": load.concurrency if load.arrivals == "closed" else None,
        "rate_offered": max((step.rate for step in load.steps), default=0.0) if load.arrivals != "closed" else None,
        "seed": spec.campaign_seed,
        "t_start": health.get("t0_unix"),
        "T": seconds,
        "scheduled": columns.count,
        "outcomes": counted,
        "failures": dict(columns.details),
        "offered": columns.count / seconds if seconds else 0.0,
        "achieved": counted.get("ok", 0) / seconds if seconds else 0.0,
        **objective,
        "meets_slo": _meets(objective, columns, broken),
        "L": percentiles(latency[ok]),
        "S": percentiles(service[ok]),
        "D": {"p50": lag["p50"], "p99": lag["p99"], "max": lag["max"]},
        "parts": _parts(columns, ok),
        "steps": (steps := _steps(spec, columns, ok, latency)),
        "overload": _overload(spec, columns, ok, latency, steps) if load.kind == "overload" else None,
        "wire_bytes": {"out": _mean(columns.bytes_out[columns.sent]), "in": _mean(columns.bytes_in[ok])},
        "stable": _stable(by_name) if load.kind in STEADY_KINDS else None,
        "little_err": law.value / 100 if law and law.value is not None else None,
        "client_cpu_max": by_name[BUSIEST].value,
        "connections_opened": _total(health, "connections_opened_measured"),
        "dropped": counted.get("dropped_by_client", 0),
        "resources": dict(resources) if resources else None,
        "cgroup": _used(resources),
        "energy_j": ((resources or {}).get("gpu") or {}).get("energy_j"),
        "config": str((resources or {}).get("config") or "default"),
        "cost_per_1m": _cost(resources, objective["goodput"], counted.get("ok", 0) / seconds if seconds else 0.0),
        "parity": dict(parity) if parity else None,
        "cold": health.get("cold"),
        "checks": [check.to_json() for check in checks],
        "valid": not broken,
        "reasons": [check.reason for check in broken],
    }


def _seconds(spec: CellSpec, columns: Columns) -> float:
    """The window: as scheduled in an open loop; in a closed one until the last answer, so that a stall is no gain."""
    if spec.load.arrivals != "closed" or not columns.count:
        return spec.load.seconds
    ends = columns.t_end[~np.isnan(columns.t_end)]
    return max(spec.load.seconds, float(ends.max() - columns.t_int[0])) if len(ends) else spec.load.seconds


def _objective(spec: CellSpec, ok: Flags, latency: Values, count: int, seconds: float) -> dict[str, Any]:
    """Goodput and attainment count every request: what failed or was dropped misses the objective as well."""
    if spec.slo_ms is None or not count or not seconds:
        return {"slo_ms": spec.slo_ms, "goodput": None, "attainment": None, "n_min_ok": None}
    good = int(np.count_nonzero(ok & (latency <= spec.slo_ms)))
    share = 0.9 if spec.load.kind == "single_stream" else 0.99
    return {
        "slo_ms": spec.slo_ms,
        "goodput": good / seconds,
        "attainment": good / count,
        "n_min_ok": count >= n_min(share, count - good),
    }


def _meets(objective: Mapping[str, Any], columns: Columns, broken: Sequence[Check]) -> bool | None:
    """Whether the objective was met; None without one, and where nobody can tell.

    L counts from the scheduled instant, so a generator that was late only makes it longer: what met the objective all
    the same did meet it. What missed it may have missed it for the generator's sake, unless its lag was short beside
    the objective and it had processor time left to read the answers. Arrivals dropped for want of room
    are a miss: the server did not answer what was under way. Where the record or the clocks cannot be trusted nothing
    is said.
    """
    if objective["n_min_ok"] is None:
        return None
    held_up = {check.name for check in broken if check.group != "server"} - set(UNSENT)
    if held_up - set(LATE):
        return None
    unsent = any(check.name in UNSENT for check in broken)
    errors = 1 - np.count_nonzero(columns.ok) / columns.count
    met = bool(objective["n_min_ok"] and errors <= MAX_ERRORS and not unsent)
    lag = next((check.value for check in broken if check.name == LATE[0]), 0.0) or 0.0
    short = BUSIEST not in held_up and lag <= _SHORT_LAG * objective["slo_ms"]
    return None if held_up and not met and not short else met


def _parts(columns: Columns, ok: Flags) -> dict[str, Any]:
    """Where the time of right answers went, in ms: percentiles of each part, and means, which alone add up.

    `client` dispatch lag, `net` what neither side accounts for, `decode`, `queue` and `encode` of the gateway, `gw`
    those three together, `compute` the upstream call. `overhead` is O_i = S_i - upstream_i, request by request, since
    percentiles do not subtract. A part that nobody measured is null.
    """
    service = ((columns.t_end - columns.t_snd) * 1e3)[ok]
    lag = ((columns.t_snd - columns.t_int) * 1e3)[ok]
    gateway = {name: values[ok] for name, values in columns.parts.items()}
    upstream, total = gateway["upstream"], gateway["total"]
    if not len(upstream) or np.isnan(upstream).all():
        names = ("net", "decode", "queue", "encode", "gw", "compute", "overhead")
        return {"client": _brief(lag), **dict.fromkeys(names)}
    return {
        "client": _brief(lag),
        "net": _brief(service - total),
        "decode": _brief(gateway["decode"]),
        "queue": _brief(gateway["queue"]),
        "encode": _brief(gateway["encode"]),
        "gw": _brief(total - upstream),
        "compute": _brief(upstream),
        "overhead": _brief(service - upstream),
    }


def _brief(values: Values) -> dict[str, float | None] | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    found = percentiles(known)
    return {name: found[name] for name in ("p50", "p90", "p99", "mean")}


def _steps(spec: CellSpec, columns: Columns, ok: Flags, latency: Values) -> list[dict[str, Any]]:
    """Each step of a load that has several: outcomes and latencies of what was scheduled in it.

    `achieved` alone is of what was answered while the step lasted, whenever it was asked: it falls behind `offered`
    where a queue grows, and is above it while the queue is worked off.
    """
    if len(spec.load.steps) < 2:
        return []
    found = []
    end = float(columns.t_int[0]) if columns.count else 0.0
    for index, step in enumerate(spec.load.steps):
        own = columns.step == index
        # Whoever asked: what was answered while the step lasted is what the server did at that rate.
        start, end = end, end + step.seconds
        answered = int(np.count_nonzero(ok & (columns.t_end >= start) & (columns.t_end < end)))
        values = percentiles(latency[own & ok])
        good = np.count_nonzero(own & ok & (latency <= spec.slo_ms)) if spec.slo_ms is not None else None
        right = int(np.count_nonzero(own & ok))
        scheduled = int(np.count_nonzero(own))
        found.append(
            {
                "step": index,
                "rate": step.rate,
                "seconds": step.seconds,
                "scheduled": scheduled,
                "ok": right,
                "offered": scheduled / step.seconds if step.seconds else 0.0,
                "achieved": answered / step.seconds if step.seconds else 0.0,
                "goodput": good / step.seconds if good is not None and step.seconds else None,
                "L": {name: values[name] for name in ("p50", "p95", "p99", "max")},
            }
        )
    return found


def _overload(
    spec: CellSpec, columns: Columns, ok: Flags, latency: Values, steps: Sequence[Mapping[str, Any]]
) -> dict[str, float | None] | None:
    """What was kept under overload and how long it took to recover (method, section 2.3).

    `retention` is the goodput of the fastest step over that of the step before it. `recovery_s` are the seconds from
    the end of the fastest step until the p95 of five seconds is back within 10 % of the first step's; p95, as a light
    load has too few requests in five seconds for p99. None where it was not reached, or too few were answered to tell.
    """
    top = max(range(len(steps)), key=lambda index: float(steps[index]["rate"]), default=0)
    if top == 0 or top + 1 >= len(steps):
        return None
    good = [
        step["goodput"] if step["goodput"] is not None else step["achieved"] for step in (steps[top - 1], steps[top])
    ]
    before = _p95(latency[ok & (columns.step == 0)])
    start = float(columns.t_int[0]) + sum(step.seconds for step in spec.load.steps[: top + 1])
    end = float(columns.t_int[0]) + spec.load.seconds
    recovery = None
    for late in np.arange(0.0, end - start - _RECOVERY_S + 1e-9, 0.5):
        window = ok & (columns.t_int >= start + late) & (columns.t_int < start + late + _RECOVERY_S)
        now = _p95(latency[window])
        if before is not None and now is not None and now <= 1.1 * before:
            recovery = float(late)
            break
    return {"retention": good[1] / good[0] if good[0] else None, "recovery_s": recovery}


def _p95(values: Values) -> float | None:
    return percentiles(values)["p95"]


def _used(resources: Mapping[str, Any] | None) -> dict[str, float | None]:
    """What all servers of the cell used together, of containers and processes alike; null what nobody measured."""
    servers = [item for item in (resources or {}).get("servers") or () if item.get("status") == "measured"]

    def total(name: str) -> float | None:
        known = [item[name] for item in servers if item.get(name) is not None]
        return sum(known) if known else None

    return {"cpu_s": total("cpu_s"), "mem_peak": total("rss_peak"), "throttled": total("throttled")}


def _cost(resources: Mapping[str, Any] | None, goodput: float | None, achieved: float) -> float | None:
    """A million answers at the cell's own rate of good answers, the server used to `utilisation`; None without a price.

    `price_per_hour / (3600 rate utilisation) 1e6` (method, section 2.7).
    """
    price, rate = (resources or {}).get("price_per_hour"), achieved if goodput is None else goodput
    if resources is None or price is None or not rate:
        return None
    return float(f"{price / (3600 * rate * resources['utilisation']) * 1e6:.4g}")


def _stable(checks: Mapping[str, Any]) -> bool | None:
    windows = [check.ok for name, check in checks.items() if "three windows" in name]
    # Of the answers alone nobody can tell how steady they were.
    return None if all(windows) and len(windows) < _WINDOW_CHECKS else all(windows)


def _topology(spec: CellSpec) -> str:
    target = spec.target
    wire = "gRPC" if target.protocol.endswith("grpc") else "REST"
    name = f"{_TOPOLOGY.get(target.stack, target.stack or 'server')}-{wire}"
    return f"{name} via gateway" if target.path == "gateway" else name


def _total(health: Mapping[str, Any], key: str) -> int | None:
    found = [int(worker[key]) for worker in health.get("workers", ()) if worker.get(key) is not None]
    return sum(found) if found else None


def _mean(values: Values) -> float | None:
    return float(values.mean()) if len(values) else None
