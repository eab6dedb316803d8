"""Ctrl-C once and twice, and what the user sees while a campaign runs."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.campaign.interrupt import StoppedError, TwoStage
from loadtests.campaign.outcome import INVALID, SLO_MISSED, VALID, outcome_of
from loadtests.campaign.progress import Bar, spoken


def test_ctrl_c_once_finishes_and_twice_stops() -> None:
    """Nothing is raised where the signal arrives; each is told."""
    told: list[str] = []
    now = [0.0]
    before = signal.getsignal(signal.SIGINT)
    with TwoStage(told.append, lambda: now[0]) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert (signals.finish, signals.stop.is_set()) == (True, False)
        signals.check()
        now[0] = 0.1
        os.kill(os.getpid(), signal.SIGINT)
        assert not signals.stop.is_set(), "the same signal to the process and to its group is one"
        now[0] = 5.0
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.stop.is_set()
        with pytest.raises(StoppedError):
            signals.check()
    assert [text.partition(":")[0] for text in told] == ["Ctrl-C", "Stopping"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_termination_stops_at_once() -> None:
    """Whoever sends it does not ask twice."""
    with TwoStage() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop.is_set()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 s"),
        (45.2, "45 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (330, "5.5 min"),
        (640, "11 min"),
        (3600, "60 min"),
        (5400, "1 h 30 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds: float, words: str) -> None:
    """Never more exact than they are."""
    assert spoken(seconds) == words


def test_the_time_left_follows_the_pace_so_far() -> None:
    """What was done before a resumed run says nothing of its pace."""
    now = [0.0]
    with Bar(Console(file=io.StringIO(), width=80), 100, 20, lambda: now[0]) as bar:
        assert bar.left_s() == 80
        bar.now("the first cell", 20)
        now[0] = 30.0
        assert bar.left_s() == 60, "the cell takes longer than it was to"
        bar.add(20)
        bar.now("the second cell", 20)
        assert bar.left_s() == 90
        now[0] = 45.0
        assert bar.left_s() == 75


def test_the_exit_code_is_of_the_worst_cell() -> None:
    """Invalid before too slow; what is expected to be too slow is not counted."""
    good = {"valid": True, "meets_slo": True, "kind": "server", "target": "a", "scheduled": 9, "outcomes": {"ok": 9}}
    slow = {**good, "meets_slo": False, "attainment": 0.9}
    bad = {**good, "valid": False, "reasons": ["client: dispatch lag p99 3 ms, limit at most 1 ms"]}

    def code(*lines: dict[str, object]) -> int:
        return outcome_of(Path("run"), lines, []).code

    assert code(good, {**good, "meets_slo": None}) == VALID
    assert code(good, slow) == SLO_MISSED
    assert code(good, slow, bad) == INVALID
    assert code() == INVALID
    assert code({**slow, "attainment": 1.0}) == VALID, "too few requests to show anything"
    assert code({**slow, "attainment": 1.0, "scheduled": 10}) == SLO_MISSED, "one of them failed"
    assert code({**slow, "search": "x"}, {**slow, "kind": "overload"}, {**slow, "kind": "curve"}) == VALID


def test_the_reasons_are_told_once_each() -> None:
    """The most frequent first, without figures that differ in each cell."""
    lag = {"group": "client", "name": "dispatch lag p99", "binding": True, "ok": False}
    drift = {"group": "server", "name": "drift", "binding": False, "ok": False}
    bad = {"valid": False, "checks": [lag, drift], "reasons": ["client: dispatch lag p99 3 ms, limit at most 1 ms"]}
    text = outcome_of(Path("run"), [bad, bad, {"valid": False, "reasons": ["server: wrong"]}], [Path("r.html")]).text
    assert text.splitlines()[:4] == [
        "3 measured: 0 VALID, 3 INVALID.",
        "  client: dispatch lag p99 (2 of 3)",
        "  server: wrong (1 of 3)",
        "Report: r.html",
    ]
