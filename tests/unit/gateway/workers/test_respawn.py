"""When a worker that died is started again."""

from __future__ import annotations

from gateway.workers.respawn import DELAYS, QUICK_SECONDS, Deaths


def test_a_worker_that_served_is_started_again_at_once() -> None:
    """However often, if it lived long enough."""
    deaths = Deaths()
    assert [deaths.died(QUICK_SECONDS) for _ in range(50)] == [0.0] * 50


def test_a_worker_that_dies_of_its_start_waits_longer_each_time_and_then_for_good() -> None:
    """The first wait is none: most deaths are no habit."""
    deaths = Deaths()
    assert [deaths.died(0.1) for _ in range(len(DELAYS) + 1)] == [*DELAYS, None]
    assert list(DELAYS) == sorted(DELAYS)


def test_a_life_that_was_long_enough_is_a_new_beginning() -> None:
    """Quick deaths count in a row."""
    deaths = Deaths()
    for _ in range(len(DELAYS)):
        deaths.died(0.1)
    assert deaths.died(QUICK_SECONDS) == 0.0
    assert deaths.died(0.1) == DELAYS[0]
