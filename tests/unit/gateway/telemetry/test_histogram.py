"""Tests of gateway.telemetry.histogram, beside prometheus_client's own as the measure."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.histogram import Histogram, Registry

BUCKETS = (0.001, 0.5, 10.0)
VALUES = (0.0, 0.001, 0.0011, 0.5, 3.25, 10.0, 11.0, 1e9)
LABELS = (("digits", "ok"), ('a "quoted"\\ name\n', ""))


def samples(text: bytes) -> dict[tuple[str, str, tuple[tuple[str, str], ...]], float]:
    return {
        (family.type, sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def observed(kind: type[Histogram] | type[prometheus_client.Histogram], registry: CollectorRegistry) -> None:
    histogram = kind("seconds", "How long.", ("model", "outcome"), buckets=BUCKETS, registry=registry)
    for labels in LABELS:
        for value in VALUES:
            histogram.labels(*labels).observe(value)


def test_the_text_has_the_samples_of_prometheus_clients_histogram() -> None:
    """Buckets are cumulated, each bound belongs to its bucket, and labels are escaped."""
    ours, theirs = Registry(), CollectorRegistry()
    observed(Histogram, ours)
    observed(prometheus_client.Histogram, theirs)
    assert samples(ours.text()) == samples(generate_latest(theirs))


def test_a_registry_of_prometheus_client_renders_it_too() -> None:
    """The objects that it collects say the same as the text."""
    ours, other = Registry(), CollectorRegistry()
    observed(Histogram, ours)
    observed(Histogram, other)
    assert samples(generate_latest(other)) == samples(ours.text())
    assert ours.get_sample_value("seconds_count", {"model": "digits", "outcome": "ok"}) == len(VALUES)


def test_other_metrics_are_rendered_beside_it() -> None:
    """A gauge in the same registry is there once."""
    registry = Registry()
    observed(Histogram, registry)
    prometheus_client.Gauge("busy", "Slots.", registry=registry).set(3)
    assert registry.text().count(b"\nbusy 3.0\n") == 1


def test_a_name_is_taken_once() -> None:
    """As in any registry."""
    registry = Registry()
    observed(Histogram, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        observed(Histogram, registry)


def test_a_series_needs_a_value_for_each_label() -> None:
    """The message names the labels."""
    histogram = Histogram("seconds", "How long.", ("model", "outcome"), buckets=BUCKETS, registry=Registry())
    with pytest.raises(ValueError, match="model, outcome"):
        histogram.labels("digits")
