"""Measures the cells of a campaign one after another, and keeps what each leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from loadtests.addresses import server_of
from loadtests.analysis.search import Try, lost_rates
from loadtests.campaign import cold
from loadtests.campaign.fleet import Fleet, Restarted
from loadtests.campaign.folder import RunFolder, State, read_json, write_json
from loadtests.campaign.gpu import GpuMeter
from loadtests.campaign.interrupt import StoppedError
from loadtests.campaign.ledger import key_of
from loadtests.campaign.parity import Parity
from loadtests.campaign.plan import is_search
from loadtests.campaign.processes import ProcessMeter
from loadtests.campaign.resources import Meter, Watch, gpu_beside
from loadtests.campaign.seams import RunCell, Seams
from loadtests.cell_spec import CellSpec, at_rate
from loadtests.disk import telling_full
from loadtests.errors import LoadTestError
from loadtests.golden import load_golden
from loadtests.raw import RAW_SCHEMA, ended, read_rows

Line = dict[str, Any]
# A search that does not end by itself ends here.
_MOST_TRIES = 40


@dataclass(frozen=True, slots=True)
class Costs:
    """What a target's server costs, and how it is configured; `price_per_hour` None where nobody said."""

    config: str = "default"
    price_per_hour: float | None = None
    utilisation: float = 0.6


@dataclass(slots=True)
class Measurer:
    """One run's measuring. `state` is written after every cell, so that nothing that was measured is done twice."""

    folder: RunFolder
    state: State
    seams: Seams
    artifacts: Path
    fleet: Fleet
    meters: Mapping[str, Sequence[Meter]]
    gpu: GpuMeter
    parities: Mapping[str, Parity]
    costs: Mapping[str, Costs]
    tier: str
    stop: threading.Event
    say: Callable[[str], None]

    def measure(self, cell: CellSpec, run_cell: RunCell) -> None:
        """Measures a planned cell, or what is left of it; raises StoppedError, LoadTestError."""
        if is_search(cell):
            self._search(cell, run_cell)
        elif (cell.round, cell.slug) not in self.state.done:
            self._one(cell, run_cell)

    def finished(self, cell: CellSpec) -> bool:
        """Whether nothing is left to do for a planned cell."""
        if not is_search(cell):
            return (cell.round, cell.slug) in self.state.done
        tried = self.state.searches.get(_search_key(cell), ())
        return bool(tried) and self._next(cell, tried) is None

    def _search(self, cell: CellSpec, run_cell: RunCell) -> None:
        key = _search_key(cell)
        tried = self.state.searches.get(key, ())
        while (rate := self._next(cell, tried)) is not None:
            line = self._one(at_rate(cell, rate, len(tried) + 1), run_cell)
            met = line.get("meets_slo")
            word = "cannot be told to meet" if met is None else "meets" if met else "misses"
            self.say(f"{cell.target.name}: {rate:g} requests/s {word} {cell.slo_ms:g} ms")
            tried = (*tried, (rate, met))
            self._save(replace(self.state, searches={**self.state.searches, key: tried}))
        if lost_rates(tried) and not any(ok for _, ok in tried):
            self.say(f"{cell.target.name}: the generator is held up at any rate; the search ends without one")

    def _next(self, cell: CellSpec, tried: Sequence[Try]) -> float | None:
        if len(tried) >= _MOST_TRIES:
            return None
        return self.seams.next_rate(tried, first=self._first_guess(cell))

    def _first_guess(self, cell: CellSpec) -> float:
        """What the round before found, so that later rounds need fewer tries."""
        for number in range(cell.round - 1, -1, -1):
            met = [rate for rate, ok in self.state.searches.get(f"{number}/{cell.slug}", ()) if ok]
            if met:
                return max(met)
        return 50.0

    def _one(self, cell: CellSpec, run_cell: RunCell) -> Line:
        self.folder.prepare(cell)
        self.folder.check_room(cell)
        restarted = None
        if cell.load.kind == "cold":
            restarted = self._restart(server_of(cell.target.stack, cell.target.variant))
        meters = self.meters[key_of(cell.target)]
        with Watch(meters, gpu_beside(meters, self.gpu)) as watch:
            if restarted is not None:
                self._cold(cell, restarted)
            else:
                run_cell(
                    cell,
                    artifacts=self.artifacts,
                    raw=self.folder.streams(cell.round),
                    health=self.folder.health_file(cell),
                    log=self.folder.log_file(cell),
                    stop=self.stop,
                )
        # A server that died explains its cell better than the cell's figures can.
        self.fleet.check()
        if self.stop.is_set():
            self.folder.prepare(cell)
            raise StoppedError
        rows, health = self._rows(cell), read_json(self.folder.health_file(cell))
        # All that a line is made of is in the cell's own files, so that it can be made again without it.
        resources = {**watch.to_json(_sent(rows)), **asdict(self.costs[key_of(cell.target)])}
        write_json(self.folder.resources_file(cell), resources)
        parity = self.parities.get(key_of(cell.target))
        line = self.seams.summarise(cell, rows, health, resources, parity.to_json() if parity else None, tier=self.tier)
        line |= self.folder.provenance(cell)
        self.folder.append_line(line)
        self._save(self.state.with_done(cell))
        return line

    def _restart(self, name: str) -> Restarted:
        """Starts a server again; from now on its new process is the one that is measured."""
        restarted = self.fleet.restart(name)
        for meter in {id(meter): meter for meters in self.meters.values() for meter in meters}.values():
            if isinstance(meter, ProcessMeter) and meter.name == name:
                meter.pid = self.fleet.pids[name]
        return restarted

    def _cold(self, cell: CellSpec, restarted: Restarted) -> None:
        golden = load_golden(self.artifacts, cell.target.model, cell.target.variant)
        t0 = cold.wall_of(restarted.began)
        asked = cold.ask_after(restarted, cell, golden, stop=self.stop.is_set, clock=time.perf_counter)
        start = cold.cold_start(restarted.ready_s, asked).to_json()
        with telling_full(self.folder.path):
            cold.write_rows(asked, cell, self.folder.streams(cell.round) / f"{cell.slug}.0.arrow", t0)
        count = len(asked)
        health = {"schema": 1, "t0_unix": t0, "workers": [], "scheduled": count, "finished": count, "cold": start}
        write_json(self.folder.health_file(cell), {**health, "seconds": cell.load.seconds})

    def _rows(self, cell: CellSpec) -> pa.Table:
        paths = [
            path
            for path in sorted(self.folder.streams(cell.round).glob("*.arrow"))
            if path.name.rsplit(".", 2)[0] == cell.slug
        ]
        if not paths:
            raise LoadTestError(f"{cell.slug}: the generator left no record; its log is {self.folder.log_file(cell)}")
        for path in paths:
            if not ended(path):
                raise LoadTestError(f"{path}: it has no end mark, so its recorder was stopped; the cell does not count")
        tables = [read_rows(path) for path in paths]
        return pa.concat_tables(tables).unify_dictionaries() if tables else RAW_SCHEMA.empty_table()

    def _save(self, state: State) -> None:
        self.state = state
        self.folder.save(state)


def _sent(rows: pa.Table) -> int:
    return int(rows.num_rows - rows["t_snd"].null_count)


def _search_key(cell: CellSpec) -> str:
    return f"{cell.round}/{cell.slug}"
