"""In which order each policy tries a route's targets."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from gateway.routing.endpoint import Target
from gateway.routing.load import Load
from gateway.routing.policies import Candidate, LeastRequest, RoundRobin, Sticky, Weighted, fastest, policy
from tests.builders import FakeClock

ALL = ("failover", "pinned", "compare", "weighted", "sticky", "round_robin", "least_request", "fastest")


def candidates(*weights: float) -> list[Candidate]:
    clock = FakeClock()
    return [Candidate(Target(f"e{index}", "m", weight=weight), Load(clock)) for index, weight in enumerate(weights)]


def names(ordered: list[Candidate]) -> list[str]:
    return [candidate.target.endpoint for candidate in ordered]


def key() -> bytes:
    return b"caller-1"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_policy_keeps_every_candidate(name: str, count: int) -> None:
    """Once each, whatever comes first."""
    ordered = policy(name, Random(7))(candidates(*[1.0] * count), key)
    assert sorted(names(ordered)) == [f"e{index}" for index in range(count)]


def test_weights_are_shares() -> None:
    """90 to 10, and never a target of weight 0 while another has one; it stays as the last resort."""
    chosen = Weighted(Random(7))
    first = Counter(names(chosen(candidates(90, 10, 0), key))[0] for _ in range(10_000))
    assert 0.88 <= first["e0"] / 10_000 <= 0.92
    assert first["e2"] == 0
    assert names(chosen(candidates(1, 0), key)) == ["e0", "e1"]


def test_sticky_holds_and_moves_only_what_it_must() -> None:
    """One key, one target; where a target goes, the others' keys stay."""
    sticky, three = Sticky(), candidates(1, 1, 1)
    homes = {number: names(sticky(three, lambda number=number: b"%d" % number))[0] for number in range(600)}  # type: ignore[misc]
    assert min(Counter(homes.values()).values()) > 150
    for number, home in homes.items():
        again = names(sticky(three[:2], lambda number=number: b"%d" % number))[0]  # type: ignore[misc]
        assert home in (again, "e2")


def test_sticky_keeps_to_the_weights() -> None:
    """A target of three times the weight has three times the keys."""
    two = candidates(3, 1)
    first = Counter(names(Sticky()(two, lambda number=number: b"%d" % number))[0] for number in range(4000))  # type: ignore[misc]
    assert 0.70 <= first["e0"] / 4000 <= 0.80


def test_round_robin_takes_turns() -> None:
    """Each is first once in a round."""
    turn, three = RoundRobin(), candidates(1, 1, 1)
    assert [names(turn(three, key)) for _ in range(4)] == [
        ["e0", "e1", "e2"],
        ["e1", "e2", "e0"],
        ["e2", "e0", "e1"],
        ["e0", "e1", "e2"],
    ]


def test_least_request_prefers_the_less_busy_of_two() -> None:
    """Of two there is no chance in it."""
    two = candidates(1, 1)
    two[0].load.outstanding = 3
    assert {tuple(names(LeastRequest(Random(seed))(two, key))) for seed in range(20)} == {("e1", "e0")}


def test_least_request_spreads_over_many() -> None:
    """The busiest of all is never chosen, and no single one is always."""
    many = candidates(*[1.0] * 6)
    many[0].load.outstanding = 9
    chosen = LeastRequest(Random(3))
    first = Counter(names(chosen(many, key))[0] for _ in range(600))
    assert "e0" not in first
    assert len(first) == 5


def test_fastest_weighs_latency_by_load() -> None:
    """Twice as slow but idle beats fast and busy; what never answered is tried first; the unfit come last."""
    clock = FakeClock()
    loads = [Load(clock) for _ in range(4)]
    for load, seconds in zip(loads, (0.010, 0.020, 0.001, 0.0), strict=True):
        if seconds:
            load.answered(seconds)
    loads[0].outstanding = 2
    made = [Candidate(Target(f"e{index}", "m"), load, fit=index != 2) for index, load in enumerate(loads)]
    assert names(fastest(made, key)) == ["e3", "e1", "e0", "e2"]


def test_latency_jumps_up_and_comes_down_slowly() -> None:
    """One slow answer is seen at once, and forgotten within a minute."""
    clock = FakeClock()
    load = Load(clock)
    load.answered(0.010)
    load.answered(0.500)
    assert load.latency_s == pytest.approx(0.5)
    clock.advance(1.0)
    load.answered(0.010)
    assert 0.3 < load.latency_s < 0.5
    clock.advance(60.0)
    assert load.latency_s < 0.005
