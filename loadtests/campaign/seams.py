"""What a campaign calls of the engine, the store and the analysis, in one place: tests put others there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa

from loadtests.cell_spec import CellSpec


class RunCell(Protocol):
    """Measures one open- or closed-loop cell; leaves its raw streams, its health file and its log."""

    def __call__(
        self,
        spec: CellSpec,
        *,
        artifacts: Path,
        raw: Path,
        health: Path,
        log: Path,
        stop: threading.Event | None = None,
    ) -> None:
        """Blocks until the cell is measured."""
        ...


class Summarise(Protocol):
    """Makes one line of cells.jsonl."""

    def __call__(
        self,
        spec: CellSpec,
        rows: pa.Table,
        health: Mapping[str, Any],
        resources: Mapping[str, Any] | None,
        parity: Mapping[str, Any] | None,
        *,
        tier: str = "run",
    ) -> dict[str, Any]:
        """The line, JSON types only."""
        ...


class MeasureNull(Protocol):
    """Measures a server that answers at once, before the first cell."""

    def __call__(self, run: Path, run_cell: RunCell, artifacts: Path, seed: int, stop: threading.Event) -> None:
        """Leaves the record in the run's folder."""
        ...


class SealRound(Protocol):
    """Turns a round's streams into Parquet."""

    def __call__(self, run: Path, round: int) -> Path:  # noqa: A002 - the word of the record's own column
        """The Parquet file."""
        ...


class WriteReport(Protocol):
    """Writes the report of a run, from what the folder holds."""

    def __call__(self, run: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
        """The files that were written."""
        ...


class NextRate(Protocol):
    """Which rate a search tries next; None where it is over."""

    def __call__(self, tried: Sequence[tuple[float, bool | None]], *, first: float = 50.0) -> float | None:
        """The next rate."""
        ...


@dataclass(frozen=True, slots=True)
class Seams:
    """The functions that a campaign calls."""

    # Entered once for all cells.
    engine: Callable[[], AbstractContextManager[RunCell]]
    measure_null: MeasureNull
    summarise: Summarise
    seal_round: SealRound
    write_report: WriteReport
    next_rate: NextRate

    @classmethod
    def real(cls) -> Self:
        """Those of this package."""
        from loadtests.analysis.cell import summarise  # noqa: PLC0415 - Arrow, DuckDB and scipy: only for a run
        from loadtests.analysis.search import next_rate  # noqa: PLC0415
        from loadtests.campaign.null import measure_null  # noqa: PLC0415
        from loadtests.campaign_report import write  # noqa: PLC0415
        from loadtests.engine.run import engine  # noqa: PLC0415
        from loadtests.store import seal_round  # noqa: PLC0415

        return cls(engine, measure_null, summarise, seal_round, write, next_rate)
