"""Sending a cell's requests: at scheduled instants whatever the server does, or one after the other.

Both run in greenlets of one process. A request's instants are `time.perf_counter`; rows have them from T0.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.pool import Group

from loadtests.cell_spec import CellSpec
from loadtests.engine.alarm import alarm
from loadtests.engine.arrivals import WARM_UP, StepSchedule, generator, schedule
from loadtests.engine.asking import Asked, asked, timings_of
from loadtests.engine.health import Health
from loadtests.engine.rows import Row
from loadtests.engine.sink import Sink
from loadtests.replies import Outcome, Reply

if TYPE_CHECKING:
    # Importing Locust patches the standard library, which is the worker's to decide.
    from locust.event import EventHook

_NAN = float("nan")
# After a lost connection a client that waits for answers pauses: a server that is gone must not meet a busy loop.
_PAUSE_AFTER_LOSS_S = 0.05
# A closed loop's warm-up ends, whatever came back, when it has lasted this many times what was asked for.
_PATIENCE = 10
CUT_OFF = "cut off at the end of the run"


class StoppedError(gevent.GreenletExit):
    """Ends a dispatcher before its schedule does."""


class RequestFailedError(Exception):
    """A request without a right answer, as Locust's own statistics want it."""


@dataclass(slots=True, eq=False)
class Share:
    """One worker's share of a cell: what it asks, where its rows go, what it counts."""

    spec: CellSpec
    worker: int
    targets: Sequence[Asked]
    sink: Sink
    health: Health
    fire: EventHook | None = None
    t0: float = _NAN  # on `time.perf_counter`, once it is known
    under_way: int = 0
    stopped: bool = False

    @classmethod
    def of(cls, spec: CellSpec, worker: int, artifacts: Path, sink: Sink) -> Share:
        """Prepares the requests; raises LoadTestError where it cannot."""
        return cls(spec, worker, [asked(target, spec.load, artifacts) for target in spec.targets], sink, Health(worker))

    def opened(self) -> int:
        """How many connections were made so far."""
        return sum(target.clients.opened for target in self.targets)

    def begin(self, t0_unix: float, t0: float) -> None:
        """T0 is known: as wall time and on our own clock."""
        self.t0 = t0
        self.sink.begin({"t0_unix": t0_unix, "slug": self.spec.slug, "worker": self.worker})

    def picked(self, draw: int) -> tuple[Asked, int]:
        """The target and the question of a draw."""
        draw, target = divmod(draw, len(self.targets))
        return self.targets[target], draw % len(self.targets[target].requests)

    def ask(self, target: Asked, question: int) -> tuple[float, Reply]:
        """Sends and awaits; returns the instant of sending too. One that is cut off counts as a timeout."""
        self.under_way += 1
        sent = time.perf_counter()
        try:
            return sent, target.send(question)
        except gevent.GreenletExit:
            return sent, Reply(Outcome.TIMEOUT, time.perf_counter() - sent, detail=CUT_OFF)
        finally:
            self.under_way -= 1

    def row(self, step: int, seq: int, due: float, target: Asked, question: int, sent: float, reply: Reply) -> Row:
        """The row of a request; its instants stay on our own clock until `keep`."""
        outcome, detail, origin = target.judged(question, reply)
        if self.fire is not None:
            self.fire.fire(
                request_type=target.target.protocol,
                name=target.target.name,
                response_time=(sent + reply.seconds - due) * 1e3,
                response_length=len(reply.body),
                exception=None if outcome is Outcome.OK else RequestFailedError(f"{outcome}: {detail}"),
                context={"service_ms": reply.seconds * 1e3},
            )
        return Row(
            step,
            self.worker,
            seq,
            question,
            step != WARM_UP,
            due,
            sent,
            sent + reply.seconds,
            outcome,
            len(target.requests[question]),
            len(reply.body),
            origin.endpoint,
            origin.stack,
            origin.server,
            timings_of(reply.marks.get("server-timing")),
            detail,
            self._model(target),
        )

    def dropped(self, step: int, seq: int, due: float, target: Asked, question: int) -> Row:
        """The row of an arrival that found too many requests under way."""
        detail = f"{self.spec.load.max_in_flight} requests were under way"
        return Row(
            step, self.worker, seq, question, step != WARM_UP, due, _NAN, _NAN, Outcome.DROPPED_BY_CLIENT,
            detail=detail, model=self._model(target),
        )  # fmt: skip

    def keep(self, row: Row) -> None:
        """Records a row; T0 must be known. What a stop cut off is no result."""
        if self.stopped:
            return
        t0 = self.t0
        row = row._replace(t_int=row.t_int - t0, t_snd=row.t_snd - t0, t_end=row.t_end - t0)
        self.sink.add(row)
        if row.measured:
            self.health.add(row)

    def _model(self, target: Asked) -> str:
        return target.target.model if len(self.targets) > 1 else ""


class OpenLoop:
    """Sends on schedule. `run` returns when the last request has its outcome."""

    users = 1

    def __init__(self, share: Share) -> None:
        self._share = share
        self._steps: Sequence[StepSchedule] = schedule(share.spec, share.worker)
        self._group = Group()
        self._alarm = alarm()
        self._runner: gevent.Greenlet | None = None
        # Arrivals of the measured part, as far as the schedule was drawn: all of them once it was sent.
        self.scheduled = 0

    @property
    def warm_up_seconds(self) -> float:
        """How long before T0 the first arrivals may be due."""
        return self._steps[0].seconds

    def run(self, user: int = 0) -> None:
        """Sends everything, then awaits the stragglers; returns soon after a stop."""
        del user
        self._runner = gevent.getcurrent()
        try:
            if not self._share.stopped:
                self._dispatch()
                # Each request has the time limit of its own; the second is for a busy machine.
                self._group.join(self._share.spec.load.timeout_seconds + 1)
        except StoppedError:
            pass
        finally:
            self._runner = None
            self._alarm.close()
            self._group.kill()

    def stop(self) -> None:
        """Ends the schedule now and cuts off what is under way."""
        self._share.stopped = True
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.kill(StoppedError, block=False)

    def _dispatch(self) -> None:
        share, until, spawn = self._share, self._alarm.until, gevent.spawn
        most, seq = share.spec.load.max_in_flight, itertools.count()
        for step in self._steps:
            begins = share.t0 + step.starts
            for times, draws in step.pieces():
                self.scheduled += len(times) if step.index != WARM_UP else 0
                for after, draw in zip(times.tolist(), draws.tolist(), strict=True):
                    due = begins + after
                    target, question = share.picked(draw)
                    until(due)
                    if len(self._group) >= most:
                        share.keep(share.dropped(step.index, next(seq), due, target, question))
                        continue
                    self._group.add(spawn(self._one, step.index, next(seq), due, target, question))
        until(share.t0 + share.spec.load.seconds)

    def _one(self, step: int, seq: int, due: float, target: Asked, question: int) -> None:
        sent, reply = self._share.ask(target, question)
        self._share.keep(self._share.row(step, seq, due, target, question, sent, reply))


@dataclass(slots=True, eq=False)
class ClosedLoop:
    """`users` clients that each wait for their answer before they ask again.

    The warm-up lasts for both of its limits, so its end is not known beforehand: `warm` is called then, and `begin`
    tells T0 afterwards. Rows of the warm-up wait for it, since their instants are counted from it.
    """

    share: Share
    warm: Callable[[], None]
    warm_up_seconds: float = 0.0
    _early: list[Row] = field(default_factory=list)
    _asked: int = 0
    _known: Event = field(default_factory=Event)
    _ends: float = float("inf")
    _runners: list[Any] = field(default_factory=list)

    @property
    def users(self) -> int:
        """This worker's part of the cell's clients."""
        load = self.share.spec.load
        return load.concurrency // load.workers + (self.share.worker < load.concurrency % load.workers)

    @property
    def scheduled(self) -> int:
        """A closed loop schedules nothing: what was sent is what was scheduled."""
        return self.share.health.rows

    def begin(self, t0_unix: float, t0: float) -> None:
        """The measured part begins at T0."""
        self.share.begin(t0_unix, t0)
        self._ends = t0 + self.share.spec.load.seconds
        for row in self._early:
            step = self._step(row.t_int)  # a worker that heard late may have sent some since T0
            self.share.keep(row._replace(step=step, measured=step != WARM_UP))
        self._early.clear()
        self._known.set()

    def watch_warm_up(self) -> None:
        """Calls `warm` when the warm-up is over; for a greenlet of its own."""
        load, started = self.share.spec.load, time.perf_counter()
        wanted, patience = load.warm_up_requests / load.workers, max(load.warm_up_seconds, 1.0) * _PATIENCE
        while (lasted := time.perf_counter() - started) < patience:
            if lasted >= load.warm_up_seconds and self._asked >= wanted:
                break
            gevent.sleep(0.01)
        self.warm()

    def run(self, user: int = 0) -> None:
        """One client, until the measured part is over."""
        self._runners.append(gevent.getcurrent())
        share = self.share
        # Every client draws for itself, so that what is asked does not depend on how quickly others are answered.
        rng = generator(share.spec, WARM_UP, share.worker + share.spec.load.workers * user)
        try:
            # The instant that lets a client ask is the one its request counts from, so none counts after the end.
            while not share.stopped and (due := time.perf_counter()) < self._ends:
                self._one(due, *share.picked(int(rng.integers(0, 2**32))))
        except StoppedError:
            return

    def stop(self) -> None:
        """Ends every client now."""
        self.share.stopped = True
        for runner in self._runners:
            runner.kill(StoppedError, block=False)

    def _one(self, due: float, target: Asked, question: int) -> None:
        share = self.share
        number, self._asked = self._asked, self._asked + 1
        sent, reply = share.ask(target, question)
        row = share.row(self._step(due), number, due, target, question, sent, reply)
        if self._known.is_set():
            share.keep(row)
        else:
            self._early.append(row)
        if reply.outcome is Outcome.CONN_ERROR:
            gevent.sleep(_PAUSE_AFTER_LOSS_S)

    def _step(self, due: float) -> int:
        """The step in which a client was free to ask."""
        after = due - self.share.t0
        if not after >= 0:  # T0 may be unknown still
            return WARM_UP
        ends = itertools.accumulate(step.seconds for step in self.share.spec.load.steps)
        last = len(self.share.spec.load.steps) - 1
        return next((index for index, end in enumerate(ends) if after < end), last)


def loop_of(share: Share, warm: Callable[[], None]) -> OpenLoop | ClosedLoop:
    """What sends a share."""
    return ClosedLoop(share, warm) if share.spec.load.arrivals == "closed" else OpenLoop(share)
