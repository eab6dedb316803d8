"""The conductor with workers that are sockets: who is told what, and how a cell can end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from loadtests.cell_spec import Step
from loadtests.engine.conduct import Conductor, Player
from loadtests.errors import LoadTestError
from tests.unit.loadtests.engine.builders import cell

CLOSED = {"arrivals": "closed", "steps": (Step(0, 1),), "concurrency": 2}
DONE = {"done": {"index": 0, "lag": {}}, "scheduled": 5, "rows": 5, "stopped": False, "t0_unix": 10.0}
Part = Callable[["Worker"], None]


class Worker:
    """The far end of a player, played by a test."""

    def __init__(self, far: socket.socket) -> None:
        self._far = far
        self._lines = far.makefile("rb")
        self.heard: list[str] = []

    def say(self, **message: Any) -> None:
        """Tells the conductor."""
        self._far.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, word: str) -> Any:
        """Waits for a message and keeps its word."""
        message = json.loads(self._lines.readline())
        self.heard += message
        return message[word]

    def leave(self) -> None:
        """Ends."""
        self._lines.close()
        self._far.close()


def _conducted(
    *parts: Part, stop: threading.Event | None = None, recording: bool = True, load: dict[str, Any] | None = None
) -> Conductor:
    """A conductor whose workers have played their parts."""
    pairs = [Player.pair(index) for index in range(len(parts))]
    workers = [Worker(far) for _, far in pairs]
    threads = [threading.Thread(target=part, args=(worker,)) for part, worker in zip(parts, workers, strict=True)]
    spec = cell(workers=len(parts), **(load or {}))
    conductor = Conductor(spec, [near for near, _ in pairs], stop or threading.Event(), lambda: recording)
    for thread in threads:
        thread.start()
    try:
        conductor.conduct()
    finally:
        for near, _ in pairs:
            near.close()
        for thread in threads:
            thread.join(10)
        for worker in workers:
            worker.leave()
    return conductor


def test_all_workers_begin_at_one_instant_and_their_accounts_are_joined() -> None:
    """Nobody begins before the last is ready; counts add up."""
    instants: list[float] = []

    def part(worker: Worker) -> None:
        worker.say(ready=0.5)
        instants.append(worker.hear("begin"))
        worker.say(**DONE)

    account = _conducted(part, part).account()
    assert instants[0] == instants[1]
    assert (account["scheduled"], account["finished"], account["stopped"]) == (10, 10, False)
    assert (account["t0_unix"], len(account["workers"])) == (10.0, 2)


def test_a_closed_loop_is_measured_when_its_last_worker_is_warm() -> None:
    """Its warm-up has no length known beforehand."""
    workers: list[Worker] = []

    def part(worker: Worker) -> None:
        workers.append(worker)
        worker.say(ready=0.0)
        worker.hear("begin")
        worker.say(warm=True)
        worker.hear("measure")
        worker.say(**DONE)

    assert _conducted(part, part, load=CLOSED).account()["finished"] == 10
    assert [worker.heard for worker in workers] == [["begin", "measure"]] * 2


def test_a_stop_reaches_every_worker_and_what_was_done_is_kept() -> None:
    """One that had not begun yet just ends."""
    stop = threading.Event()

    def running(worker: Worker) -> None:
        worker.say(ready=0.5)
        stop.set()
        worker.hear("stop")
        worker.say(**{**DONE, "rows": 2, "stopped": True})

    def starting(worker: Worker) -> None:
        worker.hear("stop")
        worker.say(error="stopped before the run began")
        worker.leave()

    account = _conducted(running, starting, stop=stop).account()
    assert (account["stopped"], account["finished"]) == (True, 2)


def _fails(worker: Worker) -> None:
    worker.say(error="no golden data")


def _leaves(worker: Worker) -> None:
    worker.say(ready=0.5)
    worker.leave()


@pytest.mark.parametrize(("part", "words"), [(_fails, "no golden data"), (_leaves, "ended before its run did")])
def test_a_worker_that_cannot_go_on_ends_the_cell(part: Part, words: str) -> None:
    """Its own words are the reason, if it has any."""
    with pytest.raises(LoadTestError, match=words):
        _conducted(part)


def test_without_a_recorder_nothing_is_measured() -> None:
    """Rows that nobody keeps are no measurement."""
    with pytest.raises(LoadTestError, match="recorder ended"):
        _conducted(lambda worker: worker.say(ready=0.5), recording=False)
