"""Prometheus metrics."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from gateway.core.errors import Cause
from gateway.core.observer import Observer
from gateway.telemetry.metrics import PrometheusObserver, render


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def observer(registry: CollectorRegistry) -> PrometheusObserver:
    return PrometheusObserver(registry)


def test_it_is_an_observer(observer: PrometheusObserver) -> None:
    """It can stand wherever the core asks for one."""
    checked: Observer = observer
    assert checked is observer


def test_a_request_is_counted_by_its_outcome(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """A result counts as ok with its version and stack, a failure by its cause."""
    observer.request_finished(
        model="digits", version=1, stack="tfserving", protocol="predict", cause=None, seconds=0.004
    )
    observer.request_finished(model="", version=None, stack="", protocol="predict", cause=Cause.DEADLINE, seconds=30)
    ok = {"model": "digits", "version": "1", "stack": "tfserving", "protocol": "predict", "outcome": "ok"}
    late = {"model": "", "version": "", "stack": "", "protocol": "predict", "outcome": "deadline"}
    assert registry.get_sample_value("gateway_request_duration_seconds_count", ok) == 1
    assert registry.get_sample_value("gateway_request_duration_seconds_sum", ok) == 0.004
    assert registry.get_sample_value("gateway_request_duration_seconds_bucket", {**ok, "le": "0.0025"}) == 0
    assert registry.get_sample_value("gateway_request_duration_seconds_bucket", {**ok, "le": "0.005"}) == 1
    assert registry.get_sample_value("gateway_request_duration_seconds_count", late) == 1


def test_an_attempt_is_counted_by_its_endpoint(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """Upstream calls have a histogram of their own."""
    observer.attempt_finished(model="digits", endpoint="ts", stack="torchserve", cause=Cause.UPSTREAM_LOST, seconds=0.5)
    labels = {"model": "digits", "endpoint": "ts", "stack": "torchserve", "outcome": "upstream_lost"}
    assert registry.get_sample_value("gateway_attempt_duration_seconds_count", labels) == 1


def test_an_endpoint_shows_the_one_server_that_answers_there_now(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """A server that was replaced leaves no series behind."""
    before = {"endpoint": "tf", "stack": "tfserving", "server": "savedmodel-server 1.0 (stand-in)", "stand_in": "true"}
    after = {"endpoint": "tf", "stack": "tfserving", "server": "TensorFlow Serving 2.20.0", "stand_in": "false"}
    observer.endpoint_seen(endpoint="tf", stack="tfserving", server=before["server"], stand_in=True)
    observer.endpoint_seen(endpoint="tf", stack="tfserving", server=before["server"], stand_in=True)
    assert registry.get_sample_value("gateway_endpoint_info", before) == 1
    observer.endpoint_seen(endpoint="tf", stack="tfserving", server=after["server"], stand_in=False)
    assert registry.get_sample_value("gateway_endpoint_info", before) is None
    assert registry.get_sample_value("gateway_endpoint_info", after) == 1


def test_gauges_follow_what_they_watch(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """Slots are told by the endpoint; requests in flight are read when somebody asks."""
    observer.slots_changed(endpoint="ts", busy=2, queued=7)
    assert registry.get_sample_value("gateway_endpoint_slots_busy", {"endpoint": "ts"}) == 2
    assert registry.get_sample_value("gateway_endpoint_slots_queued", {"endpoint": "ts"}) == 7
    now = [3, 4096]
    observer.watch_in_flight(lambda: now[0], lambda: now[1])
    now[0] = 5
    assert registry.get_sample_value("gateway_requests_in_flight") == 5
    assert registry.get_sample_value("gateway_requests_in_flight_bytes") == 4096


def test_two_observers_do_not_share_a_registry(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """Nothing is registered on the process: another observer with its own registry counts for itself."""
    PrometheusObserver(CollectorRegistry()).slots_changed(endpoint="ts", busy=1, queued=0)
    observer.slots_changed(endpoint="tf", busy=1, queued=0)
    text = render(registry).decode()
    assert 'gateway_endpoint_slots_busy{endpoint="tf"} 1.0' in text
    assert 'endpoint="ts"' not in text


def test_an_endpoint_that_is_gone_is_no_longer_shown(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """Its gauges go; the others' stay."""
    for endpoint in ("a", "b"):
        observer.endpoint_seen(endpoint=endpoint, stack="oip", server="s", stand_in=False)
        observer.endpoint_checked(endpoint=endpoint, stack="oip", verified=True)
        observer.slots_changed(endpoint=endpoint, busy=1, queued=0)
        observer.breaker_changed(endpoint=endpoint, model="m", state="open")
    observer.endpoint_gone(endpoint="a")
    page = render(registry).decode()
    assert 'endpoint="a"' not in page
    assert page.count('endpoint="b"') == 5
    observer.slots_changed(endpoint="a", busy=3, queued=0)
    assert registry.get_sample_value("gateway_endpoint_slots_busy", {"endpoint": "a"}) == 3


def test_a_breaker_that_is_gone_is_no_longer_shown(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """That of another model at the same endpoint stays."""
    for model in ("m", "n"):
        observer.breaker_changed(endpoint="a", model=model, state="open")
    observer.breaker_gone(endpoint="a", model="m")
    name = "gateway_breaker_state"
    assert registry.get_sample_value(name, {"endpoint": "a", "model": "m"}) is None
    assert registry.get_sample_value(name, {"endpoint": "a", "model": "n"}) == 2


def test_a_reload_is_counted_and_the_last_one_is_told(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """1 before any, 0 after an invalid one."""
    name = "gateway_config_last_reload_successful"
    assert registry.get_sample_value(name) == 1
    observer.config_reloaded(outcome="invalid")
    assert registry.get_sample_value(name) == 0
    observer.config_reloaded(outcome="ok")
    assert registry.get_sample_value(name) == 1
    assert registry.get_sample_value("gateway_config_reloads_total", {"outcome": "invalid"}) == 1


def test_an_endpoint_is_shown_as_fit_or_not_as_it_was_last_found(
    registry: CollectorRegistry, observer: PrometheusObserver
) -> None:
    """1, then 0: an alert watches this one."""
    for verified in (True, False):
        observer.endpoint_checked(endpoint="ts", stack="torchserve", verified=verified)
        labels = {"endpoint": "ts", "stack": "torchserve"}
        assert registry.get_sample_value("gateway_endpoint_verified", labels) == verified


def test_limits_are_shown_beside_what_is_in_flight(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """So that a dashboard can draw how much room is left."""
    observer.limits_set(requests=1024, size=4096)
    assert registry.get_sample_value("gateway_limit", {"of": "requests"}) == 1024
    assert registry.get_sample_value("gateway_limit", {"of": "bytes"}) == 4096


def test_the_time_of_codecs_is_told_by_protocol(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """Reading and writing apart; a request that was never read counts nowhere."""
    observer.phases_finished(protocol="predict", seconds={"decode": 0.002, "queue": 1.0, "encode": 0.0001})
    observer.phases_finished(protocol="predict", seconds={"decode": 0.004})
    observer.phases_finished(protocol="oip-grpc", seconds={})
    name = "gateway_codec_duration_seconds"
    decode, encode = ({"protocol": "predict", "phase": phase} for phase in ("decode", "encode"))
    assert registry.get_sample_value(f"{name}_count", decode) == 2
    assert registry.get_sample_value(f"{name}_sum", decode) == pytest.approx(0.006)
    assert registry.get_sample_value(f"{name}_count", encode) == 1
    assert registry.get_sample_value(f"{name}_count", {"protocol": "oip-grpc", "phase": "decode"}) == 0


def test_retry_budgets_follow_the_routes(registry: CollectorRegistry, observer: PrometheusObserver) -> None:
    """They are read when somebody asks; a model that is gone, or has nothing to retry any more, is not shown."""
    left = [2.0]
    observer.routes_changed(budgets={"one": lambda: left[0], "two": lambda: 1.0, "single": None})
    for model in ("one", "two", "single"):
        observer.breaker_changed(endpoint="ts", model=model, state="open")
    left[0] = 0.5
    for outcome in ("sent", "budget", "candidates"):
        assert registry.get_sample_value("gateway_retries_total", {"model": "one", "outcome": outcome}) == 0
    assert registry.get_sample_value("gateway_retries_total", {"model": "single", "outcome": "sent"}) is None
    assert registry.get_sample_value("gateway_retry_budget", {"model": "one"}) == 0.5
    observer.routes_changed(budgets={"one": None, "single": None})
    page = render(registry).decode()
    assert "gateway_retry_budget{" not in page
    assert page.count("gateway_breaker_state{") == 2
    assert 'gateway_breaker_state{endpoint="ts",model="two"}' not in page
