"""DuckDB over every run ever made: views `requests`, `cells` and `runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from loadtests.errors import LoadTestError
from loadtests.store.seal import SEALED_SCHEMA
from loadtests.store.stored import StoredRun

_PERCENTILES = ("p50", "p90", "p95", "p99", "p999", "max", "mean")
_TEXT = (
    "run",
    "cell",
    "tier",
    "model",
    "variant",
    "target",
    "stack",
    "path",
    "topology",
    "protocol",
    "upstream_protocol",
    "config",
    "hdr_path",
    "sha256",
    "manifest_id",
)
_CELL_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(_TEXT, pa.string()),
    **{"server": pa.string(), "stand_in": pa.bool_(), "control": pa.string(), "scenario": pa.string()},
    **{"kind": pa.string(), "arrivals": pa.string(), "round": pa.int32(), "order_in_round": pa.int32()},
    **dict.fromkeys(("rate_offered", "T", "t_start", "offered", "achieved", "goodput", "attainment"), pa.float64()),
    **dict.fromkeys(("slo_ms", "client_cpu_max", "little_err", "energy_j", "cost_per_1m"), pa.float64()),
    **dict.fromkeys(("scheduled", "dropped", "rows", "seed"), pa.int64()),
    **{f"{part}_{name}": pa.float64() for part in ("L", "S", "D") for name in _PERCENTILES},
    **{"valid": pa.bool_(), "reasons": pa.string(), "outcomes": pa.string(), "meets_slo": pa.bool_()},
}
_RUN_COLUMNS: dict[str, pa.DataType] = {
    **dict.fromkeys(("run", "status", "tier", "date", "cpu_model", "git_commit", "path"), pa.string()),
    **{"cells": pa.int64(), "rounds": pa.int64(), "cores": pa.int64()},
}


@dataclass(frozen=True, slots=True)
class Rows:
    """What a query gave. `left_out` says of each run that could not be read which it is, and why."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...] = field(default=())
    left_out: tuple[str, ...] = ()


class Runs:
    """A connection whose views span every run under `root`; a context manager, for one thread.

    `requests` is the raw record with `run` in front, `cells` the lines of every cells.jsonl with L, S and D spread over
    columns (`L_p99`), `runs` one row a run. Nothing can be changed through `sql`. A run that cannot be read is in none
    of them, and `left_out` names it. Raises LoadTestError where DuckDB itself fails.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folders = {
            folder.id: folder for path in sorted(self.root.glob("*/state.json")) if (folder := StoredRun(path.parent))
        }
        self.left_out: tuple[str, ...] = ()
        self._connection = duckdb.connect(":memory:")
        try:
            self._connection.execute("SET timezone = 'UTC'")
            # Tables are handed over by name only, and files outside of the runs stay out of reach.
            self._connection.execute("SET python_enable_replacements = false")
            self._make_views()
        except duckdb.Error as exc:
            self._connection.close()
            raise LoadTestError(f"{self.root}: the runs cannot be queried: {exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the connection."""
        self._connection.close()

    def sql(self, text: str) -> Rows:
        """The result of one SELECT; raises LoadTestError for anything else, and with DuckDB's words where it fails."""
        try:
            statements = self._connection.extract_statements(text)
        except duckdb.Error as exc:
            raise LoadTestError(f"not SQL that DuckDB understands: {exc}") from exc
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise LoadTestError(
                "give one SELECT: the record can be read here, not changed. Views: requests, cells, runs"
            )
        return self._rows(statements[0])

    def _rows(self, statement: duckdb.Statement) -> Rows:
        try:
            done = self._connection.execute(statement)
            columns = tuple(str(item[0]) for item in done.description or ())
            return Rows(columns, tuple(done.fetchall()), self.left_out)
        except duckdb.Error as exc:
            raise LoadTestError(f"{exc}\nViews: requests, cells, runs; `DESCRIBE cells` lists columns") from exc

    def _make_views(self) -> None:
        cells, runs = [_table([], _CELL_COLUMNS)], [_table([], _RUN_COLUMNS)]
        files: list[str] = []
        for name, folder in list(self.folders.items()):
            try:
                own_cells, own_run, own_files = _read(name, folder)
            except (LoadTestError, OSError, pa.ArrowException, TypeError, ValueError, AttributeError) as exc:
                # One damaged run must not hide all others.
                self.left_out += (f"run {name} is left out: {str(exc).splitlines()[0] or type(exc).__name__}",)
                del self.folders[name]
                continue
            cells.append(own_cells)
            runs.append(own_run)
            files += own_files
        self._connection.register("cells", pa.concat_tables(cells))
        self._connection.register("runs", pa.concat_tables(runs))
        if files:
            listed = ", ".join(_quoted(file) for file in files)
            self._connection.execute(
                "CREATE VIEW requests AS SELECT parse_path(filename)[-3] AS run, * EXCLUDE (filename) "  # noqa: S608  # quoted
                f"FROM read_parquet([{listed}], filename = true, union_by_name = true)"
            )
        else:
            empty = pa.schema([pa.field("run", pa.string()), *SEALED_SCHEMA]).empty_table()
            self._connection.register("requests", empty)
        self._connection.execute(f"SET allowed_directories = [{_quoted(str(self.root))}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")


def _read(name: str, folder: StoredRun) -> tuple[pa.Table, pa.Table, list[str]]:
    """A run's rows of `cells` and of `runs`, and its Parquet files, whose columns are those of the record."""
    lines = folder.cells()
    cells = _table([_cell_row(name, line) for line in lines], _CELL_COLUMNS)
    files = []
    for path in folder.sealed_rounds().values():
        kinds = {field.name: field.type for field in pq.read_schema(path)}
        if wrong := [field.name for field in SEALED_SCHEMA if kinds.get(field.name, field.type) != field.type]:
            raise LoadTestError(f"{path}: {', '.join(wrong)} are of another type than in the record of this version")
        files.append(str(path))
    return cells, _table([_run_row(name, folder, lines)], _RUN_COLUMNS), files


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _table(rows: list[dict[str, Any]], columns: Mapping[str, pa.DataType]) -> pa.Table:
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()})


def _cell_row(run: str, line: Mapping[str, Any]) -> dict[str, Any]:
    spread = {f"{part}_{name}": (line.get(part) or {}).get(name) for part in ("L", "S", "D") for name in _PERCENTILES}
    texts = {"reasons": "; ".join(line.get("reasons") or ()), "outcomes": json.dumps(line.get("outcomes") or {})}
    return {**{key: line.get(key) for key in _CELL_COLUMNS}, **spread, **texts, "run": run}


def _run_row(run: str, folder: StoredRun, lines: list[dict[str, Any]]) -> dict[str, Any]:
    manifest, state = folder.manifest(), folder.state_document()
    environment = manifest.get("environment", manifest)
    return {
        "run": run,
        "status": state.get("status"),
        "tier": manifest.get("tier"),
        "date": environment.get("date"),
        "cpu_model": environment.get("cpu_model"),
        "cores": environment.get("cores"),
        "git_commit": environment.get("git_commit"),
        "path": str(folder.path),
        "cells": len(lines),
        "rounds": len({line.get("round") for line in lines}),
    }
