"""What each of several workers may take."""

from __future__ import annotations

import pytest

from gateway.settings import Settings
from gateway.workers.share import part, share_of, too_small


def settings(workers: int, **limits: int) -> Settings:
    return Settings(
        server={"workers": workers},
        limits=limits,
        endpoints={"a": {"stack": "noop", "slots": 5, "queue": 7}, "b": {"stack": "noop", "slots": 1, "queue": 0}},
    )


@pytest.mark.parametrize("total", [4, 5, 6, 7, 1024])
def test_the_parts_are_the_whole_and_nearly_the_same(total: int) -> None:
    """Nobody has two more than another."""
    parts = [part(total, worker, 4) for worker in range(1, 5)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_nobody_has_nothing() -> None:
    """Of 2 slots each of 4 workers has 1."""
    assert [part(2, worker, 4) for worker in range(1, 5)] == [1, 1, 1, 1]


def test_slots_queues_and_requests_in_flight_are_divided() -> None:
    """What is counted in a worker is its part of what the gateway allows; an endpoint without a queue has none."""
    shares = [share_of(settings(2, in_flight=9, in_flight_bytes=2001, body_bytes=10), worker) for worker in (1, 2)]
    assert [share.endpoints["a"].slots for share in shares] == [3, 2]
    assert [share.endpoints["a"].queue for share in shares] == [4, 3]
    assert [share.endpoints["b"].queue for share in shares] == [0, 0]
    assert [share.limits.in_flight for share in shares] == [5, 4]
    assert [share.limits.in_flight_bytes for share in shares] == [1001, 1000]


def test_every_worker_takes_the_largest_request() -> None:
    """Bytes in flight are never less than one body."""
    share = share_of(settings(4, in_flight_bytes=2000, body_bytes=1000), 1)
    assert share.limits.in_flight_bytes == 1000


def test_one_worker_has_all() -> None:
    """Division by one changes nothing."""
    assert share_of(settings(1), 1).endpoints == settings(1).endpoints
    assert list(too_small(settings(1))) == []


def test_slots_that_are_too_few_are_told() -> None:
    """More calls may run there than the configuration says."""
    (told,) = too_small(settings(3))
    assert "endpoint b: slots: 1" in told
    assert "up to 3 calls" in told
