"""The search for lambda*: the highest rate at which the latency objective is still met."""

from __future__ import annotations

from collections.abc import Sequence

STEP = 0.05
# A try that told nothing of the server is made again, until so many in a row told nothing of that rate.
PATIENCE = 3
# Where so many rates told nothing and none passed, slower ones would take longer and longer, and tell as little.
_MOST_LOST = 2
_FLOOR = 1.0
_CEILING = 1_000_000.0

# A rate in requests a second, and whether it met the objective; None where nobody can tell.
Try = tuple[float, bool | None]


def next_rate(tried: Sequence[Try], *, first: float = 50.0, step: float = STEP) -> float | None:
    """The rate (requests a second) to try next, or None where the search is over.

    `tried` holds every try so far, in order. Doubles until one fails (halves where the first one does), then bisects
    until pass and fail are within `step` of one another: the shape of MLPerf LoadGen's "find peak" search. A rate that
    failed bounds the search even where a higher one passed: a server that meets its objective only now and then does
    not meet it. A try that told nothing is made again; the third in a row bounds the search as one that failed. Ends
    too where two rates told nothing and none passed, where nothing above 1 a second passes, or where everything up to
    a million does.
    """
    if not tried:
        return first
    if tried[-1][1] is None and _in_a_row(tried) % PATIENCE:
        return tried[-1][0]
    lost = lost_rates(tried)
    known = [(rate, met) for rate, met in tried if met is not None]
    if len(lost) >= _MOST_LOST and not any(met for _, met in known):
        return None
    failed = min([*(rate for rate, met in known if not met), *lost], default=None)
    passed = max((rate for rate, met in known if met and (failed is None or rate < failed)), default=None)
    if failed is None:
        top = max(rate for rate, _ in known)
        return top * 2 if top * 2 <= _CEILING else None
    return _below(failed, passed, step)


def _below(failed: float, passed: float | None, step: float) -> float | None:
    if passed is None:
        half = max(failed / 2, _FLOOR)
        return half if half < failed else None
    return None if failed <= passed * (1 + step) else _rounded((passed + failed) / 2, passed, failed)


def found_rate(tried: Sequence[Try]) -> float | None:
    """lambda*: the highest rate that passed with no failure below it; None where none did."""
    failed = min((rate for rate, met in tried if met is False), default=float("inf"))
    return max((rate for rate, met in tried if met and rate < failed), default=None)


def lost_rates(tried: Sequence[Try]) -> list[float]:
    """Rates of which nothing could be told however often they were tried."""
    rates = dict.fromkeys(rate for rate, met in tried if met is None)
    told = {rate for rate, met in tried if met is not None}
    return [rate for rate in rates if rate not in told and sum(own == rate for own, _ in tried) >= PATIENCE]


def _in_a_row(tried: Sequence[Try]) -> int:
    """How many of the last tries were of one rate and told nothing."""
    count = 0
    for rate, met in reversed(tried):
        if met is not None or rate != tried[-1][0]:
            break
        count += 1
    return count


def _rounded(rate: float, low: float, high: float) -> float:
    """Three digits are enough for a rate, as long as it stays between its bounds."""
    short = float(f"{rate:.3g}")
    return short if low < short < high else rate
