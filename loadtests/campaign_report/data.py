"""Everything a report is made of, read from a run's raw record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadtests.analysis.cell import summarise
from loadtests.analysis.columns import Columns
from loadtests.analysis.compare import Findings, within_run
from loadtests.analysis.samples import Values
from loadtests.analysis.series import Series, series_of
from loadtests.campaign.null import null_cell
from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from loadtests.raw import read_rows
from loadtests.store import StoredRun, seal_round, torn_streams
from loadtests.store.stored import NULL_SLUG, read_object, target_key, write_lines

Counts = npt.NDArray[np.int64]
# Bins of half a per cent, from a microsecond to a hundred seconds.
PER_E = 200
BINS = 3700
CENTRES_MS: Values = np.exp((np.arange(BINS) + 0.5) / PER_E) / 1e3
# The heat map's own bins: seconds across, eight to a decade of latency.
HEAT_PER_DECADE = 8
HEAT_ROWS = 6 * HEAT_PER_DECADE
_HEAT_LOW_MS = 0.1


@dataclass(frozen=True, slots=True)
class Histograms:
    """Of one cell in one round: response and service time of right answers, dispatch lag of all that was sent.

    `heat` is (latency bin, second) of the answers.
    """

    response: Counts
    service: Counts
    lag: Counts
    heat: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CampaignData:
    """A run as the report sees it: the cells that are done. `histograms` are by (round, cell); `sha256` by file.

    `torn` are streams of done cells that lack their end mark, by file and stream.
    """

    run: StoredRun
    tier: str
    status: str
    reason: str
    lines: tuple[dict[str, Any], ...]
    series: tuple[Series, ...]
    findings: Findings
    histograms: Mapping[tuple[int, str], Histograms]
    manifest: Mapping[str, Any]
    campaign: Mapping[str, Any]
    ledger: Mapping[str, Any]
    parity: Mapping[str, Any]
    torn: Mapping[str, str]
    sha256: Mapping[str, str]
    planned: int
    # The line of the server that answers at once; None where none was asked.
    null: Mapping[str, Any] | None

    @property
    def requests(self) -> int:
        """All that were scheduled and measured."""
        return sum(int(line["scheduled"]) for line in self.lines)


def read_campaign(path: Path, *, allow_unlike: bool = False) -> CampaignData:
    """Reads a run and computes every line anew from the raw record.

    Rounds that an ended run left unsealed are sealed first. What the state does not call done was cut off in the
    middle and is left out. cells.jsonl is written where its lines are not those of the done cells. Raises LoadTestError
    where the folder is no run or no cell is done.
    """
    run = StoredRun(path).checked()
    state = run.state_document()
    if state.get("status") != "running":
        for number in run.open_rounds():
            seal_round(path, number)
    sealed = run.sealed_rounds()
    if not sealed:
        raise LoadTestError(f"{run.raw}: no round was finished, so there is nothing to report yet")
    tier, parity = run.tier, run.parity()
    done = {(int(number), str(slug)) for number, slug in state.get("done", [])}
    specs = {key: spec for key, spec in run.specs().items() if key in done}
    known = {(int(line["round"]), str(line["cell"])): line for line in run.cells()}
    lines: list[dict[str, Any]] = []
    histograms: dict[tuple[int, str], Histograms] = {}
    # Arrow and NumPy let go of the interpreter while they work.
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(_round, run, number, file, specs, tier, parity) for number, file in sealed.items()]
        for job in jobs:
            for line, own in job.result():
                key = (int(line["round"]), str(line["cell"]))
                histograms[key] = own
                lines.append({**known.get(key, {}), **line, **run.provenance(specs[key])})
    if not lines:
        raise LoadTestError(f"{run.path}: no cell was finished, so there is nothing to report yet")
    lines.sort(key=lambda line: (line["round"], line["order_in_round"], line["cell"]))
    if state.get("status") != "running" and known.keys() != histograms.keys():
        write_lines(run.cells_file, lines)
    ledger = run.ledger()
    ordered = _in_order(lines, specs, ledger)
    return CampaignData(
        run=run,
        tier=tier,
        status=str(state.get("status", "")),
        reason=str(state.get("reason", "")),
        lines=tuple(lines),
        series=tuple(series_of(ordered)),
        findings=within_run(ordered, ledger, tier=tier, allow_unlike=allow_unlike),
        histograms=histograms,
        manifest=run.manifest(),
        campaign=run.campaign(),
        ledger=ledger,
        parity=parity,
        torn={
            f"{file.name}: {name}": why
            for number, file in sealed.items()
            for name, why in torn_streams(file).items()
            if (number, name.rpartition(".")[0]) in done
        },
        sha256={str(file.relative_to(run.path)): _digest(file) for file in _raw_files(run)},
        planned=len(state.get("planned", [])),
        null=_null(run),
    )


def _null(run: StoredRun) -> dict[str, Any] | None:
    """What generator and machine add, from the record of the server that answers at once."""
    stream, health = run.null / f"{NULL_SLUG}.0.arrow", read_object(run.null / "health.json")
    if not health or not stream.is_file():
        return None
    return summarise(null_cell("", 0), read_rows(stream), health, None, None, tier="demo")


def _in_order(
    lines: Iterable[dict[str, Any]], specs: Mapping[tuple[int, str], CellSpec], ledger: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """As the campaign names them, scenarios first: the plan's own order is shuffled, the ledger's is the campaign's."""
    targets = {name: place for place, name in enumerate(ledger)}

    def place(line: Mapping[str, Any]) -> tuple[int, int, bool, int]:
        spec = specs[int(line["round"]), str(line["cell"])]
        own = target_key(spec.target.model, spec.target.name, spec.control)
        return spec.scenario_index, targets.get(own, len(targets)), bool(spec.control), spec.round

    return sorted(lines, key=place)


def _round(
    run: StoredRun,
    number: int,
    file: Path,
    specs: Mapping[tuple[int, str], CellSpec],
    tier: str,
    parity: Mapping[str, Any],
) -> list[tuple[dict[str, Any], Histograms]]:
    torn = {name.rpartition(".")[0] for name in torn_streams(file)}
    return [
        _cell(run, spec, rows, tier, parity, torn=slug in torn)
        for slug, rows in _cells_of(file)
        if (spec := specs.get((number, slug))) is not None
    ]


def _cells_of(file: Path) -> Iterator[tuple[str, pa.Table]]:
    """Each cell's rows; a sealed round has its cells one after the other."""
    # Labels stay codes, and what no figure needs stays unread.
    source = pq.ParquetFile(file, read_dictionary=["cell", "outcome", "endpoint", "server", "detail"])
    columns = [name for name in source.schema_arrow.names if name not in ("round", "question", "stack")]
    tables: list[pa.Table] = []
    slug = ""
    for index in range(source.num_row_groups):
        table = source.read_row_group(index, columns=columns, use_threads=False)
        names = pc.unique(table["cell"]).to_pylist()
        for name in names:
            if name != slug and tables:
                yield slug, pa.concat_tables(tables)
                tables = []
            slug = str(name)
            tables.append(table.filter(pc.equal(table["cell"], name)) if len(names) > 1 else table)
    if tables:
        yield slug, pa.concat_tables(tables)


def _cell(
    run: StoredRun, spec: CellSpec, rows: pa.Table, tier: str, parity: Mapping[str, Any], *, torn: bool
) -> tuple[dict[str, Any], Histograms]:
    columns = Columns.of(rows)
    line = summarise(
        spec,
        columns,
        run.health(spec),
        run.resources(spec),
        parity.get(target_key(spec.target.model, spec.target.name, spec.control)),
        tier=tier,
        torn=torn,
    )
    return line, _histograms(columns, spec.load.seconds)


def _histograms(columns: Columns, seconds: float) -> Histograms:
    ok = columns.ok
    response, service = (columns.t_end - columns.t_int)[ok], (columns.t_end - columns.t_snd)[ok]
    lag = (columns.t_snd - columns.t_int)[columns.sent]
    heat = _heat(columns.t_end[ok], response, columns, seconds)
    return Histograms(_binned(response), _binned(service), _binned(lag), heat)


def _binned(values: Values) -> Counts:
    places = np.log(np.maximum(values * 1e6, 1.0)) * PER_E
    return np.bincount(np.clip(places.astype(np.int64), 0, BINS - 1), minlength=BINS)


def _heat(ends: Values, response: Values, columns: Columns, seconds: float) -> npt.NDArray[np.int32]:
    width = max(int(np.ceil(seconds)), 1)
    if not len(ends):
        return np.zeros((HEAT_ROWS, width), dtype=np.int32)
    start = float(columns.t_int[0])
    across = np.clip((ends - start).astype(np.int64), 0, width - 1)
    up = np.log10(np.maximum(response * 1e3, _HEAT_LOW_MS) / _HEAT_LOW_MS) * HEAT_PER_DECADE
    place = np.clip(up.astype(np.int64), 0, HEAT_ROWS - 1) * width + across
    return np.bincount(place, minlength=HEAT_ROWS * width).reshape(HEAT_ROWS, width).astype(np.int32)


def heat_low_ms(row: int) -> float:
    """The lower edge of a row of the heat map, in ms."""
    return float(_HEAT_LOW_MS * 10 ** (row / HEAT_PER_DECADE))


def _raw_files(run: StoredRun) -> list[Path]:
    small = [
        run.path / name
        for name in ("campaign.yaml", "state.json", "manifest.json", "ledger.json", "parity.json", "cells.jsonl")
    ]
    null = [run.null / f"{NULL_SLUG}.0.arrow", run.null / "health.json"]
    accounts = [*null, *sorted(run.path.glob("health/*/*.json")), *sorted(run.path.glob("resources/*/*.json"))]
    return [path for path in (*small, *run.sealed_rounds().values(), *accounts) if path.is_file()]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
