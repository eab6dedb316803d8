"""What one target did in one scenario, round by round: the input of every comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtests.analysis.search import Try, found_rate

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that rounds are compared by. `name` is its key; `unit` follows a number."""

    name: str
    title: str
    unit: str
    higher_is_better: bool = False

    @property
    def of_right_answers(self) -> bool:
        """Whether it is a response time of the right answers alone: then a server that fails may look fast."""
        return self.name in ("p50", "p90", "p95", "p99", "max")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("p50", "median response time", "ms"),
        Metric("p90", "p90 response time", "ms"),
        Metric("p95", "p95 response time", "ms"),
        Metric("p99", "p99 response time", "ms"),
        Metric("max", "slowest answer", "ms"),
        Metric("first_answer", "time from the start of the process to the first answer", "s"),
        Metric("ready", "time from the start of the process to readiness", "s"),
        Metric("steady", "time from the start of the process to steady answers", "s"),
        Metric("achieved", "right answers a second", "/s", higher_is_better=True),
        Metric("goodput", "right answers a second within the objective", "/s", higher_is_better=True),
        Metric("peak", "right answers a second at the best step", "/s", higher_is_better=True),
        Metric("lambda", "highest rate that meets the objective", "/s", higher_is_better=True),
        Metric("retention", "share of the good answers kept under overload", "", higher_is_better=True),
        Metric("recovery", "time to recover from overload", "s"),
        Metric("cpu_per_1k", "CPU time of 1,000 requests", "s"),
    )
}
# What a scenario is about; MLPerf's scenarios of these names use the same.
_PRIMARY = {
    "single_stream": "p90",
    "multi_stream": "p99",
    "server": "p99",
    "offline": "achieved",
    "curve": "peak",
    "overload": "goodput",
    "burst": "p99",
    "mixed": "p99",
    "cold": "first_answer",
    "soak": "p99",
}
_TRY = re.compile(r"-try\d+$")


@dataclass(slots=True)
class Series:
    """`rounds` holds the lines of each round (several where rates were searched), `first` one for what never varies."""

    model: str
    scenario: str
    target: str
    first: Line
    rounds: dict[int, list[Line]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the others of a run."""
        return self.model, self.scenario, self.target

    @property
    def is_search(self) -> bool:
        """Whether the rate was searched for."""
        return bool(_TRY.search(str(self.first["cell"])))

    @property
    def primary(self) -> Metric:
        """The figure that a verdict is about."""
        if self.is_search:
            return METRICS["lambda"]
        name = _PRIMARY.get(str(self.first["kind"]), "p99")
        return METRICS["achieved" if name == "goodput" and self.first.get("slo_ms") is None else name]

    @property
    def stand_in(self) -> bool:
        """Whether a stand-in answered in any round."""
        return any(line["stand_in"] for lines in self.rounds.values() for line in lines)

    @property
    def transport(self) -> str:
        """`rest` or `grpc`: what the client spoke."""
        return "grpc" if str(self.first["protocol"]).endswith("grpc") else "rest"

    @property
    def identity(self) -> str:
        """The stack, or the target itself where the stack is not known."""
        return str(self.first["stack"] or self.target)

    def lines(self) -> list[Line]:
        """All of its lines, in order of rounds."""
        return [line for number in sorted(self.rounds) for line in self.rounds[number]]

    def valid(self, number: int) -> bool:
        """Whether the round's figures may be used.

        Of a search, the try at the rate found has to be valid, and the next faster one has to have missed the
        objective: where it failed for the generator's sake, the rate found is only what the generator could do.
        """
        lines = self.rounds.get(number, [])
        if not self.is_search:
            return bool(lines) and all(line["valid"] for line in lines)
        best = self.at_best(number)
        return bool(best and best["meets_slo"] and best["valid"]) and not self.open_ended(number)

    def open_ended(self, number: int) -> bool:
        """Whether a search ended without a faster rate that missed the objective: then lambda* is at least that."""
        best = self.value(number, "lambda")
        if best is None:
            return False
        faster = [line for line in self.rounds[number] if float(line["rate_offered"]) > best]
        lowest = min((float(line["rate_offered"]) for line in faster), default=None)
        return not any(float(line["rate_offered"]) == lowest and line["meets_slo"] is False for line in faster)

    def failed_share(self, number: int) -> float:
        """The share of a round's scheduled requests without a right answer; of a search, of the try at its rate."""
        outcomes = (self.at_best(number) or {}).get("outcomes") or {}
        total = sum(outcomes.values())
        return 1 - float(outcomes.get("ok", 0)) / total if total else 0.0

    def unrecovered(self, numbers: Iterable[int]) -> int:
        """In how many rounds of an overload it was not seen to recover."""
        lines = [line for number in numbers for line in self.rounds.get(number, [])]
        return sum(bool(line.get("overload")) and line["overload"].get("recovery_s") is None for line in lines)

    def valid_rounds(self) -> list[int]:
        """Rounds whose figures may be used, ascending."""
        return [number for number in sorted(self.rounds) if self.valid(number)]

    def shown_rounds(self) -> list[int]:
        """Rounds that a figure is shown of: the valid ones; where there are none all of them, and no verdict."""
        return self.valid_rounds() or sorted(self.rounds)

    def value(self, number: int, metric: str) -> float | None:
        """A figure in one round; None where it was not measured or has too few samples."""
        lines = self.rounds.get(number, [])
        if not lines or (metric == "lambda" and not self.is_search):
            return None
        if metric == "lambda":
            return found_rate(_tried(lines))
        found = _figure(self.at_best(number) or {}, metric)
        return None if found is None else float(found)

    def at_best(self, number: int) -> Line | None:
        """The line that a round's figures are of: of a search the try that met the objective at the rate found.

        Where none did it is the first; None where the round is not there.
        """
        lines = self.rounds.get(number, [])
        if not self.is_search:
            return next(iter(lines), None)
        best = found_rate(_tried(lines))
        met = (line for line in lines if line["rate_offered"] == best and line["meets_slo"])
        # A valid one before others: a rate may have been tried more than once.
        return next(iter(sorted(met, key=lambda line: not line["valid"])), next(iter(lines), None))


def _tried(lines: Iterable[Line]) -> list[Try]:
    """The rates of a search that say something of the server."""
    return [(float(line["rate_offered"]), line["meets_slo"]) for line in lines if line["meets_slo"] is not None]


def series_of(lines: Iterable[Line]) -> list[Series]:
    """The series of a run's lines, in the order in which they first appear."""
    found: dict[tuple[str, str, str], Series] = {}
    for line in lines:
        key = (str(line["model"]), str(line["scenario"]), str(line["target"]))
        series = found.setdefault(key, Series(*key, first=line))
        series.rounds.setdefault(int(line["round"]), []).append(line)
    return list(found.values())


# Figures that are not among the percentiles of L: where a line has them.
_PLACES = {
    "achieved": (None, "achieved"),
    "goodput": (None, "goodput"),
    "retention": ("overload", "retention"),
    "recovery": ("overload", "recovery_s"),
    "ready": ("cold", "ready_s"),
    "first_answer": ("cold", "first_answer_s"),
    "steady": ("cold", "steady_s"),
}


def _figure(line: Line, metric: str) -> Any:  # noqa: ANN401  # a number of the line's JSON
    if metric == "peak":
        return max((step["achieved"] for step in line["steps"]), default=None)
    if metric == "cpu_per_1k":
        return cpu_per_1k(line)
    part, name = _PLACES.get(metric, ("L", metric))
    return (line if part is None else line.get(part) or {}).get(name)


def cpu_per_1k(line: Line) -> float | None:
    """CPU seconds of all servers of a cell for 1,000 requests; None where one of them was not measured.

    The servers' own counters run over the warm-up as well, so they are divided by all requests that were sent.
    """
    resources = line.get("resources") or {}
    servers, requests = resources.get("servers") or [], resources.get("requests")
    used = [server.get("cpu_s") for server in servers]
    if not used or not requests or any(seconds is None for seconds in used):
        return None
    return 1000 * float(sum(used)) / float(requests)
