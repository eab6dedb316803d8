"""VALID or INVALID, with reasons: whether a cell's figures may be used at all. Every value stands beside its limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from loadtests.analysis.columns import Columns
from loadtests.analysis.samples import Values, n_min, percentile
from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome
from loadtests.words import number

Tier = Literal["demo", "quick", "run"]
# Who broke the limit: the generator, the server (or what the cell asked of it), or the record itself.
Group = Literal["client", "server", "record"]

# Their arrivals are one stationary stream, so that windows may be compared.
STEADY_KINDS = frozenset({"single_stream", "multi_stream", "server", "offline", "mixed", "soak"})
BUSIEST = "busiest second of a worker"
# What a generator that was held up broke; the time is in L.
LATE = ("dispatch lag p99", "sends over 1 ms late", BUSIEST)
UNSENT = ("dropped arrivals", "arrivals not sent")
ACCOUNTS = "generator workers that gave an account"
LITTLE = "Little's law, N against X R"
_WINDOWS = 3
_BLOCKS = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """A tier's limits. Those of the generator are the same for every tier: a quick look may be short, not wrong.

    Shares are of 1; `instability` is the largest max/min - 1 over three windows; `samples` says whether p99's (p90's in
    a single stream) fewest samples are asked for.
    """

    tier: Tier
    seconds: float
    warm_up_seconds: float
    warm_up_requests: int
    instability: float
    samples: bool
    lag_p99_ms: float = 1.0
    late_share: float = 0.01
    dropped_share: float = 0.001
    dispatch_share: float = 0.01
    client_cpu: float = 0.8
    little: float = 0.05
    clock_step_ms: float = 5.0
    # However noisy the samples are, a wider difference than this is more than noise.
    noise_cap: float = 0.25
    # After the first round the servers are warm; only connections are opened again.
    warm_up_again_seconds: float = 30.0


TIERS: dict[str, Limits] = {
    "demo": Limits(
        "demo",
        seconds=1,
        warm_up_seconds=1,
        warm_up_requests=0,
        instability=0.25,
        samples=False,
        warm_up_again_seconds=1,
    ),
    "quick": Limits(
        "quick",
        seconds=5,
        warm_up_seconds=3,
        warm_up_requests=0,
        instability=0.25,
        samples=False,
        warm_up_again_seconds=0.3,
    ),
    "run": Limits("run", seconds=60, warm_up_seconds=30, warm_up_requests=1000, instability=0.10, samples=True),
}


def limits_of(tier: str) -> Limits:
    """The limits of a tier; raises LoadTestError naming the tiers there are."""
    if tier not in TIERS:
        raise LoadTestError(f"tier {tier!r} is none of {', '.join(TIERS)}")
    return TIERS[tier]


@dataclass(frozen=True, slots=True)
class Check:
    """One value beside its limit. `value` None means that nobody measured it; it then cannot fail.

    That a whole account is missing is a check of its own.

    A check that does not bind is printed and decides nothing.
    """

    name: str
    group: Group
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False
    binding: bool = True

    @property
    def ok(self) -> bool:
        """Whether the value keeps to the limit."""
        if self.value is None:
            return True
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)

    @property
    def reason(self) -> str:
        """The breach in words."""
        word = "at least" if self.at_least else "at most"
        value = "not measured" if self.value is None else f"{number(self.value)}{self.unit}"
        return f"{self.group}: {self.name} {value}, limit {word} {number(self.limit)}{self.unit}"

    def to_json(self) -> dict[str, Any]:
        """JSON types only, with `ok`."""
        return {**asdict(self), "ok": self.ok}


def check_cell(
    spec: CellSpec,
    columns: Columns,
    health: Mapping[str, Any],
    resources: Mapping[str, Any] | None,
    parity: Mapping[str, Any] | None,
    *,
    tier: str = "run",
    torn: bool = False,
) -> list[Check]:
    """Every check of the cell, those of the generator first (method, sections 2.6 and 4.3).

    `torn` says that a stream of the record ended before its end mark.
    """
    limits = limits_of(tier)
    workers = list(health.get("workers") or ())
    return [
        *_client(columns, workers, limits, closed=spec.load.arrivals == "closed"),
        *_record(columns, health, parity),
        *_account(spec, health, workers, torn=torn),
        *_load(spec, columns, limits),
        *_steadiness(spec, columns, workers, limits),
        *_server(resources),
    ]


def little(columns: Columns, workers: Sequence[Mapping[str, Any]], seconds: float) -> tuple[float, float] | None:
    """(|N - X R| / N, three standard errors of N / N) by Little's law; None where nobody counted what was in flight.

    N is the mean of the generator's 10 Hz samples, X the completions a second and R the mean service time of those:
    counts and clocks of different code that must agree.
    """
    if not columns.count:
        return None
    start = float(columns.t_int[0])
    # Each worker samples on its own clock; means add up, single samples do not.
    samples = [
        np.array([n for t, n in worker.get("in_flight", ()) if start <= t <= start + seconds], dtype=np.float64)
        for worker in workers
    ]
    if not samples or any(len(numbers) < 10 for numbers in samples):
        return None
    in_flight = sum(float(numbers.mean()) for numbers in samples)
    ends = columns.t_end
    done = columns.sent & ~np.isnan(ends) & (ends <= start + seconds)
    if in_flight <= 0 or not done.any():
        return None
    expected = np.count_nonzero(done) / seconds * float((ends - columns.t_snd)[done].mean())
    error = sum(_block_error(numbers) ** 2 for numbers in samples) ** 0.5
    return float(abs(in_flight - expected) / in_flight), float(3 * error / in_flight)


def instability(columns: Columns, seconds: float, *, closed: bool) -> tuple[float, float, float] | None:
    """(latency, throughput, noise): max/min - 1 over three windows, and what chance alone makes of the medians.

    The latency is the median of right answers by scheduled instant. The throughput is completions a second; in an open
    loop by arrivals of the same window, as Poisson counts differ by themselves. None where a window holds no answer.
    """
    if not columns.count:
        return None
    start = float(columns.t_int[0])
    edges = start + seconds * np.arange(1, _WINDOWS) / _WINDOWS
    ok, latency = columns.ok, (columns.t_end - columns.t_int)
    arrived = np.bincount(np.searchsorted(edges, columns.t_int), minlength=_WINDOWS)
    ends = columns.t_end[ok & (columns.t_end <= start + seconds)]
    done = np.bincount(np.searchsorted(edges, ends), minlength=_WINDOWS).astype(np.float64)
    rates = done if closed else done / np.maximum(arrived, 1)
    window = np.searchsorted(edges, columns.t_int[ok])
    parts = [latency[ok][window == index] for index in range(_WINDOWS)]
    if any(len(part) < _BLOCKS for part in parts) or rates.min() <= 0:
        return None
    medians = np.array([float(np.median(part)) for part in parts])
    errors = [float(np.std([np.median(b) for b in np.array_split(p, _BLOCKS)], ddof=1)) / _BLOCKS**0.5 for p in parts]
    noise = 3 * 2**0.5 * float(np.mean(errors)) / float(medians.min()) if medians.min() > 0 else 0.0
    return _spread(medians), _spread(rates), noise


def fewest_answers(columns: Columns, seconds: float, *, closed: bool) -> tuple[int, int]:
    """(right answers, asked for) in the emptiest of the three windows; the larger lack first.

    A window is what was scheduled in it, and what was answered in it: a server that stops answering leaves one of them
    empty. Six are asked for, as `instability` needs them, of a window with fewer arrivals as many as arrived. A closed
    loop has no arrivals without answers, so there six are asked for whatever arrived.
    """
    if not columns.count:
        return 0, _BLOCKS
    start, ok = float(columns.t_int[0]), columns.ok
    edges = start + seconds * np.arange(1, _WINDOWS) / _WINDOWS
    windows = np.searchsorted(edges, columns.t_int)
    arrived = np.bincount(windows, minlength=_WINDOWS)
    right = np.bincount(windows[ok], minlength=_WINDOWS)
    ends = columns.t_end[ok & (columns.t_end <= start + seconds)]
    done = np.bincount(np.searchsorted(edges, ends), minlength=_WINDOWS)
    wanted = np.full(_WINDOWS, _BLOCKS) if closed else np.minimum(arrived, _BLOCKS)
    # One answer in the window suffices of those that came late: a queue that grows is told by the throughput.
    lacks = [
        *zip(right, wanted, strict=True),
        *((count, min(need, 1)) for count, need in zip(done, wanted, strict=True)),
    ]
    found, need = min(lacks, key=lambda pair: pair[0] - pair[1])
    return int(found), int(need)


def drift(columns: Columns, seconds: float, share: float) -> float | None:
    """How far the second half's percentile is from the first half's, as a share; None where there are too few."""
    if not columns.count:
        return None
    ok = columns.ok
    latency, late = (columns.t_end - columns.t_int)[ok], columns.t_int[ok] >= columns.t_int[0] + seconds / 2
    first, second = percentile(latency[~late], share), percentile(latency[late], share)
    return abs(second / first - 1) if first and second is not None else None


def _client(columns: Columns, workers: Sequence[Mapping[str, Any]], limits: Limits, *, closed: bool) -> list[Check]:
    lag = (columns.t_snd - columns.t_int)[columns.sent] * 1e3
    count = max(columns.count, 1)
    dropped = columns.counted().get("dropped_by_client", 0)
    cpu = [float(worker["cpu_max"]) for worker in workers if worker.get("cpu_max") is not None]
    throttled = [float(worker["throttled"]) for worker in workers if worker.get("throttled") is not None]
    steps = [abs(float(worker["clock_step_ms"])) for worker in workers if worker.get("clock_step_ms") is not None]
    sent = int(np.count_nonzero(columns.sent))
    checks = [
        Check(UNSENT[0], "client", 100 * dropped / count, 100 * limits.dropped_share, " %"),
        Check(UNSENT[1], "client", 100 * (count - sent) / count, 100 * limits.dispatch_share, " %"),
        Check(BUSIEST, "client", max(cpu, default=None), limits.client_cpu, " of a core"),
        Check("throttled periods", "client", max(throttled, default=None), 0),
        Check("clock step", "client", max(steps, default=None), limits.clock_step_ms, " ms"),
    ]
    if not closed and len(lag):
        late = 100 * float(np.mean(lag > 1.0))
        checks = [
            Check(
                LATE[0],
                "client",
                float(np.quantile(lag, 0.99, method="inverted_cdf")),
                limits.lag_p99_ms,
                " ms",
            ),
            Check(LATE[1], "client", late, 100 * limits.late_share, " %"),
            *checks,
        ]
    return checks


def _record(columns: Columns, health: Mapping[str, Any], parity: Mapping[str, Any] | None) -> list[Check]:
    counted = columns.counted()
    wrong = counted.get(Outcome.WRONG_ANSWER, 0)
    lost = sum(
        int(own.max() - own.min() + 1 - len(own))
        for own in (columns.seq[columns.worker == index] for index in np.unique(columns.worker))
    )
    scheduled = health.get("scheduled")
    if scheduled is not None:
        # The health file counts what was scheduled, the record what was written.
        lost = max(lost, int(scheduled) - columns.count)
    checks = [
        Check("requests without a record", "record", float(max(lost, 0)), 0),
        Check("wrong answers", "server", float(wrong), 0),
    ]
    if parity is not None:
        checks.append(Check("golden answers that differ", "server", float(parity.get("bad") or 0), 0))
    return checks


def _account(
    spec: CellSpec, health: Mapping[str, Any], workers: Sequence[Mapping[str, Any]], *, torn: bool
) -> list[Check]:
    """Without the generator's account nobody knows whether it kept up, nor how much it meant to send."""
    if spec.load.kind == "cold":
        # The campaign itself asks after a cold start, one question after another.
        told, wanted = float(health.get("scheduled") is not None), 1
    else:
        told, wanted = float(len(workers)), spec.load.workers
    return [
        Check(ACCOUNTS, "record", told, wanted, at_least=True),
        Check("streams without their end mark", "record", float(torn), 0),
    ]


def _load(spec: CellSpec, columns: Columns, limits: Limits) -> list[Check]:
    load, checks = spec.load, []
    if load.kind != "cold":
        warm_up = limits.warm_up_again_seconds if spec.round else limits.warm_up_seconds
        checks = [
            Check("measured time", "server", load.seconds, limits.seconds, " s", at_least=True),
            Check("warm-up", "server", load.warm_up_seconds, warm_up, " s", at_least=True),
            Check("warm-up requests", "server", columns.warm_up, limits.warm_up_requests, at_least=True),
        ]
    fewest = 1
    if limits.samples and load.kind not in ("cold", "offline"):
        fewest = n_min(0.9 if load.kind == "single_stream" else 0.99, 1)
    checks.append(Check("right answers", "server", float(np.count_nonzero(columns.ok)), fewest, at_least=True))
    return checks


def _steadiness(spec: CellSpec, columns: Columns, workers: Sequence[Mapping[str, Any]], limits: Limits) -> list[Check]:
    checks, seconds = [], spec.load.seconds
    law = little(columns, workers, seconds) if spec.load.kind != "cold" else None
    if law is not None:
        # Few samples of a small N scatter by themselves: the law is broken only beyond that, and where they scatter by
        # more than the cap they cannot tell.
        found, noise = law
        limit = 100 * max(limits.little, min(noise, limits.noise_cap))
        checks.append(Check(LITTLE, "record", 100 * found, limit, " %", binding=noise <= limits.noise_cap))
    if spec.load.kind not in STEADY_KINDS:
        return checks
    closed = spec.load.arrivals == "closed"
    found, wanted = fewest_answers(columns, seconds, closed=closed)
    checks.append(
        Check("right answers in the emptiest of three windows", "server", float(found), float(wanted), at_least=True)
    )
    windows = instability(columns, seconds, closed=closed)
    if windows is not None:
        latency, throughput, noise = windows
        allowed = max(limits.instability, min(noise, limits.noise_cap))
        checks += [
            Check("spread of the medians of three windows", "server", 100 * latency, 100 * allowed, " %"),
            Check(
                "spread of the throughputs of three windows", "server", 100 * throughput, 100 * limits.instability, " %"
            ),
        ]
    for share in (0.5, 0.99):
        moved = drift(columns, seconds, share)
        if moved is not None:
            name = f"p{100 * share:.0f} of the second half against the first"
            checks.append(Check(name, "server", 100 * moved, 10, " %", binding=False))
    return checks


def _server(resources: Mapping[str, Any] | None) -> list[Check]:
    servers = [item for item in (resources or {}).get("servers", ()) if isinstance(item, Mapping)]
    throttled = [float(item["throttled"]) for item in servers if isinstance(item.get("throttled"), int | float)]
    restarts = [float(item["restarts"]) for item in servers if isinstance(item.get("restarts"), int | float)]
    return [
        Check("CPU quota periods throttled", "server", max(throttled, default=None), 0),
        Check("restarts while measured", "server", max(restarts, default=None), 0),
    ]


def _spread(values: Values) -> float:
    return float(values.max() / values.min() - 1) if values.min() > 0 else float("inf")


def _block_error(numbers: Values) -> float:
    """The standard error of a mean of autocorrelated samples, by means of blocks."""
    blocks = [float(block.mean()) for block in np.array_split(numbers, min(10, len(numbers) // 2))]
    return float(np.std(blocks, ddof=1) / np.sqrt(len(blocks)))
