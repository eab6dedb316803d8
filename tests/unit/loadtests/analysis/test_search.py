"""The search for the highest rate that meets the objective."""

from __future__ import annotations

import pytest

from loadtests.analysis.search import found_rate, lost_rates, next_rate
from tests.harness.searching import EXPECTED, limits


def _search(limit: float, first: float = 50.0) -> tuple[float | None, list[float]]:
    tried: list[tuple[float, bool]] = []
    while (rate := next_rate(tried, first=first)) is not None:
        tried.append((rate, rate <= limit))
        assert len(tried) < 60
    return found_rate(tried), [rate for rate, _ in tried]


@pytest.mark.parametrize("limit", [1.3, 7.0, 49.0, 50.0, 333.0, 12_345.0])
def test_the_rate_is_found_within_a_twentieth(limit: float) -> None:
    """Doubling, then halving the gap, ends within 5 % below the true rate."""
    found, _ = _search(limit)
    assert found is not None
    assert limit / 1.05 <= found <= limit


def test_it_doubles_first_and_then_bisects() -> None:
    """Rates go 50, 100, 200, 400 and then between the last two."""
    _, rates = _search(230.0)
    assert rates[:5] == [50.0, 100.0, 200.0, 400.0, 300.0]


def test_a_server_that_never_meets_it_ends_the_search() -> None:
    """Below one request a second there is no rate to find."""
    assert _search(0.0)[0] is None


def test_a_server_that_always_does_ends_it_too() -> None:
    """The search stops at a million a second."""
    found, _ = _search(float("inf"))
    assert found is not None
    assert found <= 1_000_000


def test_a_pass_above_a_failure_does_not_count() -> None:
    """What failed at 100 a second does not meet the objective at 150."""
    tried = [(50.0, True), (100.0, False), (150.0, True)]
    assert next_rate(tried) == 75.0
    assert found_rate(tried) == 50.0


def test_a_try_that_told_nothing_is_made_again() -> None:
    """A generator that was held up for a moment does not halve what the server can do."""
    assert next_rate([(50.0, True), (100.0, None)]) == 100.0
    assert next_rate([(50.0, True), (100.0, None), (100.0, True)]) == 200.0
    assert found_rate([(50.0, True), (100.0, None), (100.0, True)]) == 100.0


def test_a_rate_of_which_nothing_can_be_told_bounds_the_search() -> None:
    """The third try in a row is the last of that rate; what had passed by then stands."""
    lost = [(50.0, True), *[(100.0, None)] * 3]
    assert next_rate(lost) == 75.0
    assert lost_rates(lost) == [100.0]
    assert found_rate(lost) == 50.0


def test_a_generator_that_is_held_up_at_any_rate_ends_the_search() -> None:
    """Two rates that told nothing, and none that passed, are enough."""
    nothing = [(50.0, None)] * 3
    assert next_rate(nothing) == 25.0
    assert next_rate([*nothing, *[(25.0, None)] * 3]) is None


def test_searches_on_a_queue_end_below_its_own_rate_and_nearer_the_longer_they_try() -> None:
    """By the law of M/M/1 alone: the rule is sure of its p99, so that hardly any search ends above."""
    short, long = limits(4, searches=200), limits(60, searches=50)
    assert 0 < short[0] < long[0] < long[1] < EXPECTED * 1.05
    assert long[0] > 0.75 * EXPECTED
