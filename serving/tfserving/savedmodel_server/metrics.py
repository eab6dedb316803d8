"""What the server counts, and the page that Prometheus reads, with TensorFlow Serving's names and layout.

Layout by util/prometheus_exporter.cc: metrics by name, one `# TYPE` line each even without a value, no help texts;
numbers as "%g" writes them. Bucket limits by servables/tensorflow/util.cc and batching/batching_session.cc; as in
TensorFlow's histograms a value that equals a limit counts in the bucket above it.
"""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULT_PATH = "/monitoring/prometheus/metrics"

_NOT_NAME = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Scalar:
    """A whole number per combination of label values; every method may be called from any thread."""

    def __init__(self, name: str, *labels: str, kind: str = "counter") -> None:
        self.name = _NOT_NAME.sub(":", name)
        self._labels = labels
        self._kind = kind
        self._values: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, by: int = 1) -> None:
        """Counts `by` more for these label values, given in the order of the labels."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + by

    def first_value(self) -> int:
        """The number of the first label values; 0 without any."""
        with self._lock:
            return min(self._values.items())[1] if self._values else 0

    def lines(self) -> Iterator[str]:
        """The page's lines of this metric."""
        yield f"# TYPE {self.name} {self._kind}"
        with self._lock:
            known = sorted(self._values.items())
        for values, number in known:
            yield f"{self.name}{{{_labelled(self._labels, values)}}} {number}"


class Histogram:
    """How often a value lay in which bucket, per combination of label values; safe to use from any thread.

    The limits are those of TensorFlow's Buckets::Exponential: `count` of them, each `growth` times the one before.
    """

    def __init__(self, name: str, *labels: str, scale: float, growth: float, count: int) -> None:
        self.name = _NOT_NAME.sub(":", name)
        self._labels = labels
        self._limits = [scale]
        while len(self._limits) < count:
            self._limits.append(self._limits[-1] * growth)
        self._cells: dict[tuple[str, ...], _Cell] = {}
        self._lock = threading.Lock()

    def record(self, value: float, *values: str) -> None:
        """Adds one value for these label values, given in the order of the labels."""
        with self._lock:
            cell = self._cells.get(values)
            if cell is None:
                cell = self._cells[values] = _Cell(len(self._limits) + 1)
            cell.counts[bisect_right(self._limits, value)] += 1
            cell.total += value

    def lines(self) -> Iterator[str]:
        """The page's lines of this metric."""
        yield f"# TYPE {self.name} histogram"
        with self._lock:
            known = sorted((values, tuple(cell.counts), cell.total) for values, cell in self._cells.items())
        for values, counts, total in known:
            labels = _labelled(self._labels, values)
            head = f"{self.name}_bucket{{{labels}{',' if labels else ''}le="
            below = 0
            for limit, count in zip([*(f"{limit:g}" for limit in self._limits), "+Inf"], counts, strict=True):
                below += count
                yield f'{head}"{limit}"}} {below}'
            yield f"{self.name}_sum{{{labels}}} {total:g}"
            yield f"{self.name}_count{{{labels}}} {below}"


class _Cell:
    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Metrics:
    """Everything that one server counts. Latencies are in microseconds, sizes in rows of a batch."""

    def __init__(self) -> None:
        serving, batching = "/tensorflow/serving", "/tensorflow/serving/batching_session"
        self.load_attempt_count = Scalar("/tensorflow/cc/saved_model/load_attempt_count", "model_path", "status")
        self.load_latency = Scalar("/tensorflow/cc/saved_model/load_latency", "model_path")
        self.request_count = Scalar(f"{serving}/request_count", "model_name", "status")
        self.request_log_count = Scalar(f"{serving}/request_log_count", "model_name", "status_code")
        self.request_latency = _latency(f"{serving}/request_latency", "model_name", "API", "entrypoint")
        self.runtime_latency = _latency(f"{serving}/runtime_latency", "model_name", "API", "runtime")
        self.request_example_counts = Histogram(
            f"{serving}/request_example_counts", "model", scale=1, growth=2, count=15
        )
        self.request_example_count_total = Scalar(f"{serving}/request_example_count_total", "model")
        self.model_warmup_latency = _latency(f"{serving}/model_warmup_latency", "model_path", "status")
        self.model_warmup_records_read = Scalar(f"{serving}/model_warmup_records_read", "model_path")
        self.queuing_latency = Histogram(
            f"{batching}/queuing_latency", "thread_pool_name", scale=100, growth=1.2, count=52
        )
        self.wrapped_run_count = Scalar(f"{batching}/wrapped_run_count")
        self.padding_size = _sizes(f"{batching}/padding_size", "execution_batch_size")
        self.input_batch_size = _sizes(f"{batching}/input_batch_size")
        self.processed_batch_size = _sizes(f"{batching}/processed_batch_size")
        # Announced by TensorFlow Serving, and empty without ML Metadata files.
        self.mlmd_map = Scalar(f"{serving}/mlmd_map", "model_name", "version", kind="gauge")

    @contextmanager
    def running(self, model: str, api: str) -> Iterator[None]:
        """Times what the runtime computes for one call of `api` (`Predict`); a failure is not recorded."""
        started = time.perf_counter()
        yield
        self.runtime_latency.record(microseconds(started), model, api, "TF1")

    @contextmanager
    def loading(self, path: Path) -> Iterator[None]:
        """Times and counts one attempt to load the version at `path`."""
        started = time.perf_counter()
        status = "fail"
        try:
            yield
            status = "success"
        finally:
            self.load_attempt_count.add(str(path), status)
            self.load_latency.add(str(path), by=microseconds(started))

    def examples(self, model: str, count: int) -> None:
        """One call with `count` examples."""
        self.request_example_counts.record(count, model)
        self.request_example_count_total.add(model, by=count)

    def first_value(self, name: str) -> int:
        """What a reload reports of a metric by TensorFlow's name of it (model_service_impl.cc); 0 for most."""
        found = [metric for metric in self._all() if metric.name == _NOT_NAME.sub(":", name)]
        return next((metric.first_value() for metric in found if isinstance(metric, Scalar)), 0)

    def page(self) -> str:
        """The whole page."""
        known = sorted(self._all(), key=lambda metric: metric.name)
        return "\n".join(line for metric in known for line in metric.lines()) + "\n"

    def _all(self) -> list[Scalar | Histogram]:
        found: Iterable[object] = vars(self).values()
        return [metric for metric in found if isinstance(metric, Scalar | Histogram)]


def microseconds(started: float) -> int:
    """What has passed since `started`, a time.perf_counter()."""
    return round((time.perf_counter() - started) * 1e6)


def _latency(name: str, *labels: str) -> Histogram:
    return Histogram(name, *labels, scale=10, growth=1.8, count=33)


def _sizes(name: str, *labels: str) -> Histogram:
    return Histogram(name, *labels, scale=1, growth=2, count=14)


def _labelled(names: Iterable[str], values: Iterable[str]) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))
