"""Sending on schedule, in this process, against clients that answer as a test says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from loadtests.cell_spec import Step, Target
from loadtests.engine.alarm import KernelAlarm, YieldingAlarm
from loadtests.engine.asking import Asked, Clients
from loadtests.engine.dispatch import ClosedLoop, OpenLoop, Share
from loadtests.engine.health import Health
from loadtests.engine.rows import Row
from loadtests.engine.sink import Sink, pipe_writer
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome, Reply
from tests.unit.loadtests.engine.builders import cell


class Answering:
    """A client that answers by `act`."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.opened = 1
        self._act = act

    def prepared(self, body: bytes) -> bytes:
        return body

    def send(self, request: bytes) -> Reply:
        del request
        began = time.perf_counter()
        self._act()
        return Reply(Outcome.OK, time.perf_counter() - began, b"{}")

    def close(self) -> None:
        """Holds nothing."""


class Rows(Sink):
    """A sink that keeps the rows."""

    def __init__(self) -> None:
        super().__init__(len, lambda: None)
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)


def _share(act: Callable[[], None] = lambda: None, **load: Any) -> tuple[Share, Rows]:
    sink = Rows()
    target = Target("toy", "predict", "", "toy", parity=False)
    asked = Asked(target, Clients(lambda: Answering(act), None), [b"a", b"b", b"c"], None)
    return Share(cell(**load), 0, [asked], sink, Health(0)), sink


def _sent(share: Share, look: Callable[[OpenLoop], object] = lambda _: None) -> OpenLoop:
    """Runs an open loop; `look` looks at it now and then."""
    loop = OpenLoop(share)
    share.begin(0.0, time.perf_counter() + loop.warm_up_seconds)
    running = gevent.spawn(loop.run)
    while not running.ready():
        look(loop)
        running.join(0.01)
    return loop


def test_every_arrival_is_sent_once_never_early_and_the_warm_up_is_marked() -> None:
    """Rows are counted through; those before T0 are not measured."""
    share, sink = _share(steps=(Step(300, 0.15), Step(0, 0.02), Step(300, 0.05)), warm_up_seconds=0.05)
    loop = _sent(share)
    rows = sorted(sink.rows, key=lambda row: row.seq)
    assert [row.seq for row in rows] == list(range(len(rows)))
    assert all(row.t_snd >= row.t_int for row in rows)
    assert {row.step for row in rows} == {-1, 0, 2}
    assert all(row.measured == (row.t_int >= 0) == (row.step >= 0) for row in rows)
    assert loop.scheduled == share.health.rows == sum(row.measured for row in rows)
    assert len({row.question for row in rows}) == 3


def test_a_slow_server_changes_no_instant() -> None:
    """Nobody answers until the schedule is over; all was sent by then."""
    release = Event()
    share, sink = _share(release.wait, steps=(Step(400, 0.1),), warm_up_seconds=0.0)
    loop = _sent(share, lambda loop: 0 < loop.scheduled == share.under_way and release.set())
    assert len(sink.rows) == loop.scheduled > 10
    assert max(row.t_snd for row in sink.rows) < min(row.t_end for row in sink.rows)


def test_beyond_the_cap_arrivals_are_dropped_not_delayed() -> None:
    """They are misses that were never sent."""
    release = Event()
    share, sink = _share(release.wait, steps=(Step(400, 0.1),), warm_up_seconds=0.0, max_in_flight=2)
    loop = _sent(share, lambda loop: share.health.dropped == loop.scheduled - 2 and release.set())
    dropped = [row for row in sink.rows if row.outcome is Outcome.DROPPED_BY_CLIENT]
    assert len(dropped) == share.health.dropped == loop.scheduled - 2
    assert all(row.t_snd != row.t_snd for row in dropped)
    assert share.health.sent == 2


@pytest.mark.parametrize("seconds", [60, 0.02], ids=["while sending", "when the last are awaited"])
def test_a_stop_ends_at_once_and_invents_nothing(seconds: float) -> None:
    """What was under way has no outcome; `run` returns, which ends the cell."""
    share, sink = _share(Event().wait, steps=(Step(400, seconds),), warm_up_seconds=0.0)
    loop = OpenLoop(share)
    share.begin(0.0, time.perf_counter())
    running = gevent.spawn(loop.run)
    gevent.sleep(0.05)
    loop.stop()
    running.join(5)
    assert (running.ready(), running.value) == (True, None)
    assert sink.rows == []


def test_a_closed_loop_asks_again_when_it_was_answered() -> None:
    """Warm until both limits are met, then measured from T0; its schedule is when a client was free to ask."""
    share, sink = _share(lambda: gevent.sleep(0.002), arrivals="closed", steps=(Step(0, 0.2), Step(0, 0.2)),
                         concurrency=3, warm_up_seconds=0.02, warm_up_requests=20)  # fmt: skip
    warm = Event()
    loop = ClosedLoop(share, warm.set)
    clients = [gevent.spawn(loop.run, user) for user in range(loop.users)]
    gevent.spawn(loop.watch_warm_up)
    warm.wait(10)
    loop.begin(0.0, time.perf_counter() + 0.01)
    gevent.joinall(clients, timeout=10)
    early = [row for row in sink.rows if not row.measured]
    assert len(early) >= 20
    assert {row.step for row in sink.rows} == {-1, 0, 1}
    assert all((row.t_int >= 0) == row.measured for row in sink.rows)
    assert all(row.t_int <= row.t_snd <= row.t_end for row in sink.rows)
    assert sorted(row.seq for row in sink.rows) == list(range(len(sink.rows)))


@pytest.mark.parametrize(("workers", "users"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1])])
def test_clients_are_shared_out_among_workers(workers: int, users: list[int]) -> None:
    """All of them, once."""
    share, _ = _share(arrivals="closed", steps=(Step(0, 1),), concurrency=5, workers=workers)
    found = []
    for worker in range(workers):
        share.worker = worker
        found.append(ClosedLoop(share, lambda: None).users)
    assert found == users


@pytest.mark.parametrize("kind", [KernelAlarm, YieldingAlarm])
def test_an_alarm_lets_others_run_and_is_never_early(kind: type[KernelAlarm]) -> None:
    """A past instant is met at once."""
    alarm, ran = kind(), []
    gevent.spawn(ran.append, True)
    due = time.perf_counter() + 0.01
    alarm.until(due)
    assert time.perf_counter() >= due
    assert ran == [True]
    alarm.until(due - 1)
    alarm.close()


def test_health_counts_what_was_sent_and_only_right_answers_latency() -> None:
    """A quick refusal must not make a server look fast."""
    health = Health(0)
    row = Row(0, 0, 0, 0, True, 1.0, 1.0005, 1.01, Outcome.OK)
    health.add(row)
    health.add(row._replace(t_snd=1.002, t_end=1.003, outcome=Outcome.SHED))
    health.add(row._replace(t_snd=float("nan"), t_end=float("nan"), outcome=Outcome.DROPPED_BY_CLIENT))
    account = health.to_json()
    assert (account["sent"], account["dropped"], account["late_share"]) == (2, 1, 0.5)
    assert health.response.get_total_count() == health.service.get_total_count() == 1
    assert health.lag.get_total_count() == 2
    assert account["lag"]["max"] == pytest.approx(0.002, rel=0.01)


def test_a_full_pipe_holds_nothing_up_and_a_broken_one_stops_the_run() -> None:
    """Rows wait in memory; without a reader the run is over."""
    read, write = os.pipe()
    failed: list[bool] = []
    sink = Sink(pipe_writer(write), lambda: failed.append(True))
    sink.begin({"slug": "s"})
    for seq in range(5000):
        sink.add(Row(0, 0, seq, 0, True, 0.0, 0.0, 0.0, Outcome.OK))
    assert sink._pass_on() is True
    os.close(read)
    with pytest.raises(LoadTestError, match="recorder ended"):
        sink.drain()
    assert failed == [True]
    os.close(write)
