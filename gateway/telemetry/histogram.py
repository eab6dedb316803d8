"""Histograms for the hot path and for many models: counting takes no lock, and rendering makes no object a sample.

prometheus_client's own take a lock a bucket, and a second or more to render the series of 1,000 models, in which the
event loop stands still. What is written is the same (Prometheus' text format 0.0.4).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Series:
    """One time series: observations by bucket, each counted once. It belongs to one event loop."""

    __slots__ = ("_bounds", "counts", "created", "labels", "total")

    def __init__(self, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self.labels = labels
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.created = time.time()

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """A histogram with labels, made and used as prometheus_client's."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self._documentation = documentation
        self._label_names = tuple(labelnames)
        self._bounds = tuple(float(bound) for bound in buckets)
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series with these label values, in the order of the names."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self._label_names):
                raise ValueError(f"{self.name} has the labels {', '.join(self._label_names)}")
            found = self._series[values] = Series(values, self._bounds)
        return found

    def describe(self) -> Iterable[Metric]:
        """Its name alone, for the registry to keep names unique."""
        return [HistogramMetricFamily(self.name, self._documentation, labels=self._label_names)]

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client's objects, for those who read single samples."""
        family = HistogramMetricFamily(self.name, self._documentation, labels=self._label_names)
        for series in self._series.values():
            cumulated = accumulate(series.counts)
            buckets = [(le, float(count)) for le, count in zip(self._les(), cumulated, strict=True)]
            family.add_metric(series.labels, buckets, sum_value=series.total)
        return [family]

    def text(self) -> Iterator[str]:
        """The lines that Prometheus reads, ends included."""
        name = self.name
        yield f"# HELP {name} {self._documentation}\n# TYPE {name} histogram\n"
        ends = [f'le="{le}"}} ' for le in self._les()]
        for series in self._series.values():
            labels = self._label_text(series)
            head = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
            for end, count in zip(ends, accumulate(series.counts), strict=True):
                yield f"{head}{end}{count}.0\n"
            yield f"{name}_count{{{labels}}} {sum(series.counts)}.0\n{name}_sum{{{labels}}} {series.total!r}\n"
        yield f"# HELP {name}_created {self._documentation}\n# TYPE {name}_created gauge\n"
        for series in self._series.values():
            yield f"{name}_created{{{self._label_text(series)}}} {series.created!r}\n"

    def _les(self) -> list[str]:
        return [*map(repr, self._bounds), "+Inf"]

    def _label_text(self, series: Series) -> str:
        pairs = zip(self._label_names, series.labels, strict=True)
        return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)


class Registry(CollectorRegistry):
    """A registry that renders our histograms by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._histograms: list[Histogram] = []
        self._others = CollectorRegistry()

    def register(self, collector: Collector) -> None:
        """Adds a metric, its name not yet taken."""
        super().register(collector)
        if isinstance(collector, Histogram):
            self._histograms.append(collector)
        else:
            self._others.register(collector)

    def text(self) -> bytes:
        """Everything, in text format 0.0.4."""
        lines = [line for histogram in self._histograms for line in histogram.text()]
        return generate_latest(self._others) + "".join(lines).encode()
