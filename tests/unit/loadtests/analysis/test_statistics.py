"""The statistics against printed tables, other implementations and laws that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from loadtests.analysis.samples import n_min, percentile, percentiles, rank, shows
from loadtests.analysis.simulation import simulate
from loadtests.analysis.statistics import (
    Verdict,
    a12,
    bootstrap_mean,
    holm,
    paired_verdicts,
    permutation_p,
    resolution,
    shift_function,
    sign_flip_p,
    two_sample_bootstrap,
)

# Section 2.4 of the method, whose t=1, p=.99 figure is LoadGen's 662.
PRINTED = {
    0.90: (44, 64, 81, 127, 197, 681, 1246),
    0.95: (90, 130, 165, 259, 398, 1372, 2504),
    0.99: (459, 662, 838, 1307, 2010, 6898, 12571),
    0.999: (4603, 6636, 8403, 13105, 20140, 69058, 125826),
}


@pytest.mark.parametrize(("share", "row"), PRINTED.items())
def test_the_table_of_fewest_samples_is_the_printed_one(share: float, row: tuple[int, ...]) -> None:
    """Every figure of the method's table comes out of the binomial law."""
    assert tuple(n_min(share, late) for late in (0, 1, 2, 5, 10, 50, 100)) == row


def test_nearest_rank_takes_a_value_that_was_measured() -> None:
    """ceil(p n), where binary fractions would be one too high."""
    assert [rank(100, 0.99), rank(1000, 0.999), rank(10, 0.5), rank(1, 0.99), rank(7, 0.0)] == [99, 999, 5, 1, 1]
    values = np.arange(1.0, 1001.0)
    assert percentile(values, 0.99) == 990.0


@pytest.mark.parametrize(("share", "least"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459), (0.999, 20_000)])
def test_a_percentile_is_shown_only_from_enough_samples_on(share: float, least: int) -> None:
    """One fewer shows none."""
    assert (shows(least, share), shows(least - 1, share)) == (True, False)


def test_too_few_samples_leave_only_what_needs_none() -> None:
    """No percentile of five values; their maximum and mean are what they are."""
    assert percentiles([1, 2, 3, 4, 5]) == {
        **dict.fromkeys(("p50", "p90", "p95", "p99", "p999")),
        "max": 5.0,
        "mean": 3.0,
    }
    assert percentiles([])["mean"] is None


@given(st.integers(0, 2**32), st.integers(459, 3000), st.floats(0, 3))
def test_percentiles_never_fall_with_the_share(seed: int, count: int, sigma: float) -> None:
    """p50 <= p90 <= p95 <= p99 <= max."""
    found = percentiles(np.random.default_rng(seed).lognormal(0, sigma, count))
    ordered = [found[name] for name in ("p50", "p90", "p95", "p99", "max")]
    assert ordered == sorted(ordered, key=lambda value: value or 0.0)


def test_the_interval_of_a_mean_is_scipy_s() -> None:
    """Our BCa interval is that of an independent implementation, to its Monte Carlo error."""
    data = np.random.default_rng(3).lognormal(0, 0.8, 20)
    ours = bootstrap_mean(data)
    theirs = bootstrap((data,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=0.02)


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Of 300 samples of ten, about 95 % of the intervals hold the true mean; small samples cost a little."""
    generator = np.random.default_rng(11)
    intervals = [bootstrap_mean(generator.normal(1, 0.2, 10), resamples=2000) for _ in range(300)]
    covered = np.mean([found.low <= 1 <= found.high for found in intervals])
    assert 0.88 <= covered <= 0.98


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0]])
def test_where_nothing_varies_the_interval_says_so(values: list[float]) -> None:
    """Equal values give a point, one value gives no interval."""
    found = bootstrap_mean(values)
    assert found.value == 2.0
    assert math.isnan(found.low) if len(values) == 1 else (found.low, found.high) == (2.0, 2.0)


@pytest.mark.parametrize(("rounds", "p"), [(5, 0.0625), (6, 0.03125), (10, 0.001953125)])
def test_the_least_p_value_is_set_by_the_rounds(rounds: int, p: float) -> None:
    """2 / 2^R, reached when every round says the same."""
    assert sign_flip_p(np.full(rounds, 0.3)) == p


def test_the_sign_flip_test_counts_what_is_as_extreme() -> None:
    """By hand: of |±1±2±3|, six in all 8 are 4 or less, so 4 is reached by 4 of 8."""
    assert sign_flip_p([1.0, 2.0, -3.0]) == 1.0
    assert sign_flip_p([-1.0, 2.0, 3.0]) == 0.5


def test_many_rounds_are_sampled_and_agree_with_the_exact_p() -> None:
    """25 rounds: a drawn p-value near the normal law's."""
    p = sign_flip_p(np.random.default_rng(5).normal(0.5, 1, 25))
    assert 0 < p < 0.1


def test_two_runs_are_compared_by_every_split() -> None:
    """Four against four, wholly apart: 2 of 70 splits are as extreme."""
    assert permutation_p(np.arange(4.0), np.arange(4.0) + 10) == pytest.approx(2 / 70)
    found = two_sample_bootstrap(np.array([1.0, 1.1, 0.9, 1.0]), np.array([2.0, 2.1, 1.9, 2.0]))
    assert found.value == pytest.approx(1.0)
    assert 0.85 < found.low < 1 < found.high < 1.15


def test_holm_adjusts_in_order_and_never_down() -> None:
    """Holm's own steps: times m, m - 1, ..., monotone."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def _judged(mean: float, scatter: float, rounds: int = 10, *, aa: float = 0.0, higher: bool = False) -> Verdict:
    values = np.random.default_rng(1).normal(0, scatter, rounds)
    values = values - values.mean() + mean
    return paired_verdicts([values], aa=[aa], higher_is_better=[higher])[0]


@pytest.mark.parametrize(
    ("mean", "scatter", "higher", "word"),
    [
        (0.2, 0.03, False, "slower"),
        (-0.2, 0.03, False, "faster"),
        (0.2, 0.03, True, "faster"),
        (0.001, 0.02, False, "equivalent"),
        (0.2, 0.5, False, "inconclusive"),
        (0.06, 0.05, False, "inconclusive"),
    ],
)
def test_the_words_follow_the_interval(mean: float, scatter: float, higher: bool, word: str) -> None:
    """Faster and slower only beyond 5 %, equivalent only within, else inconclusive."""
    assert _judged(mean, scatter, higher=higher).word == word


def test_what_the_control_cannot_tell_apart_is_no_verdict() -> None:
    """A gap of 20 % on a rig whose A/A twins are 30 % apart."""
    assert _judged(0.2, 0.03, aa=0.3).word == "inconclusive"
    assert _judged(0.2, 0.03, aa=0.3).margin == pytest.approx(0.3)


def test_few_rounds_never_decide_and_say_how_many_would() -> None:
    """Five rounds cannot reach 5 %; the sixth could."""
    verdict = _judged(0.3, 0.02, rounds=5)
    assert (verdict.word, verdict.rounds_needed) == ("inconclusive", 6)
    assert _judged(0.3, 0.5).rounds_needed is not None
    assert _judged(0.3, 0.02).rounds_needed is None
    assert _judged(math.log(1.05), 0.4).rounds_needed is None


def test_a_twelfth_comparison_asks_for_nine_rounds() -> None:
    """Holm's first threshold of 0.0042 is below what eight rounds can reach."""
    same = [np.full(8, 0.3) + np.linspace(0, 0.01, 8)] * 12
    verdicts = paired_verdicts(same, aa=[0.0] * 12, higher_is_better=[False] * 12)
    assert {(verdict.word, verdict.rounds_needed) for verdict in verdicts} == {("inconclusive", 9)}


def test_the_effect_size_counts_pairs() -> None:
    """P[B > A] + half the ties, by hand."""
    assert a12(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])) == (0.5 + 1 + 1 + 1) / 4
    assert math.isnan(a12(np.zeros(2), np.ones(2)))


def test_the_shift_function_shows_where_two_sides_differ() -> None:
    """Equal medians, a heavier tail."""
    edges = np.array([1.0, 2.0, 9.0])
    found = shift_function(edges, np.array([50, 45, 5.0]), np.array([50, 30, 20.0]), (0.5, 0.9))
    assert found == [(0.5, 1.0, 0.0), (0.9, 2.0, 7.0)]


def test_the_resolution_is_the_further_end_of_the_control() -> None:
    """Twins that differ by 4 % resolve no less than that."""
    assert resolution(np.full(6, math.log(1.04))) == pytest.approx(0.04)
    assert math.isnan(resolution([0.1]))


def test_false_alarms_are_rare_and_a_fifth_is_found() -> None:
    """The simulation of the validation page, shortened: alarms in at most 5 % of campaigns, power at least 80 %."""
    assert simulate(campaigns=40, cells=4).wrong <= 0.05
    assert simulate(campaigns=12, cells=4, effect=0.2).found >= 0.8


def test_rounding_never_takes_the_split_that_was_seen_from_its_own_tally() -> None:
    """Rounds that hardly differ: a whole separation of six and six is 2 of 924 ways, however the sums are rounded."""
    chance = np.random.default_rng(0)
    for _ in range(20):
        rounds = np.sort(np.log(20 + chance.normal(0, 1e-6, 12)))
        assert permutation_p(rounds[:6], rounds[6:]) == pytest.approx(2 / 924)
    assert sign_flip_p([1.0, 1e-9, 2e-9, -1.0, 3e-9, 4e-9]) >= 2 / 64
