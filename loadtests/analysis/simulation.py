"""How often the verdicts are wrong, and how often they find what is there: campaigns drawn from a stated law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtests.analysis.samples import Values
from loadtests.analysis.statistics import paired_verdicts, resolution


@dataclass(frozen=True, slots=True)
class Law:
    """Latencies of a round are lognormal with `sigma`. Two scatters move whole rounds: `machine_sigma` both sides of a
    round alike (it cancels in pairs), `side_sigma` each side on its own (it does not).
    """

    sigma: float = 0.5
    machine_sigma: float = 0.10
    side_sigma: float = 0.03
    requests: int = 1000
    share: float = 0.99


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of simulated campaigns. `wrong` had any cell called faster or slower, `found` is the mean share of cells
    called slower, `resolution` the mean of the A/A control's.
    """

    campaigns: int
    wrong: float
    found: float
    equivalent: float
    resolution: float


def simulate(
    *,
    campaigns: int = 200,
    rounds: int = 10,
    cells: int = 6,
    effect: float = 0.0,
    seed: int = 7,
    law: Law | None = None,
) -> Outcome:
    """Campaigns of `cells` comparisons over `rounds`, with an A/A control each, judged as a run is.

    `effect` is how much slower B is, as a share; 0 makes every `faster` or `slower` a false alarm. At the defaults 200
    campaigns take a few seconds.
    """
    law = law or Law()
    generator = np.random.default_rng([seed, round(effect * 1e6)])
    wrong, found, equal, seen = 0, 0.0, 0.0, 0.0
    for _ in range(campaigns):
        machine = generator.normal(0, law.machine_sigma, (cells + 1, rounds))
        a = _percentiles(generator, law, machine, 0.0)
        # The last pair is the control: the same law twice.
        b = _percentiles(generator, law, machine, np.log1p(effect) * (np.arange(cells + 1) < cells)[:, None])
        differences = b - a
        aa = resolution(differences[cells])
        words = [
            verdict.word
            for verdict in paired_verdicts(list(differences[:cells]), aa=[aa] * cells, higher_is_better=[False] * cells)
        ]
        wrong += any(word in ("faster", "slower") for word in words)
        found += words.count("slower") / cells
        equal += words.count("equivalent") / cells
        seen += aa
    return Outcome(campaigns, wrong / campaigns, found / campaigns, equal / campaigns, seen / campaigns)


def _percentiles(generator: np.random.Generator, law: Law, machine: Values, shift: float | Values) -> Values:
    """ln of each round's percentile, (cells, rounds)."""
    own = machine + generator.normal(0, law.side_sigma, machine.shape) + shift
    draws = generator.standard_normal((*machine.shape, law.requests)) * law.sigma
    rank = int(np.ceil(law.share * law.requests)) - 1
    return np.asarray(own + np.partition(draws, rank, axis=-1)[..., rank])
