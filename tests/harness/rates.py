"""How well the generator keeps to its schedule, how fast it can be, and what others say of the same server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.harness.findings import CPU, LAG_P99_S, LATE_SHARE, Finding, fault, near, table
from tests.harness.laws import Fixed
from tests.harness.measuring import Measured, percentile
from tests.harness.oracles import oracle
from tests.harness.validation import Bench

_ROOT = Path(__file__).resolve().parents[2]
_LAG_LIMIT_S = 0.0003
_RATES = (500, 1000, 1500, 2000, 3000, 4000, 6000)
_WRK_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """One generator at one rate."""

    rate: int
    achieved: float
    lag_p50_ms: float
    lag_p99_ms: float
    late_share: float
    cpu: float

    @property
    def valid(self) -> bool:
        """By the limits of a valid cell."""
        return (
            self.lag_p99_ms <= LAG_P99_S * 1e3
            and self.late_share <= LATE_SHARE
            and self.cpu <= CPU
            and abs(self.achieved / self.rate - 1) <= 0.01 + 3 / (self.rate * 5) ** 0.5
        )


def dispatch_lag(bench: Bench) -> list[Finding]:
    """Lag p99 at 1,000 requests/s from one worker, over REST and gRPC."""
    findings = []
    for transport, name in (("rest", "REST"), ("h2", "gRPC")):
        law = Fixed(0.002)
        found = bench.measured(
            law, f"dispatch lag over {name}", seconds=bench.seconds(15), rate=1000, transport=transport
        )
        p50, p99 = (percentile(found.lag, share) for share in (0.5, 0.99))
        cpu = float(np.mean(found.workers[0]["cpu_samples"]))
        findings.append(
            Finding(
                f"dispatch lag, 1,000 requests/s, {name}",
                "D p99",
                "",
                f"{p99 * 1e3:.3f} ms (p50 {p50 * 1e3:.3f} ms, {cpu:.0%} of a core)",
                f"below {_LAG_LIMIT_S * 1e3:g} ms",
                p99 < _LAG_LIMIT_S,
                fault(found),
            )
        )
    return findings


def highest_rates(bench: Bench) -> str:
    """Rate after rate until one is not valid, for our generator over both transports and for plain Locust."""
    rows = []
    for name, pace in (
        ("this engine, REST", lambda rate: _ours(bench, rate, "rest")),
        ("this engine, gRPC", lambda rate: _ours(bench, rate, "h2")),
        ("plain Locust, FastHttpUser", lambda rate: _plain(bench, rate)),
    ):
        paces: list[Pace] = []
        for rate in _RATES:
            paces.append(pace(rate))
            bench.say(f"{name} at {rate}: {'VALID' if paces[-1].valid else 'INVALID(client)'}")
            if not paces[-1].valid:
                break
        rows += [_row(name, pace, paces) for pace in paces]
    return table(("one process", "requests/s", "achieved", "lag p50", "lag p99", "over 1 ms", "CPU", ""), rows)


def _row(name: str, pace: Pace, paces: Sequence[Pace]) -> list[str]:
    best = max((other.rate for other in paces if other.valid), default=0)
    verdict = "VALID" if pace.valid else "INVALID(client)"
    return [
        name,
        f"{pace.rate:,}",
        f"{pace.achieved:,.0f}",
        f"{pace.lag_p50_ms:.3f} ms",
        f"{pace.lag_p99_ms:.3f} ms",
        f"{pace.late_share:.1%}",
        f"{pace.cpu:.0%}",
        f"**{verdict}, the highest**" if pace.rate == best else verdict,
    ]


def _ours(bench: Bench, rate: int, transport: str) -> Pace:
    found = bench.measured(
        Fixed(0.002), f"{rate}/s", seconds=bench.seconds(5), rate=rate, transport=transport, max_in_flight=10_000
    )
    lag = found.lag
    return Pace(
        rate,
        len(lag) / found.spec.load.seconds,
        percentile(lag, 0.5) * 1e3,
        percentile(lag, 0.99) * 1e3,
        float((lag > LAG_P99_S).mean()),
        max(worker["cpu_max"] for worker in found.workers),
    )


def _plain(bench: Bench, rate: int) -> Pace:
    seconds = bench.seconds(5)
    with oracle(Fixed(0.002)) as address:
        done = subprocess.run(
            [sys.executable, "-m", "tests.harness.plain_locust", address, str(rate), str(seconds)],
            capture_output=True, text=True, cwd=_ROOT, timeout=120, check=True,
        )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return Pace(rate, found["rate"], found["lag_p50_ms"], found["lag_p99_ms"], found["late_share"], found["cpu_max"])


def against_wrk(bench: Bench) -> list[Finding]:
    """The same server, asked by wrk and by our closed loop with as many clients: another's clock and another's code."""
    if shutil.which("wrk") is None:
        return [Finding("cross-check with wrk", "closed loop", "", "wrk is not installed", "", True)]
    law, seconds = Fixed(0.02), round(bench.seconds(15))
    with oracle(law) as address:
        done = subprocess.run(
            ["wrk", "-t1", f"-c{_WRK_CONNECTIONS}", f"-d{seconds}s", "--latency", f"http://{address}/predict"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    theirs = done.stdout
    ours: Measured = bench.measured(
        law, "closed loop beside wrk", seconds=seconds, arrivals="closed", concurrency=_WRK_CONNECTIONS
    )
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", theirs)[1])  # type: ignore[index]
    name = f"wrk, {_WRK_CONNECTIONS} connections, delay {law.delay * 1e3:g} ms"
    achieved = len(ours.response) / ours.spec.load.seconds
    return [
        near(name, "requests/s", rate, achieved, share=0.05, cell=ours, unit="/s"),
        near(name, "p50", _of_wrk(theirs, 50), percentile(ours.response, 0.5) * 1e3, share=0.05, cell=ours),
        near(name, "p99", _of_wrk(theirs, 99), percentile(ours.response, 0.99) * 1e3, share=0.20, cell=ours),
    ]


def _of_wrk(output: str, share: int) -> float:
    """A percentile of wrk's latency distribution, in milliseconds."""
    found = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", output)
    if found is None:
        raise ValueError(f"wrk printed no {share}% line:\n{output}")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]
