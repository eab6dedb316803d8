"""What the generator does when it is starved, stopped or broken, and that its parts add up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtests.engine.health import histogram, microseconds
from loadtests.engine.run import engine
from loadtests.errors import LoadTestError
from loadtests.raw import read_rows
from tests.harness.findings import reasons
from tests.harness.laws import Fixed
from tests.harness.measuring import Measured, cell, measure, measured
from tests.harness.oracles import oracle
from tests.harness.starving import RECORDER, WORKER, awaited, children, starved
from tests.harness.validation import bucket_counts

pytestmark = pytest.mark.harness


@contextmanager
def _beside(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs `act` in a thread of its own, which is told to end and awaited."""
    over = threading.Event()
    thread = threading.Thread(target=act, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_starved_generator_says_so(tmp_path: Path) -> None:
    """Left a twentieth of the time, it sends late: the lag is far beyond every limit and all of it is counted."""

    with starved():
        found = measured(Fixed(0.001), tmp_path, rate=400, seconds=8, warm_up_seconds=2)
    account = found.workers[0]
    assert account["lag"]["p99"] > 0.02
    assert account["late_share"] > 0.2
    assert any(reason.startswith("client: dispatch lag p99") for reason in reasons(found))
    assert found.health["scheduled"] == found.health["finished"]


def test_histograms_of_workers_merge_to_that_of_all_rows(tmp_path: Path) -> None:
    """Count by count, for L, S and D."""
    found = measured(Fixed(0.003), tmp_path, rate=300, seconds=4, workers=2)
    assert len(found.workers) == 2
    for name, values in (("L", found.response), ("S", found.service), ("D", found.lag)):
        merged, whole = histogram(), histogram()
        for worker in found.workers:
            merged.add(HdrHistogram.decode(worker["hdr"][name]))
        for value in values.tolist():
            whole.record_value(microseconds(value))
        assert merged.get_total_count() == len(values)
        assert bucket_counts(merged) == bucket_counts(whole)


def test_little_s_law_holds_between_samples_and_clocks(tmp_path: Path) -> None:
    """What was under way at 10 Hz is the rate times the mean service time."""
    found = measured(Fixed(0.1), tmp_path, rate=200, seconds=6)
    samples = [(at, count) for at, count in found.workers[0]["in_flight"] if 0.2 < at < 6]
    sent, ended = found.column("t_snd"), found.column("t_end")
    # Of the time that the samples cover: on a busy machine the rate within it is not that of the whole run.
    first, last = samples[0][0], samples[-1][0]
    within = np.clip(ended, first, last) - np.clip(sent, first, last)
    assert np.mean([count for _, count in samples]) == pytest.approx(within.sum() / (last - first), rel=0.1)


def test_arrivals_beyond_the_cap_are_dropped_and_counted(tmp_path: Path) -> None:
    """They are misses, never sent late; the sum over outcomes is what was scheduled."""
    found = measured(Fixed(0.5), tmp_path, rate=100, seconds=4, max_in_flight=10)
    dropped = found.outcomes.count("dropped_by_client")
    assert dropped == found.workers[0]["dropped"] > 200
    assert len(found.outcomes) == found.health["scheduled"]
    assert np.isnan(found.column("t_snd")).sum() == dropped


def test_stragglers_are_awaited_and_a_hanging_server_gives_timeouts(tmp_path: Path) -> None:
    """The slowest requests are not cut off with the end of the schedule."""
    slow = measured(Fixed(1.5), tmp_path / "slow", rate=50, seconds=2, timeout_seconds=3)
    assert set(slow.outcomes) == {"ok"}
    hanging = measured(Fixed(60), tmp_path / "hanging", rate=50, seconds=2, timeout_seconds=1)
    assert set(hanging.outcomes) == {"timeout"}


def test_nobody_there_is_a_connection_error(tmp_path: Path) -> None:
    """Failed requests are figures, over REST and gRPC alike."""
    for protocol in ("predict", "oip-grpc"):
        folder = tmp_path / protocol
        folder.mkdir()
        found = measure(cell("127.0.0.1:1", protocol=protocol, rate=50, seconds=1), folder)
        assert set(found.outcomes) == {"conn_error"}


def test_a_killed_recorder_stops_the_run_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    """The run says so instead of measuring for nobody."""

    def kill(over: threading.Event) -> None:
        recorder = awaited(RECORDER)[0]
        file = tmp_path / "oracle.0.arrow"
        while not over.wait(0.1) and not (file.exists() and file.stat().st_size > 10_000):
            pass
        recorder.kill()

    with (
        oracle(Fixed(0.001)) as address,
        _beside(kill),
        pytest.raises(LoadTestError, match="could not be recorded"),
    ):
        measure(cell(address, rate=400, seconds=60), tmp_path)
    assert read_rows(tmp_path / "oracle.0.arrow").num_rows > 100


def test_a_killed_generator_is_an_error_and_its_rows_stay(tmp_path: Path) -> None:
    """What it had passed on is on the disk."""

    def kill(over: threading.Event) -> None:
        worker = awaited(WORKER)[0]
        file = tmp_path / "oracle.0.arrow"
        while not over.wait(0.1) and not (file.exists() and file.stat().st_size > 10_000):
            pass
        os.kill(worker.pid, signal.SIGKILL)

    with oracle(Fixed(0.001)) as address, _beside(kill), pytest.raises(LoadTestError, match="ended before its run did"):
        measure(cell(address, rate=400, seconds=60), tmp_path)
    assert read_rows(tmp_path / "oracle.0.arrow").num_rows > 100
    assert children(RECORDER) == []


def test_a_stop_ends_the_run_soon_and_keeps_its_rows(tmp_path: Path) -> None:
    """What was under way then is no result: nothing is invented for it."""
    stop, file = threading.Event(), tmp_path / "oracle.0.arrow"

    def press(over: threading.Event) -> None:
        while not over.wait(0.1) and not (file.exists() and file.stat().st_size > 10_000):
            pass
        stop.set()

    began = time.monotonic()
    with oracle(Fixed(0.2)) as address, _beside(press):
        found = measure(cell(address, rate=200, seconds=120), tmp_path, stop)
    assert time.monotonic() - began < 60
    assert found.health["stopped"] is True
    assert set(found.rows["outcome"].to_pylist()) == {"ok"}
    assert found.health["finished"] < found.health["scheduled"]


def test_the_cells_of_a_campaign_share_a_nursery_and_nothing_else(tmp_path: Path) -> None:
    """Each has connections, schedule and counts of its own."""
    with oracle(Fixed(0.001)) as address, engine() as run_cell:
        cells = [cell(address, rate=400, seconds=3) for _ in range(2)]
        cells.append(cell(address, rate=200, seconds=2, workers=2))
        for number, spec in enumerate(cells):
            folder = tmp_path / str(number)
            run_cell(spec, artifacts=folder, raw=folder, health=folder / "health.json", log=folder / "log")
    first, second, two = (Measured.of(spec, tmp_path / str(number)) for number, spec in enumerate(cells))
    assert first.column("t_int").tolist() == second.column("t_int").tolist()
    assert [len(found.workers) for found in (first, second, two)] == [1, 1, 2]
    for found in (first, second, two):
        assert set(found.outcomes) == {"ok"}
        assert found.health["scheduled"] == len(found.outcomes)
        assert all(account["connections"] >= 1 for account in found.workers)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
def test_connections_are_opened_in_the_warm_up(tmp_path: Path, transport: str) -> None:
    """A steady load opens next to none while it is measured."""
    found = measured(Fixed(0.02), tmp_path, rate=200, seconds=4, warm_up_seconds=3, transport=transport)
    account = found.workers[0]
    assert account["connections"] >= 1
    assert account["connections_opened_measured"] <= 5
