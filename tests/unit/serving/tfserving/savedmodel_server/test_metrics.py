"""The Prometheus page, to the byte."""

from __future__ import annotations

import pytest

from serving.tfserving.savedmodel_server.metrics import Histogram, Metrics, Scalar


def test_a_scalar_has_a_line_per_label_values() -> None:
    """Whatever is no letter, digit or underscore of a name is a colon; values are escaped."""
    metric = Scalar("/tensorflow/serving/request_count", "model_name", "status")
    metric.add("m", "OK")
    metric.add("m", "OK", by=2)
    metric.add('a"b\\c\nd', "NOT_FOUND")
    assert list(metric.lines()) == [
        "# TYPE :tensorflow:serving:request_count counter",
        r':tensorflow:serving:request_count{model_name="a\"b\\c\nd",status="NOT_FOUND"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3',
    ]


def test_a_scalar_without_labels_keeps_its_braces() -> None:
    """As TensorFlow Serving writes it."""
    metric = Scalar("/x")
    metric.add()
    assert list(metric.lines()) == ["# TYPE :x counter", ":x{} 1"]


def test_a_histogram_counts_upwards() -> None:
    """A value that equals a limit is above it; the last bucket is without limit."""
    metric = Histogram("/h", "model", scale=1, growth=1.5, count=3)
    for value in (0, 1, 2, 1_234_567):
        metric.record(value, "m")
    assert list(metric.lines()) == [
        "# TYPE :h histogram",
        ':h_bucket{model="m",le="1"} 1',
        ':h_bucket{model="m",le="1.5"} 2',
        ':h_bucket{model="m",le="2.25"} 3',
        ':h_bucket{model="m",le="+Inf"} 4',
        ':h_sum{model="m"} 1.23457e+06',
        ':h_count{model="m"} 4',
    ]


def test_the_page_names_every_metric_before_it_has_values() -> None:
    """In the order of their names, with TensorFlow Serving's bucket limits."""
    metrics = Metrics()
    page = metrics.page()
    assert page.endswith("\n")
    names = [line.split()[2] for line in page.splitlines()]
    assert names == sorted(names)
    assert {f":tensorflow:serving:{name}" for name in ("request_count", "batching_session:padding_size")} < set(names)
    metrics.examples("m", 3)
    with metrics.running("m", "Predict"):
        pass
    lines = metrics.page().splitlines()
    assert ':tensorflow:serving:request_example_counts_bucket{model="m",le="4"} 1' in lines
    assert ':tensorflow:serving:request_example_count_total{model="m"} 3' in lines
    labels = 'model_name="m",API="Predict",runtime="TF1"'
    limits = [line for line in lines if line.startswith(f":tensorflow:serving:runtime_latency_bucket{{{labels},le=")]
    assert [line.split('le="')[1].split('"')[0] for line in limits[:5]] == ["10", "18", "32.4", "58.32", "104.976"]
    assert len(limits) == 34


def test_what_fails_in_the_runtime_is_not_timed() -> None:
    """Only answers have a latency."""
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError), metrics.running("m", "Predict"):
        raise ZeroDivisionError
    assert "runtime_latency_count" not in metrics.page()
