"""Several workers' pages as one."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.errors import Cause
from gateway.telemetry.histogram import Registry
from gateway.telemetry.merge import counters_of, merged
from gateway.telemetry.metrics import PrometheusObserver, render


def page(requests: int, *, model: str = "m", queued: int = 0, breaker: str = "closed") -> bytes:
    registry = Registry()
    observer = PrometheusObserver(registry)
    for number in range(requests):
        observer.request_finished(
            model=model, version=1, stack="s", protocol="predict", cause=None, seconds=0.001 * number
        )
    observer.endpoint_seen(endpoint="e", stack="s", server='A "quoted" \\ server\n1.0', stand_in=True)
    observer.slots_changed(endpoint="e", busy=1, queued=queued)
    observer.breaker_changed(endpoint="e", model=model, state=breaker)
    observer.retried(model=model, outcome="sent")
    return render(registry)


def values(text: bytes) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def families(text: bytes) -> list[tuple[str, str, str, list[object]]]:
    found = text_string_to_metric_families(text.decode())
    return [(family.name, family.type, family.documentation, list(family.samples)) for family in found]


def test_one_page_stays_what_it_is() -> None:
    """Sample by sample, type by type."""
    alone = page(3)
    assert families(merged([alone])) == families(alone)


def test_amounts_are_added_and_states_are_not() -> None:
    """Requests, buckets, sums and queues add up; the name of a server and an open breaker do not."""
    found = values(merged([page(3, queued=2), page(4, queued=5, breaker="open")]))
    labels = "[('model', 'm'), ('outcome', 'ok'), ('protocol', 'predict'), ('stack', 's'), ('version', '1')]"
    assert found[f"gateway_request_duration_seconds_count{labels}"] == 7
    assert found[f"gateway_request_duration_seconds_sum{labels}"] == pytest.approx(0.009)
    assert found["gateway_endpoint_slots_queued[('endpoint', 'e')]"] == 7
    assert found["gateway_retries_total[('model', 'm'), ('outcome', 'sent')]"] == 2
    assert found["gateway_breaker_state[('endpoint', 'e'), ('model', 'm')]"] == 2
    assert {value for name, value in found.items() if name.startswith("gateway_endpoint_info")} == {1}


def test_a_series_that_only_one_worker_has_is_kept() -> None:
    """Each worker has seen other requests."""
    found = values(merged([page(1, model="a"), page(2, model="b")]))
    counts = {name: value for name, value in found.items() if name.startswith("gateway_request_duration_seconds_count")}
    assert sorted(counts.values()) == [1, 2]


def test_no_page_is_an_empty_one() -> None:
    """Before any worker has answered."""
    assert merged([]) == b""
    assert Cause.OVERLOADED.value not in merged([page(1)]).decode()


def test_what_a_worker_that_ended_had_counted_is_kept_and_how_it_was_is_not() -> None:
    """Counters, histograms and when they began; no queue, no breaker, no server's name."""
    ended = page(3, queued=2, breaker="open")
    kept = values(counters_of(ended))
    gauges = {name for name in values(ended) if name not in kept}
    assert {name.partition("[")[0] for name in gauges} >= {"gateway_endpoint_slots_queued", "gateway_breaker_state"}
    assert not any("_bucket" in name or "_count" in name or "_total" in name for name in gauges)
    assert b"gateway_request_duration_seconds_created" in counters_of(ended)
