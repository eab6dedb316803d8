"""The search for lambda*: the highest rate at which the latency objective is still met."""

from __future__ import annotations

from collections.abc import Sequence

STEP = 0.05
# Among the tries it ends a search that cannot go on, as where the generator itself is held up.
END = (0.0, False)
_FLOOR = 1.0
_CEILING = 1_000_000.0


def next_rate(tried: Sequence[tuple[float, bool]], *, first: float = 50.0, step: float = STEP) -> float | None:
    """The rate (requests a second) to try next, or None where the search is over.

    `tried` holds (rate, met) of every try so far, in any order. Doubles until one fails (halves where the first one
    does), then bisects until pass and fail are within `step` of one another: the shape of MLPerf LoadGen's "find peak"
    search. A rate that failed bounds the search even where a higher one passed: a server that meets its objective only
    now and then does not meet it. Ends too with `END` among the tries, where nothing above 1 a second passes, or where
    everything up to a million does.
    """
    if not tried:
        return first
    if END in tried:
        return None
    failed = min((rate for rate, met in tried if not met), default=None)
    passed = max((rate for rate, met in tried if met and (failed is None or rate < failed)), default=None)
    if failed is None:
        top = max(rate for rate, _ in tried)
        return top * 2 if top * 2 <= _CEILING else None
    if passed is None:
        half = max(failed / 2, _FLOOR)
        return half if half < failed else None
    if failed <= passed * (1 + step):
        return None
    return _rounded((passed + failed) / 2, passed, failed)


def found_rate(tried: Sequence[tuple[float, bool]]) -> float | None:
    """lambda*: the highest rate that passed with no failure below it; None where none did."""
    failed = min((rate for rate, met in tried if not met and rate > 0), default=float("inf"))
    return max((rate for rate, met in tried if met and rate < failed), default=None)


def _rounded(rate: float, low: float, high: float) -> float:
    """Three digits are enough for a rate, as long as it stays between its bounds."""
    short = float(f"{rate:.3g}")
    return short if low < short < high else rate
