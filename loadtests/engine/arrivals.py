"""When requests are due: schedules that seeds decide before the run, the same for every target.

They are drawn piece by piece while they are sent: a soak of a day would fill the memory otherwise.

Times are seconds from the beginning of a step, rates requests a second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from loadtests.cell_spec import Arrivals, CellSpec, Load, Step
from loadtests.errors import LoadTestError

Times = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

# The warm-up's place in the seed, where the steps have theirs: seeds are of 32 bits and not negative.
_WARM_UP_KEY = 2**32 - 1
# What is asked has a stream of its own beside that of the instants.
_DRAWS_KEY = 1
WARM_UP = -1
# Arrivals that are drawn at once; more would hold up those that are due meanwhile.
PIECE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class StepSchedule:
    """One worker's arrivals of one step. `starts` is where the step begins, in seconds from the cell's T0.

    `index` is its place in the load, -1 for the warm-up.
    """

    index: int
    starts: float
    seconds: float
    _pieces: Callable[[], Iterator[tuple[Times, Numbers]]]

    def pieces(self) -> Iterator[tuple[Times, Numbers]]:
        """Times, ascending in [0, seconds), and one number in [0, 2**32) for each, at most `PIECE` at once.

        A number decides what is asked; it does not depend on the target either. Every call gives the same.
        """
        return self._pieces()

    @property
    def times(self) -> Times:
        """All of its times."""
        return np.concatenate([np.empty(0), *(times for times, _ in self.pieces())])


def schedule(spec: CellSpec, worker: int) -> tuple[StepSchedule, ...]:
    """The whole schedule of a worker of an open-loop cell: the warm-up, then every step.

    T0 is the beginning of the first measured step, so the warm-up has negative times. Raises LoadTestError for
    a load that no schedule can be made of.
    """
    load = spec.load
    warm_up = load_warm_up(load)
    steps = [
        StepSchedule(WARM_UP, -warm_up.seconds, warm_up.seconds, partial(_arrivals, spec, WARM_UP, warm_up, worker))
    ]
    starts = 0.0
    for index, step in enumerate(load.steps):
        steps.append(StepSchedule(index, starts, step.seconds, partial(_arrivals, spec, index, step, worker)))
        starts += step.seconds
    return tuple(steps)


def check_load(load: Load) -> None:
    """Raises LoadTestError for a load that cannot be sent."""
    if load.workers < 1:
        raise LoadTestError(f"{load.workers} workers; a cell needs at least one")
    if load.arrivals != "closed":
        rate = load_warm_up(load).rate
        for step in load.steps:
            times_of(load.arrivals, Step(step.rate, min(step.seconds, 1 / rate)), np.random.default_rng(0), cv=load.cv)
    elif load.concurrency < load.workers:
        raise LoadTestError(f"{load.concurrency} clients for {load.workers} workers; each worker needs one")


def load_warm_up(load: Load) -> Step:
    """The warm-up of an open loop: at the rate of the first step that has one, for as long as both limits ask for.

    Its end is known beforehand, so that the measured part begins on a scheduled instant.
    """
    rate = next((step.rate for step in load.steps if step.rate > 0), 0.0)
    if rate == 0.0:
        raise LoadTestError("an open loop needs a step with a rate above 0; for clients that wait, use `closed`")
    return Step(rate, max(load.warm_up_seconds, load.warm_up_requests / rate))


def _arrivals(spec: CellSpec, index: int, step: Step, worker: int) -> Iterator[tuple[Times, Numbers]]:
    load, rng, draws = spec.load, generator(spec, index, worker), generator(spec, index, worker, _DRAWS_KEY)
    for times in pieces_of(load.arrivals, step, rng, worker=worker, workers=load.workers, cv=load.cv):
        yield times, draws.integers(0, 2**32, len(times))


def generator(spec: CellSpec, step: int, worker: int, *more: int) -> np.random.Generator:
    """A stream of random numbers of one step in one worker. What is measured is not in its key."""
    place = _WARM_UP_KEY if step == WARM_UP else step
    key = [spec.campaign_seed, spec.scenario_index, spec.round, place, worker, *more]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def times_of(
    arrivals: Arrivals, step: Step, rng: np.random.Generator, *, worker: int = 0, workers: int = 1, cv: float = 1.0
) -> Times:
    """All of what `pieces_of` gives."""
    pieces = pieces_of(arrivals, step, rng, worker=worker, workers=workers, cv=cv)
    return np.concatenate([np.empty(0), *pieces])


def pieces_of(
    arrivals: Arrivals, step: Step, rng: np.random.Generator, *, worker: int = 0, workers: int = 1, cv: float = 1.0
) -> Iterator[Times]:
    """One worker's share of a step's arrivals, ascending in [0, step.seconds), at most `PIECE` at a time.

    `poisson`: exponential gaps; the streams of all workers together are Poisson again. `constant`: every worker has
    a phase of its own, so that all together are evenly spaced. `gamma`: gaps of mean 1/rate and coefficient of
    variation `cv` in each worker's stream; the more workers, the closer to Poisson they are together.
    """
    if step.rate < 0 or not math.isfinite(step.rate) or step.seconds < 0:
        raise LoadTestError(f"a step of {step.rate:g} requests/s for {step.seconds:g} s; neither may be negative")
    rate = step.rate / workers
    if rate == 0 or step.seconds == 0:
        return
    if arrivals == "constant":
        pieces = _even(1 / rate, (worker + 0.5) / workers)
    elif arrivals == "poisson":
        pieces = _renewals(lambda: rng.exponential(1 / rate, PIECE))
    elif arrivals == "gamma":
        if cv <= 0:
            raise LoadTestError(f"gamma arrivals need a coefficient of variation above 0; got {cv:g}")
        pieces = _renewals(lambda: rng.gamma(1 / cv**2, cv**2 / rate, PIECE))
    else:
        raise LoadTestError(f"'{arrivals}' arrivals have no schedule; expected poisson, constant or gamma")
    for times in pieces:
        if times[-1] >= step.seconds:
            yield times[times < step.seconds]
            return
        yield times


def _even(gap: float, phase: float) -> Iterator[Times]:
    """Evenly spaced for ever, the first after a share of the gap."""
    for first in itertools.count(0, PIECE):
        yield gap * (phase + first + np.arange(PIECE))


def _renewals(gaps: Callable[[], Times]) -> Iterator[Times]:
    """The sums of gaps for ever."""
    last = 0.0
    while True:
        times = last + np.cumsum(gaps())
        last = float(times[-1])
        yield times
