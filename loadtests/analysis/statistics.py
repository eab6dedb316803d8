"""Intervals, tests and verdicts over rounds. A round is the unit: requests within one are not independent.

Differences are of logarithms, d_r = ln m_B,r - ln m_A,r, so that their mean is the logarithm of a ratio (Kalibera and
Jones, "Quantifying Performance Changes with Effect Size Confidence Intervals", arXiv 2007.10899).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from loadtests.analysis.samples import Values, rank

RESAMPLES = 10_000
SEED = 7
EQUIVALENCE = 0.05
ALPHA = 0.05
# The smallest two-sided p-value of R rounds is 2 / 2^R; six are the first that get below 5 %.
MIN_ROUNDS = 6
# What an A/A control cannot tell apart is the end of an interval, not a p-value: it needs fewer.
MIN_CONTROL_ROUNDS = 5
# Up to here every assignment is tried: 2^20 sign flips or as many ways to split two runs.
_EXACT = 2**20
_FAR = 200
# Sums of the same numbers in another order differ by no more than this share of all of them.
_ROUNDING = 1e-12
Word = Literal["faster", "slower", "equivalent", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What R rounds say of B against A.

    `ratio` is B/A with its 95 % interval; `p` is raw, `p_adjusted` after Holm. `rounds_needed` is an estimate of the
    rounds that would settle an inconclusive comparison; None where it is settled, or where it would take more than
    200. `margin` is the gap that counts as one, as a share: max(5 %, the A/A control's).
    """

    word: Word
    ratio: Interval
    p: float
    p_adjusted: float
    margin: float
    rounds: int
    rounds_needed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


@cache
def _picks(rounds: int, resamples: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, rounds, (resamples, rounds))


def bca_interval(estimate: float, drawn: Values, left_out: Values, level: float = 0.95) -> tuple[float, float]:
    """The bias-corrected and accelerated interval from bootstrap values and leave-one-out values of a statistic.

    Efron, "Better Bootstrap Confidence Intervals" (1987), with Efron and Tibshirani (1993), equations 14.9 to 14.15:
    z0 = Phi^-1(share of drawn values below the estimate; ties count half), a = sum u^3 / (6 (sum u^2)^1.5) with
    u = mean(left out) - left out; the ends are the quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))).
    """
    ordered = np.sort(drawn)
    below = (np.count_nonzero(ordered < estimate) + 0.5 * np.count_nonzero(ordered == estimate)) / len(ordered)
    if ordered[0] == ordered[-1]:
        return float(ordered[0]), float(ordered[-1])
    edge = 0.5 / len(ordered)
    bias = float(ndtri(min(max(below, edge), 1 - edge)))
    distance = left_out.mean() - left_out
    spread = float((distance**2).sum())
    acceleration = float((distance**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + float(ndtri(tail))
        share = float(ndtr(bias + z / max(1 - acceleration * z, 1e-9)))
        ends.append(float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]))
    return ends[0], ends[1]


def bootstrap_mean(values: Sequence[float] | Values, level: float = 0.95, resamples: int = RESAMPLES) -> Interval:
    """The mean of a figure over rounds and its BCa interval, seeded. One round has no interval: its ends are NaN."""
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2:
        return Interval(mean, math.nan, math.nan)
    drawn = data[_picks(len(data), resamples, SEED)].mean(axis=1)
    left_out = (data.sum() - data) / (len(data) - 1)
    return Interval(mean, *bca_interval(mean, drawn, left_out, level))


def two_sample_bootstrap(a: Values, b: Values, level: float = 0.95, resamples: int = RESAMPLES) -> Interval:
    """mean(b) - mean(a) with its BCa interval, both resampled on their own: for rounds of different runs."""
    estimate = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return Interval(estimate, math.nan, math.nan)
    drawn = b[_picks(len(b), resamples, SEED)].mean(axis=1) - a[_picks(len(a), resamples, SEED + 1)].mean(axis=1)
    without_b = (b.sum() - b) / (len(b) - 1) - a.mean()
    without_a = b.mean() - (a.sum() - a) / (len(a) - 1)
    # Each sample's own mean is what its leave-one-out values scatter around.
    left_out = np.concatenate([without_a - without_a.mean(), without_b - without_b.mean()]) + estimate
    return Interval(estimate, *bca_interval(estimate, drawn, left_out, level))


def sign_flip_p(differences: Sequence[float] | Values) -> float:
    """The exact two-sided p-value of paired differences under the null that each sign is a coin's.

    Fisher's randomisation test: the share of all 2^R sign assignments whose |sum| is at least the one seen. It cannot
    go below 2 / 2^R. Beyond 20 rounds 2^20 seeded assignments are drawn, the one seen among them.
    """
    data = np.asarray(differences, dtype=np.float64)
    seen = abs(float(data.sum())) - _ROUNDING * float(np.abs(data).sum())
    if 2 ** len(data) <= _EXACT:
        sums = np.zeros(1)
        for value in data:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.count_nonzero(np.abs(sums) >= seen) / len(sums))
    generator = np.random.default_rng(SEED)
    sums = np.zeros(_EXACT)
    for value in data:
        sums += np.where(generator.integers(0, 2, _EXACT), value, -value)
    return float((np.count_nonzero(np.abs(sums) >= seen) + 1) / (_EXACT + 1))


def permutation_p(a: Values, b: Values) -> float:
    """The two-sided p-value of mean(b) - mean(a) where rounds of two runs are exchangeable under the null.

    Exact over all splits while those are at most 2^20 (ten against ten rounds are 184,756), else 100,000 seeded ones.
    """
    pooled, size = np.concatenate([a, b]), len(a)
    total = pooled.sum()

    # mean(b) - mean(a) is a falling line of the sum of what is called a.
    def difference(chosen: Values) -> Values:
        return np.asarray((total - chosen) / len(b) - chosen / size)

    # Means of nearly equal rounds cancel: what is left is rounded by the size of the rounds, not of the difference.
    seen = abs(float(difference(np.asarray(a.sum())))) - _ROUNDING * float(np.abs(pooled).sum())
    if math.comb(len(pooled), size) <= _EXACT:
        sums = np.fromiter((sum(part) for part in combinations(pooled.tolist(), size)), dtype=np.float64)
        return float(np.mean(np.abs(difference(sums)) >= seen))
    generator = np.random.default_rng(SEED)
    sums = np.array([generator.permutation(pooled)[:size].sum() for _ in range(100_000)])
    return float((np.count_nonzero(np.abs(difference(sums)) >= seen) + 1) / (len(sums) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979).

    The k-th smallest of m is multiplied by m - k + 1, and none may be below one before it.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        highest = max(highest, min(p_values[index] * (len(p_values) - position), 1.0))
        adjusted[index] = highest
    return adjusted


def resolution(differences: Sequence[float] | Values) -> float:
    """What an A/A control's log differences say of the rig, as a share: a smaller gap cannot be told from none.

    The larger end of the control's 95 % interval, so that a bias between the twins counts as well as their scatter.
    """
    found = bootstrap_mean(differences)
    if math.isnan(found.low):
        return math.nan
    return math.expm1(max(abs(found.low), abs(found.high)))


def judge(
    estimate: Interval,
    narrow: Interval,
    p: float,
    p_adjusted: float,
    *,
    spread: float,
    rounds: int,
    family: int = 1,
    aa: float = 0.0,
    higher_is_better: bool = False,
) -> Verdict:
    """The word for log differences B - A.

    `estimate` and `narrow` are their 95 % and 90 % intervals, `spread` their standard deviation over rounds, `family`
    the number of comparisons that Holm corrected for, `aa` the control's `resolution`. `faster` or `slower` needs
    p_adjusted < 5 % and the 95 % interval wholly beyond the margin, max(5 %, `aa`); `equivalent` needs the 90 %
    interval within +-5 %, which is two one-sided tests at 5 % (Schuirmann 1987).
    """
    margin = math.log1p(max(EQUIVALENCE, 0.0 if math.isnan(aa) else aa))
    near = math.log1p(EQUIVALENCE)
    known = rounds >= 2 and not math.isnan(estimate.low)
    word: Word = "inconclusive"
    if known and p_adjusted < ALPHA and (estimate.low > margin or estimate.high < -margin):
        word = "faster" if (estimate.value > 0) == higher_is_better else "slower"
    elif known and rounds >= MIN_ROUNDS and -near < narrow.low and narrow.high < near:
        word = "equivalent"
    return Verdict(
        word=word,
        ratio=Interval(*(math.exp(end) for end in (estimate.value, estimate.low, estimate.high))),
        p=p,
        p_adjusted=p_adjusted,
        margin=math.expm1(margin),
        rounds=rounds,
        rounds_needed=_needed(abs(estimate.value), spread, margin, near, family, rounds)
        if word == "inconclusive"
        else None,
    )


def _needed(gap: float, spread: float, margin: float, near: float, family: int, rounds: int) -> int | None:
    """Normal approximation: the rounds after which the half-width is below the distance to the limit."""
    # 2 / 2^R must get below Holm's first threshold.
    least = math.floor(math.log2(2 * family / ALPHA)) + 1
    if rounds < 2:
        return max(least, MIN_ROUNDS)
    if gap > margin:
        distance, z = gap - margin, 1.96
    elif gap < near:
        distance, z, least = near - gap, 1.645, MIN_ROUNDS
    else:
        return None
    wanted = max(math.ceil((z * spread / distance) ** 2), least, rounds + 1) if distance > 0 else _FAR + 1
    return wanted if wanted <= _FAR else None


def paired_verdicts(
    families: Sequence[Values], *, aa: Sequence[float], higher_is_better: Sequence[bool]
) -> list[Verdict]:
    """One verdict for each set of paired log differences, Holm over all of them. All sequences are of one length."""
    p_values = [sign_flip_p(values) for values in families]
    return [
        judge(
            bootstrap_mean(values),
            bootstrap_mean(values, level=0.9),
            p,
            adjusted,
            spread=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            rounds=len(values),
            family=len(families),
            aa=control,
            higher_is_better=better,
        )
        for values, p, adjusted, control, better in zip(
            families, p_values, holm(p_values), aa, higher_is_better, strict=True
        )
    ]


def a12(counts_a: Values, counts_b: Values) -> float:
    """Vargha and Delaney's A (2000) from histograms over the same ascending bins: P[B > A] + P[B = A] / 2.

    0.5 means neither is larger; 1 that every B is larger than every A. Values of one bin count as equal.
    """
    below = np.concatenate([[0.0], np.cumsum(counts_a)[:-1]])
    pairs = float(counts_a.sum()) * float(counts_b.sum())
    return float((counts_b * (below + 0.5 * counts_a)).sum()) / pairs if pairs else math.nan


def histogram_percentile(counts: Values, share: float) -> int:
    """The bin of the nearest-rank percentile of a histogram."""
    return int(np.searchsorted(np.cumsum(counts), rank(int(counts.sum()), share)))


def shift_function(
    edges: Values, counts_a: Values, counts_b: Values, shares: Sequence[float]
) -> list[tuple[float, float, float]]:
    """(share, A's percentile, B's minus A's) for each share: where in the distribution two sides differ.

    Doksum (1974). `edges` are the bins' representative values. A share that either side has too few samples for is
    left out by the caller.
    """
    found = []
    for share in shares:
        a = float(edges[histogram_percentile(counts_a, share)])
        found.append((share, a, float(edges[histogram_percentile(counts_b, share)]) - a))
    return found
