"""A run that is being made: what is written into its folder, and a state that survives whatever ends the run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from loadtests.campaign.plan import is_search, requests_of
from loadtests.cell_spec import CellSpec, at_rate
from loadtests.disk import DiskFullError, full, telling_full, write_whole
from loadtests.errors import LoadTestError
from loadtests.store.stored import StoredRun
from serving.state import ProcessId

Status = Literal["running", "complete", "interrupted", "failed"]

# Kept on the disk to be given up where the disk is full, so that the state can still be written.
_BALLAST_BYTES = 1 << 20
# A cell is not begun with less room than this and what it may record: a row of the raw record takes about so much.
LEAST_FREE_BYTES = 16 << 20
_ROW_BYTES = 150


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is. `done` are the measured cells, each as (round, slug); a search's tries are among them."""

    planned: tuple[CellSpec, ...] = ()
    done: tuple[tuple[int, str], ...] = ()
    sealed: tuple[int, ...] = ()
    status: Status = "running"
    reason: str = ""
    # Of each search, by `round/slug`: the rates tried, and whether each met the objective; None: nobody can tell.
    searches: Mapping[str, tuple[tuple[float, bool | None], ...]] = field(default_factory=dict)
    # Who measures, while the status is `running`.
    process: ProcessId = field(default_factory=lambda: ProcessId(0, ""))

    def with_done(self, cell: CellSpec) -> State:
        """The state after a cell."""
        key = (cell.round, cell.slug)
        return self if key in self.done else replace(self, done=(*self.done, key))

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        document = asdict(self)
        planned = [cell.to_json() for cell in self.planned]
        return {"schema": 1, **document, "planned": planned, "tries": [cell.to_json() for cell in self.tries()]}

    def tries(self) -> tuple[CellSpec, ...]:
        """The cells of the rates that searches have tried."""
        return tuple(
            at_rate(cell, rate, number)
            for cell in self.planned
            if is_search(cell)
            for number, (rate, _) in enumerate(self.searches.get(f"{cell.round}/{cell.slug}", ()), 1)
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str) -> State:
        """The state of `to_json`; raises LoadTestError where it is none."""
        try:
            return cls(
                planned=tuple(CellSpec.from_json(cell, source) for cell in document["planned"]),
                done=tuple((int(number), str(slug)) for number, slug in document["done"]),
                sealed=tuple(int(number) for number in document["sealed"]),
                status=document["status"],
                reason=document["reason"],
                searches={
                    key: tuple((float(rate), None if met is None else bool(met)) for rate, met in tried)
                    for key, tried in document["searches"].items()
                },
                process=ProcessId(**document.get("process", {"pid": 0, "began": ""})),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise LoadTestError(f"{source}: not the state of a run: {exc}") from exc


@dataclass(frozen=True, slots=True)
class RunFolder(StoredRun):
    """A stored run, and what a campaign writes into it."""

    @classmethod
    def create(cls, runs: Path, name: str, now: datetime | None = None) -> RunFolder:
        """A new folder under `runs`, named by the time and the campaign."""
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
        base = f"{stamp}-{re.sub(r'[^A-Za-z0-9_]+', '-', name).strip('-')[:40] or 'campaign'}"
        for number in range(1, 1000):
            path = runs / (base if number == 1 else f"{base}-{number}")
            with telling_full(runs), contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                folder = cls(path)
                folder.ballast.write_bytes(os.urandom(_BALLAST_BYTES))
                return folder
        raise LoadTestError(f"{runs}: no new folder could be made; name another with --runs")

    @classmethod
    def existing(cls, runs: Path, name: str) -> RunFolder:
        """The folder of a run, given by path or by its name under `runs`; raises LoadTestError where there is none."""
        for path in (Path(name), runs / name, runs / Path(name).name):
            if (path / "state.json").is_file() or (path / "cells.jsonl").is_file():
                return cls(path)
        known = sorted(path.parent.name for path in runs.glob("*/state.json"))[-5:]
        told = f"the newest in {runs} are: {', '.join(known)}" if known else f"there is no run in {runs}"
        raise LoadTestError(f"'{name}' is no run; {told}; --runs names another folder")

    @property
    def ballast(self) -> Path:
        """Room for the state on a full disk."""
        return self.path / ".room"

    def streams(self, number: int) -> Path:
        """The folder of a round's raw records while it runs."""
        return self.raw / str(number)

    def log_file(self, cell: CellSpec) -> Path:
        """What the generator said in a cell."""
        return self.path / "logs" / str(cell.round) / f"{cell.slug}.log"

    def prepare(self, cell: CellSpec) -> None:
        """Makes the folders of a cell's records, and removes what an earlier attempt left; raises DiskFullError."""
        with telling_full(self.path):
            for path in (self.health_file(cell), self.resources_file(cell), self.log_file(cell)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
            self.streams(cell.round).mkdir(parents=True, exist_ok=True)
        for path in self.streams(cell.round).glob("*.arrow"):
            if path.name.rsplit(".", 2)[0] == cell.slug:
                path.unlink()

    def state(self) -> State:
        """The run's state; raises LoadTestError where it cannot be read."""
        source = self.path / "state.json"
        return State.from_json(read_json(source), str(source))

    def mark_dead(self) -> None:
        """Marks a run whose process was killed as interrupted; what its last cell left does not count."""
        state = self.state()
        if state.status != "running" or state.process.runs():
            return
        self.drop_partial(state.done)
        self.keep_lines(state.done)
        self.save(replace(state, status="interrupted", reason="the process was killed"))

    def drop_partial(self, done: Collection[tuple[int, str]]) -> None:
        """Removes the streams of cells that are not done: what was cut off in the middle is no measurement."""
        for path in self.path.glob("raw/*/*.arrow"):
            if (int(path.parent.name), path.name.rsplit(".", 2)[0]) not in done:
                path.unlink()

    def save(self, state: State) -> None:
        """Writes the state in one step: whatever happens, the file is the old one or the new one."""
        try:
            write_json(self.path / "state.json", state.to_json())
        except DiskFullError:
            if not self.ballast.exists():
                raise
            self.ballast.unlink()
            write_json(self.path / "state.json", state.to_json())

    def append_line(self, line: Mapping[str, Any]) -> None:
        """Adds a cell's line to cells.jsonl; a line that a crash cut off is removed first."""
        text = json.dumps(line, allow_nan=False) + "\n"
        with telling_full(self.path), self.cells_file.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            start = file.tell()
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise

    def keep_lines(self, done: Iterable[tuple[int, str]]) -> None:
        """Removes lines of cells that are not done: a crash came between a cell's line and its state."""
        kept = {(int(number), slug) for number, slug in done}
        lines = {(line["round"], line["cell"]): line for line in self.cells()}
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for key, line in lines.items() if key in kept)
        _write_text(self.cells_file, text)

    def full_disk(self) -> str:
        """What to say first of a failure whose reason is a full disk; empty where there is room."""
        return "the disk is full; make room. " if shutil.disk_usage(self.path).free < _BALLAST_BYTES else ""

    def check_room(self, cell: CellSpec) -> None:
        """Raises DiskFullError where there is too little room to begin a cell."""
        needed = LEAST_FREE_BYTES + requests_of(cell) * _ROW_BYTES
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise full(self.path, f"{free >> 20} MB are left, and the next cell may need {needed >> 20}")


def write_json(path: Path, document: object) -> None:
    """Writes JSON in one step, on the disk when this returns; raises DiskFullError."""
    _write_text(path, json.dumps(document, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    with telling_full(path.parent):
        write_whole(path, text)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises LoadTestError where the file is none."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise LoadTestError(f"{path}: cannot be read: {exc}") from exc
    if not isinstance(document, dict):
        raise LoadTestError(f"{path}: expected an object")
    return document
