"""The harness against servers whose latency law is known. Shortened: `make bench-validate` runs them at length.

A cell whose generator was held up says nothing about the law, here as in a campaign: it is measured again, and in the
end skipped with the lag as the reason.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.analysis.search import found_rate
from loadtests.engine.arrivals import schedule
from tests.harness.findings import reasons
from tests.harness.laws import Fixed, Law, Queue, Refusal, Stall, Wrong
from tests.harness.measuring import Measured, cell, law_times, measured, percentile, write_golden
from tests.harness.searching import MU, as_the_law_says, limits, searched, seconds_of

pytestmark = pytest.mark.harness
# What the machine may add to a mean or a median beyond the bias that is measured beside it.
BUSY_S = 0.004
TRIES = 3
SEARCHES = 2
LAG_S = 0.005


def calmly(law: Law, folder: Path, **load: Any) -> Measured:
    """Measures until the generator kept to its schedule."""
    for number in range(TRIES):
        found = measured(law, folder / str(number), **load)
        lag = percentile(found.lag, 0.99)
        if lag <= LAG_S:
            return found
    pytest.skip(f"the machine is too busy: dispatch lag p99 {lag * 1e3:.1f} ms in {TRIES} tries")


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_a_fixed_delay_is_measured_as_it_is(tmp_path: Path, transport: str) -> None:
    """S is the delay and what a server without one takes; nothing is ever quicker than the law."""
    null = calmly(Fixed(), tmp_path / "null", transport=transport, rate=200, seconds=3)
    found = calmly(Fixed(0.05), tmp_path / "fixed", transport=transport, rate=200, seconds=4)
    expected = 0.05 + percentile(null.service, 0.5)
    assert found.service.min() >= 0.05
    assert percentile(found.service, 0.5) == pytest.approx(expected, rel=0.03, abs=BUSY_S)
    assert percentile(found.response, 0.75) < expected * 1.03 + 5 * BUSY_S
    assert set(found.outcomes) == {"ok"}
    assert found.health["scheduled"] == found.health["finished"] == len(found.outcomes)


def test_an_open_loop_sees_the_stall_that_a_closed_one_hides(tmp_path: Path) -> None:
    """p99 of a stall d in T is d - 0.01 T; the closed loop asks once in that time and reports a quick server."""
    seconds, lasts = 12.0, 1.2
    law = Stall(begins=4.0, lasts=lasts)
    opened = measured(law, tmp_path / "open", rate=100, seconds=seconds)
    closed = measured(law, tmp_path / "closed", arrivals="closed", concurrency=1, seconds=seconds)
    expected = lasts - 0.01 * seconds
    assert percentile(opened.response, 0.99) == pytest.approx(expected, rel=0.1)
    assert percentile(closed.response, 0.99) < expected / 10
    # The stall is there for both; only one of them kept asking.
    assert max(closed.response) > 0.9 * lasts


@pytest.fixture(scope="module")
def bias(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What this machine adds to every mean now, in seconds: the mean L of a server that answers at once."""
    return float(calmly(Fixed(), tmp_path_factory.mktemp("null"), rate=50, seconds=4).response.mean())


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_an_exponential_server_is_an_m_m_1_queue(tmp_path: Path, load: float, bias: float) -> None:
    """Requests take what the queue's recursion gives for the same arrivals and services."""
    law = Queue(rate=50.0, seed=5)
    found = calmly(law, tmp_path, rate=50 * load, seconds=15)
    expected = law_times(found.spec, law) + bias
    assert found.response.mean() == pytest.approx(expected.mean(), rel=0.05, abs=BUSY_S)
    assert percentile(found.response, 0.95) == pytest.approx(percentile(expected, 0.95), rel=0.1, abs=2 * BUSY_S)


def test_a_fixed_server_tells_poisson_from_constant_arrivals(tmp_path: Path, bias: float) -> None:
    """M/D/1 waits rho / (2 mu (1 - rho)); evenly spaced arrivals below saturation do not wait at all."""
    law = Queue(rate=50.0, exponential=False)
    poisson = calmly(law, tmp_path / "poisson", rate=35, seconds=12)
    constant = calmly(law, tmp_path / "constant", rate=35, seconds=5, arrivals="constant")
    waited = poisson.response.mean() - 0.02
    assert waited == pytest.approx(law_times(poisson.spec, law).mean() - 0.02 + bias, rel=0.1, abs=BUSY_S)
    assert waited == pytest.approx(0.7 / (2 * 50 * 0.3), rel=0.5)
    assert percentile(constant.response, 0.5) - 0.02 - bias < BUSY_S < waited


def test_refusals_are_misses_and_not_quick_answers(tmp_path: Path) -> None:
    """k seconds of 503 in T cost k/T of the attainment, and the right answers' latency not at all."""
    found = calmly(Refusal(begins=4.0, lasts=2.0), tmp_path, rate=150, seconds=8)
    shed = found.outcomes.count("shed")
    assert shed / len(found.outcomes) == pytest.approx(2 / 8, abs=0.05)
    assert found.ok.sum() + shed == len(found.outcomes) == found.health["scheduled"]
    assert len(found.response) == found.ok.sum()


def test_wrong_answers_are_found_among_right_ones(tmp_path: Path) -> None:
    """One answer of a hundred is wrong, with status 200; every single one is seen."""
    write_golden(tmp_path)
    found = measured(Wrong(100), tmp_path, rate=300, seconds=5, parity=True)
    whole = found.rows["outcome"].to_pylist()
    assert whole.count("wrong_answer") == len(whole) // 100
    assert set(whole) == {"ok", "wrong_answer"}
    assert any("wrong answers" in reason for reason in reasons(found))


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_targets_get_the_same_instants(tmp_path: Path, transport: str) -> None:
    """Whatever is measured, a seed's schedule is what was sent."""
    found = measured(Fixed(0.002), tmp_path, transport=transport, rate=150, seconds=2)
    steps = schedule(cell("", rate=150, seconds=2), 0)
    planned = np.concatenate([step.starts + step.times for step in steps])
    assert found.column("t_int", measured=False) == pytest.approx(planned, abs=1e-6)


def test_a_search_decides_as_the_law_does(tmp_path: Path) -> None:
    """On an M/M/1 queue; the highest rate is where 99 % of such searches end.

    On a busy machine as well: no answer is earlier than the law's, so that what met the objective met it by the law
    too. Where the machine made others late, the search may only have ended lower, and is made again.
    """
    law, (low, high) = Queue(rate=MU, seed=9), limits(4, searches=400)
    folders = (tmp_path / str(number) for number in itertools.count())
    for _ in range(SEARCHES):
        tried = searched(lambda rate: measured(law, next(folders), rate=rate, seconds=seconds_of(rate, 4)))
        calm = True
        for (rate, met), found in tried:
            agrees = as_the_law_says(met, law_times(found.spec, law))
            assert agrees or not met, rate
            assert met is not None or any(reason.startswith("client") for reason in reasons(found)), rate
            calm &= agrees and met is not None
        found_at = found_rate([own for own, _ in tried]) or 0.0
        assert found_at <= high
        if calm:
            assert found_at >= low
            return
