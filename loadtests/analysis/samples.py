"""How many samples a statement needs: nearest-rank percentiles and the early-stopping rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

Values = npt.NDArray[np.float64]

CONFIDENCE = 0.99
# Beneath it a p99.9 hangs on fewer than twenty requests.
_P999_SAMPLES = 20_000
PERCENTILES: tuple[tuple[str, float], ...] = (
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p999", 0.999),
)


def rank(count: int, share: float) -> int:
    """The nearest rank, from 1: the least k with k/count >= share, i.e. ceil(share * count).

    The definition of R-1 in Hyndman and Fan, "Sample Quantiles in Statistical Packages" (1996): no interpolation, so
    the value is one that was measured. Rounding keeps 0.99 * 100 at 99, which binary fractions would miss.
    """
    return min(max(math.ceil(round(share * count, 6)), 1), count)


@cache
def n_min(share: float, late: int, confidence: float = CONFIDENCE) -> int:
    """The fewest requests that show with `confidence` that at most 1 - `share` are late, where `late` were.

    The least n with P[Binomial(n, 1 - share) <= late] <= 1 - confidence: MLPerf LoadGen's early stopping
    (`early_stopping.cc`) with d = 0, in its fail-safe form. Grows with `late`; 0 late of p99 needs 459.
    """
    low, high = late, max(late + 1, 8)
    while float(bdtr(late, high, 1 - share)) > 1 - confidence:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if float(bdtr(late, middle, 1 - share)) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def shows(count: int, share: float) -> bool:
    """Whether `count` samples suffice to print that percentile: n_min with none late; 20,000 for p99.9 and beyond."""
    return count >= (_P999_SAMPLES if share >= 0.999 else n_min(share, 0))


def percentile(values: Values, share: float) -> float | None:
    """The nearest-rank percentile of values in any order; None where there are too few to print it."""
    if not shows(len(values), share):
        return None
    place = rank(len(values), share) - 1
    return float(np.partition(values, place)[place])


def percentiles(values: Sequence[float] | Values) -> dict[str, float | None]:
    """p50, p90, p95, p99, p999, max and mean of values in any order; None where there are too few of them."""
    data = np.asarray(values, dtype=np.float64)
    places = {name: rank(len(data), share) - 1 for name, share in PERCENTILES if shows(len(data), share)}
    # A few ranks need no whole sort.
    part = np.partition(data, sorted(places.values())) if places else data
    found = {name: float(part[places[name]]) if name in places else None for name, _ in PERCENTILES}
    found["max"] = float(data.max()) if len(data) else None
    found["mean"] = float(data.mean()) if len(data) else None
    return found
