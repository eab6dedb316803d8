"""The laws at length: each gives findings, and some a table of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from scipy import stats

from loadtests.analysis.simulation import simulate
from loadtests.cell_spec import Step
from loadtests.engine.arrivals import times_of
from loadtests.engine.health import histogram, microseconds
from tests.harness.findings import Finding, fault, near, reasons, table
from tests.harness.laws import Fixed, Law, Queue, Refusal, Stall, Wrong, lindley
from tests.harness.measuring import Measured, Values, law_times, measured, percentile, write_golden
from tests.harness.starving import starved

TRIES = 3
_REPLICATIONS = 400


@dataclass(slots=True)
class Bench:
    """Where and for how long to measure; `say` is told what is going on. `scale` shortens everything."""

    folder: Path
    say: Callable[[str], None]
    scale: float = 1.0
    _count: int = 0

    def seconds(self, full: float, least: float = 3.0) -> float:
        """How long what takes `full` seconds at length takes now."""
        return max(least, full * self.scale)

    def measured(self, law: Law, what: str, **load: Any) -> Measured:
        """A cell; measured again, up to three times, where something held the generator up."""
        for number in range(TRIES):
            self._count += 1
            folder = self.folder / str(self._count)
            folder.mkdir(parents=True)
            if load.get("parity"):
                write_golden(folder)
            found = measured(law, folder, **load)
            held_up = fault(found)
            self.say(f"{what}: {f'generator INVALID ({held_up})' if held_up else 'measured'}, try {number + 1}")
            if not held_up:
                break
        return found

    def bias(self, transport: str = "rest") -> Measured:
        """What this machine adds to everything now: a server that answers at once, at 200 requests/s.

        Measured anew beside each law: a machine that others use is faster in one minute than in the next.
        """
        what = f"null over {transport}"
        return self.measured(Fixed(), what, seconds=self.seconds(8), rate=200, transport=transport)


def fixed_delay(bench: Bench) -> list[Finding]:
    """S is the delay, over both transports, at every percentile."""
    findings, delay = [], 0.02
    for transport, name in (("rest", "REST"), ("grpc", "gRPC")):
        null = bench.bias(transport)
        found = bench.measured(
            Fixed(delay), f"fixed delay over {name}", seconds=bench.seconds(12), rate=200, transport=transport
        )
        for share in (0.5, 0.99):
            expected = delay + percentile(null.service, share)
            findings.append(
                near(
                    f"fixed delay {delay * 1e3:g} ms, {name}",
                    f"S p{share * 100:g}",
                    expected * 1e3,
                    percentile(found.service, share) * 1e3,
                    share=0.03,
                    cell=found,
                )
            )
    return findings


def stall(bench: Bench) -> tuple[list[Finding], str]:
    """One stall, by an open and by a closed loop; the table shows them side by side."""
    seconds = bench.seconds(30, 10)
    lasts = 1.4 * seconds / 30
    law = Stall(begins=1 + seconds / 2, lasts=lasts)
    opened = bench.measured(law, "stall, open loop", seconds=seconds, rate=200)
    closed = bench.measured(law, "stall, closed loop", seconds=seconds, arrivals="closed", concurrency=1)
    name = f"one stall of {lasts:.2f} s in {seconds:g} s"
    findings = [
        near(name, "L p99, open loop: d - 0.01 T", (lasts - 0.01 * seconds) * 1e3,
             percentile(opened.response, 0.99) * 1e3, share=0.10, cell=opened),
        Finding(
            name, "p99, closed loop: nothing seen", f"{percentile(closed.service, 0.5) * 1e3:.2f} ms (its p50)",
            f"{percentile(closed.response, 0.99) * 1e3:.2f} ms", "at most a tenth of the open loop's",
            percentile(closed.response, 0.99) < percentile(opened.response, 0.99) / 10,
        ),
    ]  # fmt: skip
    shares = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
    lines: list[tuple[str, Values]] = [
        ("open loop, from the scheduled instant (L)", opened.response),
        ("the same requests, from the instant of sending (S)", opened.service),
        ("closed loop, one client", closed.response),
    ]
    head = ("ms", "requests", *(f"p{share * 100:g}" for share in shares[:-1]), "max")
    rows = [
        (label, str(len(values)), *(f"{percentile(values, share) * 1e3:.2f}" for share in shares))
        for label, values in lines
    ]
    return findings, table(head, rows)


def m_m_1(bench: Bench) -> list[Finding]:
    """Mean and p99 of an exponential server: against the recursion for this very schedule, and against theory."""
    findings, mu = [], 500.0
    for rho in (0.3, 0.6, 0.8):
        law, rate = Queue(rate=mu, seed=3), mu * rho
        found = bench.measured(law, f"M/M/1 at {rho:g}", seconds=bench.seconds(60), rate=rate)
        bias = bench.bias().response.mean()
        expected = law_times(found.spec, law) + bias
        name = f"M/M/1, rho {rho:g}, n {len(found.response)}"
        others = _replications(law, rate, found.spec.load.seconds)
        for what, of, theory in (
            ("mean", np.mean, 1 / (mu - rate)),
            ("p99", lambda values: percentile(values, 0.99), np.log(100) / (mu - rate)),
        ):
            got = float(of(found.response))
            findings.append(
                near(name, f"L {what}, this schedule", float(of(expected)) * 1e3, got * 1e3, share=0.05, cell=found)
            )
            low, high = np.quantile([of(values + bias) for values in others], (0.005, 0.995)) * 1e3
            findings.append(
                Finding(
                    name,
                    f"L {what}, theory",
                    f"{theory * 1e3:.3f} ms",
                    f"{got * 1e3:.3f} ms",
                    f"{low:.2f} to {high:.2f} ms: 99 % of runs as long",
                    low <= got * 1e3 <= high,
                    fault(found),
                )
            )
    return findings


def _replications(law: Queue, rate: float, seconds: float) -> list[Values]:
    """The law on other schedules and services, to see how far runs of this length differ."""
    rng = np.random.default_rng(17)
    replications = []
    for _ in range(_REPLICATIONS):
        arrivals = times_of("poisson", Step(rate, seconds), rng)
        services = rng.exponential(1 / law.rate, len(arrivals)) if law.exponential else 1 / law.rate
        services = np.broadcast_to(services, len(arrivals))
        replications.append(lindley(arrivals, services))
    return replications


def m_d_1(bench: Bench) -> list[Finding]:
    """A fixed server: Poisson arrivals wait, evenly spaced ones do not."""
    mu, rate = 500.0, 350.0
    law = Queue(rate=mu, exponential=False)
    rho, bias = rate / mu, bench.bias().response.mean()
    poisson = bench.measured(law, "M/D/1", seconds=bench.seconds(30), rate=rate)
    constant = bench.measured(law, "D/D/1", seconds=bench.seconds(10), rate=rate, arrivals="constant")
    expected = law_times(poisson.spec, law).mean() - 1 / mu + bias
    waited = poisson.response.mean() - 1 / mu
    idle = constant.response.mean() - 1 / mu - bias
    theory = rho / (2 * mu * (1 - rho))
    others = [values.mean() - 1 / mu + bias for values in _replications(law, rate, poisson.spec.load.seconds)]
    low, high = np.quantile(others, (0.005, 0.995)) * 1e3
    name = f"M/D/1, rho {rho:g}"
    return [
        near(name, "mean wait, this schedule", expected * 1e3, waited * 1e3, share=0.05, cell=poisson),
        Finding(name, "mean wait, theory", f"{theory * 1e3:.3f} ms", f"{waited * 1e3:.3f} ms",
                f"{low:.2f} to {high:.2f} ms: 99 % of runs as long", low <= waited * 1e3 <= high, fault(poisson)),
        Finding(f"D/D/1, rho {rho:g}", "mean wait, evenly spaced arrivals", "0 ms", f"{idle * 1e3:.3f} ms",
                "at most a fifth of the Poisson wait", idle <= theory / 5, fault(constant)),
    ]  # fmt: skip


def refusal(bench: Bench) -> list[Finding]:
    """Refusals are misses, and leave the right answers' latency alone."""
    seconds = bench.seconds(20, 8)
    lasts = seconds / 5
    found = bench.measured(
        Refusal(begins=1 + seconds / 3, lasts=lasts), "refusal", seconds=seconds, rate=200, arrivals="constant"
    )
    attained = found.ok.mean()
    calm = bench.bias()
    return [
        near(f"refusal for {lasts:g} of {seconds:g} s", "attainment 1 - k/T", 0.8, float(attained), share=0.02,
             cell=found, unit=""),
        near(f"refusal for {lasts:g} of {seconds:g} s", "S p50 of right answers",
             (0.002 + percentile(calm.service, 0.5)) * 1e3, percentile(found.service, 0.5) * 1e3, share=0.10,
             cell=found),
        Finding(f"refusal for {lasts:g} of {seconds:g} s", "outcomes add up", str(found.health["scheduled"]),
                str(len(found.outcomes)), "equal", found.health["scheduled"] == len(found.outcomes), fault(found)),
    ]  # fmt: skip


def wrong_answers(bench: Bench) -> list[Finding]:
    """One in a hundred is wrong, with status 200."""
    found = bench.measured(Wrong(100), "wrong answers", seconds=bench.seconds(10), rate=300, parity=True)
    whole = list(found.rows["outcome"].to_pylist())
    wrong = whole.count("wrong_answer")
    said = [reason for reason in reasons(found) if "wrong answers" in reason]
    return [
        Finding("1 % wrong answers", "wrong answers found", str(len(whole) // 100), str(wrong), "every one",
                wrong == len(whole) // 100, fault(found)),
        Finding("1 % wrong answers", "the cell's validity", "INVALID(server)", "; ".join(said) or "VALID", "INVALID",
                bool(said), fault(found)),
    ]  # fmt: skip


def starved_generator(bench: Bench) -> list[Finding]:
    """A generator that gets a twentieth of the time must be found out."""
    folder = bench.folder / "starved"
    folder.mkdir()
    with starved():
        found = measured(Fixed(0.001), folder, rate=400, seconds=8, warm_up_seconds=3)
    bench.say("starved generator: measured")
    said = [reason for reason in reasons(found) if reason.startswith("client")]
    return [Finding("generator starved to 5 %", "the cell's validity", "INVALID(client)", "; ".join(said) or "VALID",
                    "INVALID", bool(said))]  # fmt: skip


def schedules(bench: Bench) -> list[Finding]:
    """Schedules alone; nothing is sent."""
    del bench
    step = Step(1000, 100)
    streams = [times_of("poisson", step, np.random.default_rng([5, worker]), worker=worker, workers=4)
               for worker in range(4)]  # fmt: skip
    gaps = stats.kstest(np.diff(streams[0]), "expon", args=(0, 4 / step.rate)).pvalue
    merged = np.sort(np.concatenate(streams))
    together = stats.kstest(np.diff(merged), "expon", args=(0, 1 / step.rate)).pvalue
    counts, _ = np.histogram(merged, bins=1000, range=(0, step.seconds))
    dispersion = counts.var() / counts.mean()
    low, high = stats.chi2.ppf((0.005, 0.995), len(counts) - 1) / (len(counts) - 1)
    return [
        Finding("Poisson schedule", "gaps of one worker, KS test p", "exponential", f"{gaps:.2f}", "above 0.01",
                gaps > 0.01),
        Finding("Poisson schedule", "gaps of four workers merged, p", "exponential", f"{together:.2f}", "above 0.01",
                together > 0.01),
        Finding("Poisson schedule", "variance over mean of counts, merged", "1", f"{dispersion:.3f}",
                f"{low:.3f} to {high:.3f}", low < dispersion < high),
    ]  # fmt: skip


def merging(bench: Bench) -> list[Finding]:
    """Two workers' histograms together are the histogram of all rows."""
    found = bench.measured(Fixed(0.003), "two workers", seconds=bench.seconds(6), rate=300, workers=2)
    same = True
    for name, values in (("L", found.response), ("S", found.service), ("D", found.lag)):
        merged, whole = histogram(), histogram()
        for worker in found.workers:
            merged.add(HdrHistogram.decode(worker["hdr"][name]))
        for value in values.tolist():
            whole.record_value(microseconds(value))
        same &= bucket_counts(merged) == bucket_counts(whole)
    return [
        Finding("merged histograms", "L, S and D of two workers against all rows", "equal counts",
                "equal counts" if same else "different", "equal", same),
    ]  # fmt: skip


def bucket_counts(histogram: HdrHistogram) -> dict[int, int]:
    """Value and count of every bucket that holds something."""
    return {item.value_iterated_to: item.count_at_value_iterated_to for item in histogram.get_recorded_iterator()}


def simulated(bench: Bench) -> list[Finding]:
    """False alarms and power of the verdicts: whole campaigns drawn from a stated law, judged as a run is."""
    alarms, power, small = simulate(), simulate(effect=0.2), simulate(effect=0.05)
    bench.say("simulated campaigns: judged")
    name = f"{alarms.campaigns} simulated campaigns"
    return [
        Finding(f"A against A, {name}", "with any false alarm", "at most 5 %", f"{alarms.wrong:.1%}", "at most 5 %",
                alarms.wrong <= 0.05),
        Finding(f"A against A, {name}", "A/A half-width of p99, mean", "", f"{alarms.resolution:.1%}", "printed", True),
        Finding(f"A against A + 20 %, {name}", "cells found slower", "at least 80 %", f"{power.found:.1%}",
                "at least 80 %", power.found >= 0.8),
        Finding(f"A against A + 5 %, {name}", "cells found slower", "", f"{small.found:.1%}", "printed", True),
    ]  # fmt: skip
