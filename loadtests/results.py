"""What a cell's run gave, and the figures that are drawn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.analysis.samples import percentile
from loadtests.cells import STAND_IN, Cell, Transport
from loadtests.errors import LoadTestError
from loadtests.replies import Outcome

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell's raw record. Latencies are of right answers only, in milliseconds, in the order of arrival.

    `generator_cpu` is the load generator's own CPU time over the window, in cores; near 1 it measures itself.
    """

    cell: Cell
    users: int
    rows: int
    warm_up_s: float
    window_s: float
    outcomes: Mapping[str, int]
    latencies_ms: tuple[float, ...]
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    servers: Mapping[str, int] = field(default_factory=dict)
    endpoints: Mapping[str, int] = field(default_factory=dict)
    generator_cpu: float | None = None

    @property
    def server(self) -> str:
        """The program that really answered: what the answers name, else what the cell expected."""
        return " + ".join(sorted(self.servers)) or self.cell.server

    @property
    def stand_in(self) -> bool:
        """Whether a stand-in answered."""
        return STAND_IN in self.server

    @property
    def upstream_protocol(self) -> Transport | None:
        """The gateway's transport to the model server; for a default cell that of the endpoint that answered."""
        seen = {self.cell.transports[name] for name in self.endpoints if name in self.cell.transports}
        return seen.pop() if len(seen) == 1 else self.cell.upstream_protocol

    @property
    def requests(self) -> int:
        """Requests sent inside the window, failed ones included."""
        return sum(self.outcomes.values())

    @property
    def failures(self) -> int:
        """Requests without a right answer."""
        return self.requests - self.outcomes.get(Outcome.OK, 0)

    @property
    def rps(self) -> float:
        """Right answers per second of the window."""
        return self.outcomes.get(Outcome.OK, 0) / self.window_s if self.window_s > 0 else 0.0

    def as_row(self) -> dict[str, Any]:
        """The cell's entry in `summary.json`."""
        values = np.asarray(self.latencies_ms, dtype=np.float64)
        return {
            "model": self.cell.model,
            "stack": self.cell.stack,
            "server": self.server,
            "path": self.cell.path,
            "upstream": self.cell.upstream,
            "protocol": self.cell.protocol,
            "upstream_protocol": self.upstream_protocol,
            "requests": self.requests,
            "failures": self.failures,
            "rps": round(self.rps, 1),
            **{f"p{round(share * 100)}_ms": _rounded(percentile(values, share)) for share in (0.5, 0.95, 0.99)},
        }

    @classmethod
    def load(cls, path: Path) -> CellResult:
        """Reads a file of `Recorder.samples` as the locustfile writes it; raises LoadTestError where it is none."""
        try:
            document = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as exc:
            raise LoadTestError(f"{path}: {exc}; expected the samples that Locust writes at its end") from exc
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise LoadTestError(f"{path}: expected samples of schema {SCHEMA}")
        try:
            return cls(
                cell=Cell.from_json(document["cell"], str(path)),
                users=document["users"],
                rows=document["rows"],
                warm_up_s=document["warm_up_s"],
                window_s=document["window_s"],
                outcomes=document["outcomes"],
                latencies_ms=tuple(document["latencies_ms"]),
                examples={outcome: tuple(texts) for outcome, texts in document["examples"].items()},
                servers=document["servers"],
                endpoints=document["endpoints"],
                generator_cpu=document["generator_cpu"],
            )
        except KeyError as exc:
            raise LoadTestError(f"{path}: field {exc} is missing") from exc


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
