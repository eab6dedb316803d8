"""The recorder: the window, and that failures stay out of the latencies."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from loadtests.recorder import Recorder, ServedBy
from loadtests.replies import Outcome


@dataclass
class FakeClock:
    """A clock that stands still until it is moved."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _opened() -> tuple[Recorder, FakeClock]:
    clock = FakeClock(10.0)
    recorder = Recorder(clock=clock, cpu_clock=FakeClock())
    recorder.open()
    return recorder, clock


def test_only_right_answers_enter_the_latencies() -> None:
    """A quick wrong answer must not make a server look fast."""
    recorder, _ = _opened()
    for outcome in Outcome:
        recorder.add(10.5, 0.002, outcome, f"why {outcome}")
    samples = recorder.samples()
    assert samples["latencies_ms"] == [2.0]
    assert samples["outcomes"] == dict.fromkeys(Outcome, 1)


def test_the_warm_up_does_not_count() -> None:
    """Requests sent before the window opens are ignored, even if they end inside."""
    recorder, _ = _opened()
    recorder.add(9.999, 0.5, Outcome.OK)
    recorder.add(10.0, 0.5, Outcome.OK)
    assert recorder.samples()["outcomes"]["ok"] == 1


def test_a_hang_that_began_in_the_warm_up_is_a_failure() -> None:
    """A server that never answers shows failures, not an empty and therefore faultless window."""
    recorder, _ = _opened()
    recorder.add(9.1, 10.0, Outcome.TIMEOUT, "no reply in 10 s")
    recorder.add(8.0, 0.1, Outcome.TIMEOUT, "over before the window")
    assert recorder.samples()["outcomes"]["timeout"] == 1


def test_a_straggler_counts_and_stretches_the_window() -> None:
    """What was sent inside is awaited; the rate is over the time until the last reply."""
    recorder, clock = _opened()
    clock.now = 12.0
    recorder.close()
    recorder.add(11.9, 1.1, Outcome.OK)
    recorder.add(12.1, 0.1, Outcome.OK)
    samples = recorder.samples()
    assert samples["window_s"] == pytest.approx(3.0)
    assert samples["outcomes"]["ok"] == 1


def test_the_generators_own_cpu_time_is_told() -> None:
    """CPU seconds over the window, in cores."""
    clock, cpu = FakeClock(), FakeClock()
    recorder = Recorder(clock=clock, cpu_clock=cpu)
    recorder.open()
    clock.now, cpu.now = 4.0, 3.0
    recorder.close()
    assert recorder.samples()["generator_cpu"] == pytest.approx(0.75)


def test_a_window_that_never_opened_is_empty() -> None:
    """A run that ends in its warm-up has no figures."""
    recorder = Recorder(clock=FakeClock(1.0), cpu_clock=FakeClock())
    recorder.add(1.0, 0.1, Outcome.OK)
    recorder.close()
    assert recorder.samples()["window_s"] == 0.0
    assert recorder.samples()["outcomes"]["ok"] == 0


def test_a_few_distinct_examples_tell_why_requests_failed() -> None:
    """The same text is kept once, and no more than three of a kind."""
    recorder, _ = _opened()
    for number in range(20):
        recorder.add(10.0, 0.1, Outcome.HTTP_5XX, f"reason {number // 5}")
    assert recorder.samples()["examples"] == {"http_5xx": ["reason 0", "reason 1", "reason 2"]}


def test_replies_name_who_answered() -> None:
    """The gateway's header wins over the SavedModel server's own mark; both give one name."""
    header = 'endpoint=tf; stack=tfserving; server="savedmodel-server 1.0 (stand-in)"; version=1'
    gateway = ServedBy.of({"x-served-by": header, "x-server": "other"})
    assert gateway == ServedBy("tf", "tfserving", "savedmodel-server 1.0 (stand-in)")
    assert ServedBy.of({"x-server": "savedmodel-server/1.0 (stand-in)"}).server == "savedmodel-server 1.0 (stand-in)"
    assert ServedBy.of({"x-served-by": "garbage"}) == ServedBy()
