"""The search for the highest rate that meets an objective, on a server whose law says which that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from loadtests.analysis.cell import summarise
from loadtests.analysis.search import Try, found_rate, next_rate
from tests.harness.findings import Finding
from tests.harness.laws import Queue
from tests.harness.measuring import Measured
from tests.harness.validation import Bench

MU, SLO_MS = 500.0, 40.0
# L of an M/M/1 queue is exponential with mu - lambda: its p99 is the objective there.
EXPECTED = MU - math.log(100) / (SLO_MS / 1e3)
# The rule wants to be sure of the p99, hence less than the law's own rate; a run of seconds scatters.
LOW, HIGH = 0.6 * EXPECTED, 1.15 * EXPECTED
_MOST_TRIES = 30


def searched(measure: Callable[[float], Measured]) -> list[Try]:
    """The tries of a search, as a campaign makes them."""
    tried: list[Try] = []
    while len(tried) < _MOST_TRIES and (rate := next_rate(tried, first=200.0)) is not None:
        found = measure(rate)
        line = summarise(replace(found.spec, slo_ms=SLO_MS), found.rows, found.health, None, None, tier="quick")
        tried.append((rate, line["meets_slo"]))
    return tried


def search(bench: Bench) -> list[Finding]:
    """The rate that a search finds on an M/M/1 queue."""
    law, seconds = Queue(rate=MU, seed=9), bench.seconds(20, least=4)
    tried = searched(lambda rate: bench.measured(law, f"search at {rate:g}/s", rate=rate, seconds=seconds))
    found = found_rate(tried)
    held_up = "" if found is not None or any(met is not None for _, met in tried) else "no try told anything"
    return [
        Finding(
            f"search on M/M/1, {MU:g}/s, objective {SLO_MS:g} ms",
            "highest rate, mu - ln(100)/objective",
            f"{EXPECTED:.0f} /s",
            f"{found:.0f} /s in {len(tried)} tries" if found is not None else "none",
            f"{LOW:.0f} to {HIGH:.0f} /s",
            found is not None and LOW <= found <= HIGH,
            held_up,
        )
    ]
