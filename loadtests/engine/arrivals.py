"""When requests are due: schedules that are made before the run, from seeds, the same for every target.

Times are seconds from the beginning of a step, rates requests a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtests.cell_spec import Arrivals, CellSpec, Load, Step
from loadtests.errors import LoadTestError

Times = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

# The warm-up's place in the seed, where the steps have theirs: seeds are of 32 bits and not negative.
_WARM_UP_KEY = 2**32 - 1
WARM_UP = -1


@dataclass(frozen=True, slots=True, eq=False)
class StepSchedule:
    """One worker's arrivals of one step: `times` ascending in [0, seconds), `draws` one number in [0, 2**32) for each.

    A draw decides what is asked; it does not depend on the target either. `starts` is where the step begins, in
    seconds from the cell's T0; `index` is its place in the load, -1 for the warm-up.
    """

    index: int
    starts: float
    seconds: float
    times: Times
    draws: Numbers


def schedule(spec: CellSpec, worker: int) -> tuple[StepSchedule, ...]:
    """The whole schedule of a worker of an open-loop cell: the warm-up, then every step.

    T0 is the beginning of the first measured step, so the warm-up has negative times. Raises LoadTestError for
    a load that no schedule can be made of.
    """
    load = spec.load
    steps = [StepSchedule(WARM_UP, -load_warm_up(load).seconds, *_arrivals(spec, WARM_UP, load_warm_up(load), worker))]
    starts = 0.0
    for index, step in enumerate(load.steps):
        steps.append(StepSchedule(index, starts, *_arrivals(spec, index, step, worker)))
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


def _arrivals(spec: CellSpec, index: int, step: Step, worker: int) -> tuple[float, Times, Numbers]:
    rng = generator(spec, index, worker)
    times = times_of(spec.load.arrivals, step, rng, worker=worker, workers=spec.load.workers, cv=spec.load.cv)
    return step.seconds, times, rng.integers(0, 2**32, len(times))


def generator(spec: CellSpec, step: int, worker: int) -> np.random.Generator:
    """The stream of random numbers of one step in one worker. What is measured is not in its key."""
    key = [spec.campaign_seed, spec.scenario_index, spec.round, _WARM_UP_KEY if step == WARM_UP else step, worker]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def times_of(
    arrivals: Arrivals, step: Step, rng: np.random.Generator, *, worker: int = 0, workers: int = 1, cv: float = 1.0
) -> Times:
    """One worker's share of a step's arrivals, in [0, step.seconds).

    `poisson`: exponential gaps; the streams of all workers together are Poisson again. `constant`: every worker has
    a phase of its own, so that all together are evenly spaced. `gamma`: gaps of mean 1/rate and coefficient of
    variation `cv` in each worker's stream; the more workers, the closer to Poisson they are together.
    """
    if step.rate < 0 or not math.isfinite(step.rate) or step.seconds < 0:
        raise LoadTestError(f"a step of {step.rate:g} requests/s for {step.seconds:g} s; neither may be negative")
    rate = step.rate / workers
    if rate == 0 or step.seconds == 0:
        return np.empty(0)
    if arrivals == "constant":
        gap = 1 / rate
        first = gap * (worker + 0.5) / workers
        times = first + gap * np.arange(math.ceil((step.seconds - first) / gap) + 1)
        return times[times < step.seconds]
    if arrivals == "poisson":
        return _renewals(lambda count: rng.exponential(1 / rate, count), rate, step.seconds)
    if arrivals == "gamma":
        if cv <= 0:
            raise LoadTestError(f"gamma arrivals need a coefficient of variation above 0; got {cv:g}")
        return _renewals(lambda count: rng.gamma(1 / cv**2, cv**2 / rate, count), rate, step.seconds)
    raise LoadTestError(f"'{arrivals}' arrivals have no schedule; expected poisson, constant or gamma")


def _renewals(gaps: Callable[[int], Times], rate: float, seconds: float) -> Times:
    """The sums of gaps up to `seconds`; as many gaps are drawn at a time as are likely to be enough."""
    block = math.ceil(rate * seconds + 4 * math.sqrt(rate * seconds) + 8)
    parts = [np.cumsum(gaps(block))]
    while parts[-1][-1] < seconds:
        parts.append(parts[-1][-1] + np.cumsum(gaps(block)))
    times = np.concatenate(parts)
    return times[times < seconds]
