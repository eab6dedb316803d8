"""One Prometheus page from the pages of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isfinite

from prometheus_client.utils import floatToGoString

# Gauges that say how something is, not how much there is of it: the largest worker speaks for all.
_LARGEST = frozenset({"gateway_endpoint_info", "gateway_breaker_state", "gateway_event_loop_lag_seconds"})
# And one of which the worst worker speaks for all.
_SMALLEST = frozenset({"gateway_config_last_reload_successful", "gateway_endpoint_verified"})
_CREATED = "_created"


@dataclass(slots=True)
class _Family:
    """The comment lines of one metric, and its samples by name and labels as they are written."""

    head: list[str]
    combine: Callable[[float, float], float]
    samples: dict[str, float | str] = field(default_factory=dict)
    """A value that only one page has stays as it is written there."""


def merged(pages: Iterable[bytes]) -> bytes:
    """The pages as one, in text format 0.0.4: counters, histograms and amounts are added up.

    The pages are the gateway's own (`gateway.telemetry.metrics.render`): every sample follows its family's `# HELP` and
    `# TYPE`, and has no timestamp. A page is read line by line, without a parser: 1,000 models are 100,000 lines.
    """
    families: dict[str, _Family] = {}
    for page in pages:
        family: _Family | None = None
        samples: dict[str, float | str] = {}
        for line in page.decode().split("\n"):
            if line.startswith("#"):
                if line.startswith("# HELP "):
                    family = _opened(families, line.split(" ", 3)[2])
                    samples = family.samples
                if family is not None:
                    _once(family.head, line)
            elif line and family is not None:
                name, _, value = line.rpartition(" ")
                before = samples.get(name)
                samples[name] = value if before is None else family.combine(float(before), float(value))
    return "".join(_written(family) for family in families.values()).encode()


def counters_of(page: bytes) -> bytes:
    """What of a page stays true when its worker has ended: what was counted, not how things are."""
    kept: list[str] = []
    counts = False
    family: list[str] = []
    for line in page.decode().split("\n"):
        if line.startswith("# HELP "):
            family, counts = [line], False
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            counts = kind in ("counter", "histogram") or name.endswith(_CREATED)
            if counts:
                kept += [*family, line]
        elif line and counts:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept).encode()


def _opened(families: dict[str, _Family], name: str) -> _Family:
    family = families.get(name)
    if family is None:
        combine: Callable[[float, float], float] = float.__add__
        if name in _LARGEST:
            combine = max
        elif name in _SMALLEST or name.endswith(_CREATED):
            combine = min
        family = families[name] = _Family([], combine)
    return family


def _once(head: list[str], line: str) -> None:
    if line not in head:
        head.append(line)


def _written(family: _Family) -> str:
    lines = [*family.head, *(f"{name} {_shown(value)}" for name, value in family.samples.items())]
    return "\n".join(lines) + "\n"


def _shown(value: float | str) -> str:
    """A number as Prometheus reads it."""
    if isinstance(value, str):
        return value
    return repr(value) if isfinite(value) else str(floatToGoString(value))  # type: ignore[no-untyped-call]
