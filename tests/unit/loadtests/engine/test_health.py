"""The generator's account of itself."""

from __future__ import annotations

import itertools

from loadtests.engine.health import Thinned


def test_samples_of_days_stay_few_and_evenly_spaced() -> None:
    """From the first to nearly the last."""
    samples: Thinned[int] = Thinned(100)
    for number in range(10_000):
        samples.append(number)
    gaps = {later - earlier for earlier, later in itertools.pairwise(samples)}
    assert 50 <= len(samples) <= 100
    assert len(gaps) == 1
    assert samples[0] == 0
    assert samples[-1] >= 10_000 - 2 * gaps.pop()


def test_few_samples_are_all_kept() -> None:
    """A cell of a minute is as it was measured."""
    samples: Thinned[int] = Thinned(100)
    for number in range(100):
        samples.append(number)
    assert samples == list(range(100))
