"""What a container uses, from readings as the engine's API gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtests.campaign.containers import Container, ContainerMeter, memory_of, usage_between


def stats(cpu_ns: int, usage: int = 300_000_000, throttled: int = 0) -> dict[str, Any]:
    """Those parts of `GET /containers/{id}/stats?one-shot=true` that are used, of an engine with cgroup v2."""
    return {
        "read": "2026-03-04T05:06:07.000000000Z",
        "pids_stats": {"current": 34, "limit": 38_000},
        "cpu_stats": {
            "cpu_usage": {"total_usage": cpu_ns, "usage_in_kernelmode": 0, "usage_in_usermode": cpu_ns},
            "system_cpu_usage": 1,
            "online_cpus": 2,
            "throttling_data": {"periods": 90, "throttled_periods": throttled, "throttled_time": 0},
        },
        "memory_stats": {"usage": usage, "stats": {"inactive_file": 50_000_000}, "limit": 8_000_000_000},
    }


class Engine:
    """Gives readings one after another, and fails after the last."""

    def __init__(self, *readings: Mapping[str, Any]) -> None:
        self._left = list(readings)

    def __call__(self) -> Mapping[str, Any]:
        if not self._left:
            raise ConnectionError("the engine has gone")
        return self._left.pop(0)


def meter(*readings: Mapping[str, Any]) -> ContainerMeter:
    """A meter of a container whose engine gives these readings."""
    return ContainerMeter("tfserving", Container("1", "tf", "tensorflow/serving", "sha256:1", Engine(*readings)))


def test_the_counters_differences_are_what_was_used() -> None:
    """CPU time in seconds, quota periods; the memory is the largest seen, without the page cache."""
    watched = meter(stats(5_000_000_000, throttled=2), stats(0, 900_000_000), stats(7_250_000_000, throttled=5))
    watched.begin()
    watched.sample()
    used = watched.end()
    assert (used.kind, used.status, used.cpu_s, used.throttled) == ("container", "measured", 2.25, 3)
    assert (used.rss_peak, used.threads, used.restarts) == (850_000_000, 34, 0)
    assert used.ctx_voluntary is None


def test_a_container_that_began_anew_was_restarted() -> None:
    """Its counters went back."""
    used = usage_between("x", stats(5_000_000_000, throttled=9), stats(1_000_000_000, throttled=1), 1)
    assert (used.cpu_s, used.restarts, used.throttled) == (1.0, 1, 1)


def test_an_engine_that_does_not_answer_measures_nothing() -> None:
    """Nothing is raised in the middle of a cell."""
    watched = meter(stats(1))
    watched.begin()
    used = watched.end()
    assert (used.status, used.cpu_s) == ("not measured", None)
    assert memory_of({}) == 0
