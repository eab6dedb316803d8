"""Prometheus metrics: an `Observer` that counts into a registry it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from gateway.core.errors import Cause
from gateway.telemetry.histogram import Histogram, Registry, Series

# From a null backend's tenths of a millisecond to the longest deadline that a client may ask for.
SECONDS_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip

# From a few numbers to the largest JSON body.
CODEC_BUCKETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
CODEC_PHASES = ("decode", "encode")

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DIFFERENCE_BUCKETS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}

OK = "ok"
RELOAD_OUTCOMES = (OK, "invalid")
RETRY_OUTCOMES = ("sent", "budget", "candidates")


@dataclass(slots=True)
class _Slots:
    """How busy an endpoint is now: it changes with every request, and is looked at once a scrape."""

    busy: int = 0
    queued: int = 0


class PrometheusObserver:
    """Counts requests, upstream calls and endpoint states into `registry`.

    Label values come from the configuration, from closed lists or from the servers themselves, never from a
    client: the number of time series is bounded whatever clients send.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Histogram(
            "gateway_request_duration_seconds",
            "Clients' requests: from the first byte seen to the answer encoded. outcome is 'ok' or a cause.",
            ("model", "version", "stack", "protocol", "outcome"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._codecs = Histogram(
            "gateway_codec_duration_seconds",
            "How long it took to read a client's request (phase decode) and to write its answer (encode).",
            ("protocol", "phase"),
            buckets=CODEC_BUCKETS,
            registry=registry,
        )
        # Found by what is told, without a text for each of it.
        self._requests_of: dict[tuple[str, int | None, str, str, Cause | None], Series] = {}
        self._codecs_of: dict[str, tuple[tuple[str, Series], ...]] = {}
        self._attempts = Histogram(
            "gateway_attempt_duration_seconds",
            "Calls to model servers, each counted once. outcome is 'ok' or a cause.",
            ("model", "endpoint", "stack", "outcome"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._endpoint_info = Gauge(
            "gateway_endpoint_info",
            "The program that answers at an endpoint, with its version; always 1.",
            ("endpoint", "stack", "server", "stand_in"),
            registry=registry,
        )
        self._verified = Gauge(
            "gateway_endpoint_verified",
            "1 where an endpoint answers and its models are ready as their contracts say, 0 where not.",
            ("endpoint", "stack"),
            registry=registry,
        )
        self._busy = Gauge(
            "gateway_endpoint_slots_busy", "Calls running at an endpoint now.", ("endpoint",), registry=registry
        )
        self._queued = Gauge(
            "gateway_endpoint_slots_queued",
            "Calls waiting for an endpoint's slot now.",
            ("endpoint",),
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "gateway_queue_duration_seconds",
            "How long requests waited for a slot of an endpoint.",
            ("endpoint", "model"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._batch_requests = Histogram(
            "gateway_batch_requests",
            "Clients' requests that one call to a model server carried.",
            ("endpoint", "model"),
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._orphaned = Counter(
            "gateway_orphaned_calls",
            "Calls that nobody waits for any more, at servers that cannot cancel.",
            ("endpoint",),
            registry=registry,
        )
        self._breaker_open = Gauge(
            "gateway_breaker_state",
            "0 closed, 1 half-open (one probe at a time), 2 open.",
            ("endpoint", "model"),
            registry=registry,
        )
        self._retries = Counter(
            "gateway_retries",
            "Failures that may be tried elsewhere. outcome is 'sent', or why not: 'budget', 'candidates'.",
            ("model", "outcome"),
            registry=registry,
        )
        self._budgets = Gauge(
            "gateway_retry_budget",
            "Retries that may be sent now, for models with more than one target; below 1 none is.",
            ("model",),
            registry=registry,
        )
        self._models: dict[str, bool] = {}
        self._mirrored = Histogram(
            "gateway_mirror_duration_seconds",
            "Requests copied to a mirror. outcome is 'ok', 'mismatch' or a cause.",
            ("model", "endpoint", "outcome"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._mirror_skipped = Counter(
            "gateway_mirror_skipped",
            "Requests that were drawn for a mirror and not copied. reason is 'skipped' (busy) or 'same_endpoint'.",
            ("model", "endpoint", "reason"),
            registry=registry,
        )
        self._mirror_difference = Histogram(
            "gateway_mirror_difference",
            "max |a - b| / (1 + |b|) between a mirror's answer and its client's.",
            ("model", "endpoint"),
            buckets=DIFFERENCE_BUCKETS,
            registry=registry,
        )
        self._mirror_mismatches = Counter(
            "gateway_mirror_mismatches",
            "Mirrored answers beyond the contract's tolerance.",
            ("model", "endpoint"),
            registry=registry,
        )
        self._in_flight = Gauge("gateway_requests_in_flight", "Requests in the gateway now.", registry=registry)
        self._in_flight_bytes = Gauge(
            "gateway_requests_in_flight_bytes", "Bytes of the bodies of the requests in flight.", registry=registry
        )
        self._lag = Gauge(
            "gateway_event_loop_lag_seconds",
            "How late the event loop ran at worst in the last 15 seconds: every request waits that long.",
            registry=registry,
        )
        self._limit = Gauge(
            "gateway_limit",
            "What may be in flight at most: 'requests', and 'bytes' of their bodies.",
            ("of",),
            registry=registry,
        )
        self._reloads = Counter(
            "gateway_config_reloads",
            "How often the configuration was read again. outcome is 'ok', or 'invalid': the old one went on.",
            ("outcome",),
            registry=registry,
        )
        self._last_reload = Gauge(
            "gateway_config_last_reload_successful",
            "1 where the configuration in use is the one last read, 0 where that was invalid.",
            registry=registry,
        )
        for outcome in RELOAD_OUTCOMES:
            self._reloads.labels(outcome)
        self._last_reload.set(1)
        self._slots: dict[str, _Slots] = {}
        self._seen: dict[str, tuple[str, str, str, str]] = {}

    def watch_in_flight(self, requests: Callable[[], float], size: Callable[[], float]) -> None:
        """Reads the number of requests in flight and their bytes whenever the metrics are rendered."""
        self._in_flight.set_function(requests)
        self._in_flight_bytes.set_function(size)

    def watch_loop_lag(self, worst: Callable[[], float]) -> None:
        """Reads the event loop's lateness whenever the metrics are rendered."""
        self._lag.set_function(worst)

    def limits_set(self, *, requests: int, size: int) -> None:
        """Shows how much may be in flight, beside how much is."""
        self._limit.labels("requests").set(requests)
        self._limit.labels("bytes").set(size)

    def request_finished(
        self, *, model: str, version: int | None, stack: str, protocol: str, cause: Cause | None, seconds: float
    ) -> None:
        """Counts one request of a client."""
        key = (model, version, stack, protocol, cause)
        series = self._requests_of.get(key)
        if series is None:
            shown = "" if version is None else str(version)
            series = self._requests_of[key] = self._requests.labels(model, shown, stack, protocol, _outcome(cause))
        series.observe(seconds)

    def phases_finished(self, *, protocol: str, seconds: Mapping[str, float]) -> None:
        """Counts the time of one request's codecs."""
        codecs = self._codecs_of.get(protocol)
        if codecs is None:
            codecs = tuple((phase, self._codecs.labels(protocol, phase)) for phase in CODEC_PHASES)
            self._codecs_of[protocol] = codecs
        for phase, series in codecs:
            took = seconds.get(phase)
            if took is not None:
                series.observe(took)

    def attempt_finished(self, *, model: str, endpoint: str, stack: str, cause: Cause | None, seconds: float) -> None:
        """Counts one call to a model server."""
        self._attempts.labels(model, endpoint, stack, _outcome(cause)).observe(seconds)

    def endpoint_seen(self, *, endpoint: str, stack: str, server: str, stand_in: bool) -> None:
        """Shows what answers at an endpoint; what answered there before is forgotten."""
        labels = (endpoint, stack, server, str(stand_in).lower())
        before = self._seen.get(endpoint)
        if before == labels:
            return
        if before is not None:
            self._endpoint_info.remove(*before)
        self._seen[endpoint] = labels
        self._endpoint_info.labels(*labels).set(1)

    def endpoint_checked(self, *, endpoint: str, stack: str, verified: bool) -> None:
        """Shows whether an endpoint is fit to be sent requests."""
        self._verified.labels(endpoint, stack).set(verified)

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        """Shows how busy an endpoint is."""
        slots = self._slots.get(endpoint)
        if slots is None:
            slots = self._slots[endpoint] = _Slots()
            self._busy.labels(endpoint).set_function(partial(getattr, slots, "busy"))
            self._queued.labels(endpoint).set_function(partial(getattr, slots, "queued"))
        slots.busy, slots.queued = busy, queued

    def queue_left(self, *, endpoint: str, model: str, seconds: float) -> None:
        """Counts one request's wait for a slot."""
        self._queue_seconds.labels(endpoint, model).observe(seconds)

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        """Counts one call by the requests in it."""
        self._batch_requests.labels(endpoint, model).observe(requests)

    def call_orphaned(self, *, endpoint: str) -> None:
        """Counts one call that was left alone."""
        self._orphaned.labels(endpoint).inc()

    def breaker_changed(self, *, endpoint: str, model: str, state: str) -> None:
        """Shows a circuit breaker's state."""
        self._breaker_open.labels(endpoint, model).set(BREAKER_STATES[state])

    def breaker_gone(self, *, endpoint: str, model: str) -> None:
        """Shows no state where there is no circuit breaker."""
        self._breaker_open.remove_by_labels({"endpoint": endpoint, "model": model})

    def retried(self, *, model: str, outcome: str) -> None:
        """Counts one failure that may be retried."""
        self._retries.labels(model, outcome).inc()

    def routes_changed(self, *, budgets: Mapping[str, Callable[[], float] | None]) -> None:
        """Shows the retries that are left; of models without a route any more neither these nor breakers."""
        for model, left in budgets.items():
            if left is not None:
                self._budgets.labels(model).set_function(left)
                # Shown from the start: a dashboard has to tell no retries from none to be had.
                for outcome in RETRY_OUTCOMES:
                    self._retries.labels(model, outcome)
            elif self._models.get(model):
                self._budgets.remove(model)
        for model in self._models.keys() - budgets.keys():
            self._budgets.remove_by_labels({"model": model})
            self._breaker_open.remove_by_labels({"model": model})
        self._models = {model: left is not None for model, left in budgets.items()}

    def mirror_finished(
        self, *, model: str, endpoint: str, outcome: str, seconds: float | None, difference: float | None
    ) -> None:
        """Counts one request that was drawn for a mirror."""
        if seconds is None:
            self._mirror_skipped.labels(model, endpoint, outcome).inc()
            return
        self._mirrored.labels(model, endpoint, outcome).observe(seconds)
        if difference is not None:
            self._mirror_difference.labels(model, endpoint).observe(difference)
        if outcome == "mismatch":
            self._mirror_mismatches.labels(model, endpoint).inc()

    def endpoint_gone(self, *, endpoint: str) -> None:
        """Forgets what an endpoint was like; what was counted of it stays."""
        self._seen.pop(endpoint, None)
        for gauge in (self._endpoint_info, self._verified, self._busy, self._queued, self._breaker_open):
            gauge.remove_by_labels({"endpoint": endpoint})
        self._slots.pop(endpoint, None)

    def config_reloaded(self, *, outcome: str) -> None:
        """Counts one reading of the configuration."""
        self._reloads.labels(outcome).inc()
        self._last_reload.set(outcome == OK)


class WorkerMetrics:
    """What the supervisor of several workers counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.workers = Gauge("gateway_workers", "Processes of the gateway that take requests now.", registry=registry)
        self.restarts = Counter(
            "gateway_worker_restarts", "Processes of the gateway that ended and were started again.", registry=registry
        )


def render(registry: CollectorRegistry) -> bytes:
    """The registry in Prometheus' text format, version 0.0.4 or newer."""
    return registry.text() if isinstance(registry, Registry) else generate_latest(registry)


def _outcome(cause: Cause | None) -> str:
    return OK if cause is None else cause.value
