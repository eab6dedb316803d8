"""Where the files of a run are, and how the small ones are read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests.cell_spec import CellSpec, at_rate
from loadtests.disk import write_whole
from loadtests.errors import LoadTestError

# The cell of a server that answers at once; it has a folder of its own and is none of the campaign's.
NULL_SLUG = "null"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """`runs/ID`: one campaign, begun, interrupted or done."""

    path: Path

    @property
    def id(self) -> str:
        """The run's name: its folder's."""
        return self.path.resolve().name

    @property
    def raw(self) -> Path:
        """Where the rounds' Parquet files are, and the streams of a round under way."""
        return self.path / "raw"

    @property
    def null(self) -> Path:
        """The record of the server that answers at once."""
        return self.path / NULL_SLUG

    @property
    def cells_file(self) -> Path:
        """One line a cell and round."""
        return self.path / "cells.jsonl"

    @property
    def campaign_file(self) -> Path:
        """The campaign as it was given."""
        return self.path / "campaign.yaml"

    def health_file(self, cell: CellSpec) -> Path:
        """The generator's account of a cell."""
        return self.path / "health" / str(cell.round) / f"{cell.slug}.json"

    def resources_file(self, cell: CellSpec) -> Path:
        """What the servers used in a cell."""
        return self.path / "resources" / str(cell.round) / f"{cell.slug}.json"

    def checked(self) -> StoredRun:
        """Itself; raises LoadTestError where the folder is no run."""
        if not (self.path / "state.json").is_file():
            raise LoadTestError(f"{self.path}: not a run: it holds no state.json. `twinserve bench run` makes one")
        return self

    def manifest(self) -> dict[str, Any]:
        """Environment, seeds and versions; empty where it was not written."""
        return read_object(self.path / "manifest.json")

    def ledger(self) -> dict[str, Any]:
        """The fairness ledger: the entry of each target by `MODEL/NAME`; empty where it was not written."""
        return _by_target(read_object(self.path / "ledger.json"))

    def parity(self) -> dict[str, Any]:
        """What the parity gate found, by `MODEL/NAME`; empty where it did not run."""
        return _by_target(read_object(self.path / "parity.json"))

    def state_document(self) -> dict[str, Any]:
        """What was planned and what is done."""
        return read_object(self.path / "state.json")

    def campaign(self) -> dict[str, Any]:
        """What the campaign file says; empty where it is missing or no mapping."""
        try:
            document = yaml.safe_load(self.campaign_file.read_text("utf-8"))
        except (OSError, yaml.YAMLError):
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def tier(self) -> str:
        """Whose limits the run's cells keep to: `quick` or `run`."""
        return str(self.manifest().get("tier") or self.campaign().get("tier") or "run")

    def specs(self) -> dict[tuple[int, str], CellSpec]:
        """Every cell of the plan by (round, slug), and every try of its searches.

        Raises LoadTestError where the state is not one.
        """
        source, state = self.path / "state.json", self.state_document()
        planned, tries = state.get("planned", []), state.get("tries", [])
        if not isinstance(planned, list) or not isinstance(tries, list):
            raise LoadTestError(f"{source}: `planned` is not a list of cells")
        cells = [CellSpec.from_json(item, f"{source}: cell {number}") for number, item in enumerate(planned + tries)]
        found = {(cell.round, cell.slug): cell for cell in cells}
        return found | self._tries(found, state)

    def _tries(
        self, planned: Mapping[tuple[int, str], CellSpec], state: Mapping[str, Any]
    ) -> dict[tuple[int, str], CellSpec]:
        """The tries of searches: their rates are in the state, that of one after which a crash came in cells.jsonl."""
        rates = {
            (int(number), f"{slug}-try{attempt:02}"): float(rate)
            for key, tried in (state.get("searches") or {}).items()
            for number, _, slug in [str(key).partition("/")]
            for attempt, (rate, _) in enumerate(tried, 1)
        }
        for line in self.cells():
            if _TRY.search(str(line["cell"])) and line.get("rate_offered"):
                rates.setdefault((int(line["round"]), str(line["cell"])), float(line["rate_offered"]))
        found = {}
        for (number, slug), rate in rates.items():
            match = _TRY.search(slug)
            base = planned.get((number, _TRY.sub("", slug)))
            if match and base is not None:
                found[number, slug] = at_rate(base, rate, int(match[1]))
        return found

    def health(self, cell: CellSpec) -> dict[str, Any]:
        """The generator's own account of a cell; empty where there is none."""
        return read_object(self.health_file(cell))

    def resources(self, cell: CellSpec) -> dict[str, Any] | None:
        """What the servers used during a cell; None where nobody measured it."""
        return read_object(self.resources_file(cell)) or None

    def provenance(self, cell: CellSpec) -> dict[str, Any]:
        """What ties a cell's line to its run: the search it is a try of, and the generator's account with its SHA-256.

        That file has the workers' HDR histograms. `manifest_id` is of the manifest as the run began.
        """
        account = self.health_file(cell)
        return {
            "campaign": self.id,
            "search": _TRY.sub("", cell.slug) if _TRY.search(cell.slug) else None,
            "hdr_path": str(account.relative_to(self.path)),
            "sha256": hashlib.sha256(account.read_bytes()).hexdigest() if account.is_file() else None,
            "manifest_id": self.manifest().get("id"),
        }

    def sealed_rounds(self) -> dict[int, Path]:
        """The Parquet file of each round that has one, by number."""
        found = {int(path.stem): path for path in self.raw.glob("*.parquet") if path.stem.isdigit()}
        return dict(sorted(found.items()))

    def open_rounds(self) -> list[int]:
        """Rounds whose streams are not yet Parquet: a round under way, or one that a crash interrupted."""
        if not self.raw.is_dir():
            return []
        return sorted(int(item.name) for item in self.raw.iterdir() if item.is_dir() and item.name.isdigit())

    def cells(self) -> list[dict[str, Any]]:
        """The lines of cells.jsonl; a torn last line is left out."""
        return list(read_lines(self.cells_file))


# The name of a search's try is that of its cell and a number.
_TRY = re.compile(r"-try(\d+)$")


# The name of an A/A twin is that of its target and this; a user may give such a name to a target of his own.
_TWIN = re.compile(r" \(A/A(?: \d+)?\)$")


def target_key(model: str, name: str, control: str | None = None) -> str:
    """A target's name in ledger.json and parity.json; an A/A twin has the entry of the target that it is.

    `control` is the cell's: only where it is given the name is a twin's. Of a cell of several models it is that of the
    first.
    """
    return f"{model.partition(' + ')[0]}/{_TWIN.sub('', name) if control else name}"


def _by_target(document: dict[str, Any]) -> dict[str, Any]:
    targets = document.get("targets", document)
    return dict(targets) if isinstance(targets, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing. Raises LoadTestError where it is there and is none."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise LoadTestError(f"{path}: {exc}; it should hold a JSON object") from exc
    if not isinstance(document, dict):
        raise LoadTestError(f"{path}: it should hold a JSON object")
    return document


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The objects of a file of JSON lines. The last line may be torn by a crash; any other one raises LoadTestError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as exc:
            if number == len(lines):
                return
            raise LoadTestError(f"{path}, line {number}: not JSON: {exc}") from exc
        if not isinstance(document, dict):
            raise LoadTestError(f"{path}, line {number}: not a JSON object")
        yield document


def write_file(path: Path, text: str) -> None:
    """Writes a file, whole or not at all; raises LoadTestError."""
    try:
        write_whole(path, text)
    except OSError as exc:
        raise LoadTestError(f"{path}: {exc}; the file that was there before is unchanged") from exc


def write_lines(path: Path, documents: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, all of them or none."""
    write_file(path, "".join(json.dumps(document, allow_nan=False) + "\n" for document in documents))
