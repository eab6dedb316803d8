"""Schedules: their laws, and that nothing but the seeds shapes them."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from loadtests.cell_spec import Step, Target
from loadtests.engine.arrivals import PIECE, check_load, load_warm_up, schedule, times_of
from loadtests.errors import LoadTestError
from tests.unit.loadtests.engine.builders import cell

LONG = Step(500, 60)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_poisson_gaps_are_exponential() -> None:
    """Kolmogorov-Smirnov finds no difference from the exponential law at the rate of one worker's share."""
    gaps = np.diff(times_of("poisson", LONG, _rng(), workers=2))
    assert stats.kstest(gaps, "expon", args=(0, 2 / LONG.rate)).pvalue > 0.01


@pytest.mark.parametrize(("arrivals", "cv", "low", "high"), [("poisson", 1, 0.9, 1.1), ("gamma", 3, 1.5, 9)])
def test_merged_workers_are_as_bursty_as_the_law_says(arrivals: str, cv: float, low: float, high: float) -> None:
    """Variance over mean of counts in tenths of a second: 1 for Poisson however many workers, more for gamma."""
    streams = [
        times_of(arrivals, LONG, _rng(worker), worker=worker, workers=4, cv=cv)  # type: ignore[arg-type]
        for worker in range(4)
    ]
    counts, _ = np.histogram(np.concatenate(streams), bins=600, range=(0, LONG.seconds))
    assert low < counts.var() / counts.mean() < high
    assert counts.sum() == pytest.approx(LONG.rate * LONG.seconds, rel=0.05)


def test_gamma_gaps_have_the_coefficient_of_variation_asked_for() -> None:
    """One worker's gaps: mean 1/rate, spread cv times that."""
    gaps = np.diff(times_of("gamma", LONG, _rng(), cv=2))
    assert gaps.mean() == pytest.approx(1 / LONG.rate, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("workers", [1, 3])
def test_constant_workers_together_are_evenly_spaced(workers: int) -> None:
    """Each worker has a phase of its own, so that they do not send at the same instants."""
    streams = [times_of("constant", Step(100, 2), _rng(), worker=w, workers=workers) for w in range(workers)]
    merged = np.sort(np.concatenate(streams))
    assert len(merged) == 200
    assert np.diff(merged) == pytest.approx(np.full(199, 0.01))


def test_the_same_seeds_give_the_same_bytes_whatever_is_measured() -> None:
    """The target is not in the key; campaign, scenario, round, step and worker are."""

    def digest(spec: object, worker: int = 0) -> str:
        steps = schedule(spec, worker)  # type: ignore[arg-type]
        return hashlib.sha256(
            b"".join(part.tobytes() for step in steps for piece in step.pieces() for part in piece)
        ).hexdigest()

    spec = cell(steps=(Step(100, 1), Step(100, 1)), workers=2)
    other = replace(spec, target=Target("b", "oip-grpc", "10.0.0.1:9", "other"), slug="b")
    assert digest(spec) == digest(other)
    different = [
        digest(spec),
        digest(spec, 1),
        digest(replace(spec, campaign_seed=8)),
        digest(replace(spec, scenario_index=1)),
        digest(replace(spec, round=4)),
    ]
    assert len(set(different)) == len(different)
    _, first, second = schedule(spec, 0)
    assert first.times.tobytes() != second.times.tobytes()


def test_the_warm_up_lasts_for_both_of_its_limits_and_ends_at_t0() -> None:
    """Its length is known beforehand, so the measured part begins on a scheduled instant."""
    spec = cell(warm_up_seconds=3, warm_up_requests=1000)
    assert load_warm_up(spec.load) == Step(100, 10)
    warm_up, first = schedule(spec, 0)
    assert (warm_up.index, warm_up.starts, first.index, first.starts) == (-1, -10, 0, 0)
    assert warm_up.times.max() < 10


def test_a_pause_has_no_arrivals_and_steps_follow_one_another() -> None:
    """A rate of 0 is a pause."""
    _, first, pause, last = schedule(cell(steps=(Step(50, 2), Step(0, 5), Step(100, 1))), 0)
    assert (len(pause.times), pause.starts, last.starts) == (0, 2, 7)
    assert len(first.times) > 0


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"steps": (Step(0, 5),)}, "rate above 0"),
        ({"steps": (Step(-1, 5), Step(1, 1))}, "neither may be negative"),
        ({"arrivals": "gamma", "cv": 0.0}, "coefficient of variation"),
        ({"workers": 0}, "at least one"),
        ({"arrivals": "closed", "concurrency": 1, "workers": 2}, "each worker needs one"),
        ({"arrivals": "often"}, "expected poisson, constant or gamma"),
    ],
)
def test_a_load_that_cannot_be_sent_is_refused(load: dict[str, object], words: str) -> None:
    """The words say what to change."""
    with pytest.raises(LoadTestError, match=words):
        check_load(cell(**load).load)


def test_a_soak_of_days_is_drawn_piece_by_piece() -> None:
    """However long it is, no more than a piece is in memory; what was drawn is the beginning of the same schedule."""
    _, days = schedule(cell(steps=(Step(1000, 400_000),)), 0)
    _, minutes = schedule(cell(steps=(Step(1000, 100),)), 0)
    pieces = itertools.islice(days.pieces(), 50)
    assert max(len(times) for times, _ in pieces) <= PIECE
    first, draws = next(days.pieces())
    assert np.array_equal(first, minutes.times[: len(first)])
    assert np.array_equal(draws, next(minutes.pieces())[1])
