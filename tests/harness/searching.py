"""The search for the highest rate that meets an objective, on a server whose law says which that is.

L of an M/M/1 queue is exponential with mu - lambda, so that its p99 is the objective at mu - ln(100) / objective. A
search ends below: it asks for 99 % confidence in the p99, and waiting times of a queue come in clusters. How far below
is not read off what was measured: the search's own rule is played on the law, and the limits are where 99 % of such
searches end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from loadtests.analysis.cell import summarise
from loadtests.analysis.samples import n_min
from loadtests.analysis.search import Try, found_rate, next_rate
from loadtests.cell_spec import LONGEST_TRY_S, TRY_REQUESTS, Step
from loadtests.engine.arrivals import times_of
from tests.harness.findings import Finding
from tests.harness.laws import Queue, lindley
from tests.harness.measuring import Measured, Values, law_times
from tests.harness.validation import Bench

MU, SLO_MS = 500.0, 40.0
EXPECTED = MU - math.log(100) / (SLO_MS / 1e3)
FIRST = 200.0
# What the harness may be off the law in one figure, as in every other row.
SHARE = 0.05
_MOST_TRIES = 30
_SEARCHES = 1000


def seconds_of(rate: float, seconds: float) -> float:
    """How long a campaign tries a rate."""
    return max(seconds, min(TRY_REQUESTS / rate, LONGEST_TRY_S))


def meets(response: Values) -> bool:
    """Whether these response times (seconds) show a p99 within the objective, by the rule of the search."""
    return len(response) >= n_min(0.99, int(np.count_nonzero(response > SLO_MS / 1e3)))


def searched(measure: Callable[[float], Measured]) -> list[tuple[Try, Measured]]:
    """The tries of a search, as a campaign makes them."""
    tried: list[tuple[Try, Measured]] = []
    while len(tried) < _MOST_TRIES and (rate := next_rate([own for own, _ in tried], first=FIRST)) is not None:
        found = measure(rate)
        line = summarise(replace(found.spec, slo_ms=SLO_MS), found.rows, found.health, None, None, tier="quick")
        tried.append(((rate, line["meets_slo"]), found))
    return tried


def limits(seconds: float, bias: float = 0.0, searches: int = _SEARCHES) -> tuple[float, float]:
    """Between which rates 99 % of all searches on the law end whose tries last `seconds`; none found counts as 0.

    `bias` seconds are what the machine adds to each response.
    """
    rng = np.random.default_rng(23)
    ends = [found_rate(_played(seconds, bias, rng)) or 0.0 for _ in range(searches)]
    low, high = np.quantile(ends, (0.005, 0.995))
    return float(low), float(high)


def _played(seconds: float, bias: float, rng: np.random.Generator) -> list[Try]:
    tried: list[Try] = []
    while len(tried) < _MOST_TRIES and (rate := next_rate(tried, first=FIRST)) is not None:
        arrivals = times_of("poisson", Step(rate, seconds_of(rate, seconds)), rng)
        tried.append((rate, meets(lindley(arrivals, rng.exponential(1 / MU, len(arrivals))) + bias)))
    return tried


def as_the_law_says(met: bool | None, response: Values) -> bool:
    """Whether a try was decided as the law's own times for its schedule decide, where these do so within 5 %."""
    return met is None or met in (meets(response * (1 - SHARE)), meets(response * (1 + SHARE)))


def search(bench: Bench) -> list[Finding]:
    """The rate that a search finds on an M/M/1 queue, and each of its decisions."""
    law, seconds, bias = Queue(rate=MU, seed=9), bench.seconds(20, least=4), float(bench.bias().response.mean())
    tried = searched(
        lambda rate: bench.measured(law, f"search at {rate:g}/s", rate=rate, seconds=seconds_of(rate, seconds))
    )
    found = found_rate([own for own, _ in tried])
    low, high = limits(seconds, bias)
    held_up = "" if all(met is not None for (_, met), _ in tried) else "a try told nothing"
    right = [as_the_law_says(met, law_times(own.spec, law) + bias) for (_, met), own in tried]
    name = f"search on M/M/1, {MU:g}/s, objective {SLO_MS:g} ms"
    return [
        Finding(
            name,
            "highest rate; the p99 is the objective at mu - ln(100)/objective",
            f"below {EXPECTED:.0f} /s",
            f"{found:.0f} /s in {len(tried)} tries" if found is not None else "none",
            f"{low:.0f} to {high:.0f} /s: 99 % of searches as long",
            found is not None and low <= found <= high,
            held_up,
        ),
        Finding(
            name,
            "tries decided as the law decides on their schedules, 5 % longer or shorter",
            "every one",
            f"{sum(right)} of {len(right)}",
            "every one",
            all(right),
            held_up,
        ),
    ]
