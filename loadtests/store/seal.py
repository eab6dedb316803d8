"""Turns the Arrow streams of a round into one Parquet file, and removes them once that file is whole and checked."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loadtests.errors import LoadTestError
from loadtests.raw import RAW_SCHEMA, SCHEMA_VERSION, RawStream

_META = b"twinserve"
_ROWS_PER_GROUP = 1 << 18


def _plain(field: pa.Field) -> pa.Field:
    # Parquet makes dictionaries of its own; DuckDB and pandas then see text.
    return field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field


SEALED_SCHEMA = pa.schema(
    [
        pa.field("round", pa.int16(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),
        *(_plain(field) for field in RAW_SCHEMA),
    ]
)


@dataclass(frozen=True, slots=True)
class Stream:
    """What was read of one Arrow stream. `torn` says why it ended before its end mark; empty where it did not."""

    slug: str
    worker: str
    rows: int
    torn: str
    metadata: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the Parquet file's metadata."""
        return {"rows": self.rows, "torn": self.torn, "metadata": self.metadata}


def seal_round(run: Path, round: int) -> Path:  # noqa: A002  # the word of the record's own column
    """Writes `raw/R.parquet` from `raw/R/SLUG.W.arrow` and returns its path.

    A stream that a crash tore is read up to its last whole batch; `torn_streams` tells of it. Cells that an earlier
    seal of the same round wrote stay, those that have a stream are written anew, so sealing twice is harmless. The
    streams are removed only when the new file has been read back. Raises LoadTestError where the round has neither
    streams nor a file, or where the disk is full: then everything recorded is still there.
    """
    folder, sealed = run / "raw" / str(round), run / "raw" / f"{round}.parquet"
    sources = sorted(folder.glob("*.arrow"), key=_name_of)
    if not sources:
        if sealed.is_file():
            return sealed
        raise LoadTestError(f"{folder}: no *.arrow streams and no {sealed.name}: round {round} was never recorded")
    part = sealed.with_suffix(".parquet.part")
    try:
        written = _write(part, sources, sealed, round)
        _verify(part, written)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(sealed)
    except OSError as exc:
        part.unlink(missing_ok=True)
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(exc)
        what = "the disk is full; free some space and run `twinserve bench report`" if full else str(exc)
        raise LoadTestError(f"{sealed}: {what}. Nothing is lost: the streams are still in {folder}") from exc
    shutil.rmtree(folder)
    return sealed


def torn_streams(sealed: Path) -> dict[str, str]:
    """`SLUG.W` of each stream of a sealed round that ended before its end mark, and why; empty where none did."""
    streams = sealed_streams(sealed)
    return {name: str(facts["torn"]) for name, facts in streams.items() if facts.get("torn")}


def sealed_streams(sealed: Path) -> dict[str, dict[str, Any]]:
    """What the metadata of a sealed round says of each stream: rows, torn, and the stream's own metadata."""
    metadata = pq.read_metadata(sealed).metadata or {}
    document = json.loads(metadata.get(_META, b"{}"))
    return dict(document.get("streams", {}))


def _name_of(path: Path) -> tuple[str, int, str]:
    slug, _, worker = path.stem.rpartition(".")
    return (slug, int(worker), worker) if slug and worker.isdigit() else (path.stem, 0, "0")


def _write(part: Path, sources: list[Path], earlier: Path, number: int) -> dict[str, int]:
    """Rows of each cell in the new file."""
    streams: list[Stream] = []
    cells: dict[str, int] = {}
    kept: dict[str, dict[str, Any]] = {}
    fresh = {_name_of(path)[0] for path in sources}
    with pq.ParquetWriter(part, SEALED_SCHEMA, compression="zstd") as writer:
        if earlier.is_file():
            before = sealed_streams(earlier)
            kept = {name: facts for name, facts in before.items() if name.rpartition(".")[0] not in fresh}
            for slug, table in _cells_of(earlier, fresh):
                writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
                cells[slug] = table.num_rows
        for slug in sorted(fresh):
            cells[slug] = 0
            for path in (source for source in sources if _name_of(source)[0] == slug):
                source, rows = RawStream(path), 0
                for table in _groups(source, number, slug):
                    writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
                    rows += table.num_rows
                cells[slug] += rows
                streams.append(Stream(slug, _name_of(path)[2], rows, source.torn, _metadata(source)))
        told = {**kept, **{f"{stream.slug}.{stream.worker}": stream.to_json() for stream in streams}}
        writer.add_key_value_metadata({_META: json.dumps({"schema": SCHEMA_VERSION, "streams": told})})
    return cells


def _cells_of(path: Path, without: set[str]) -> Iterator[tuple[str, pa.Table]]:
    table = pq.read_table(path).cast(SEALED_SCHEMA)
    for slug in sorted(set(table["cell"].unique().to_pylist()) - without):
        yield slug, table.filter(pa.compute.equal(table["cell"], slug))


def _groups(stream: RawStream, number: int, slug: str) -> Iterator[pa.Table]:
    """A stream's rows as they are sealed, a row group at a time: a soak of days has more than fit into memory."""
    held: list[pa.RecordBatch] = []
    for batch in stream.batches():
        held.append(batch)
        if sum(each.num_rows for each in held) >= _ROWS_PER_GROUP:
            yield _sealed(held, number, slug)
            held = []
    if held:
        yield _sealed(held, number, slug)


def _sealed(batches: list[pa.RecordBatch], number: int, slug: str) -> pa.Table:
    table = pa.Table.from_batches(batches)
    columns = [
        pa.repeat(pa.scalar(number, pa.int16()), table.num_rows),
        pa.repeat(pa.scalar(slug, pa.string()), table.num_rows),
        *(table[field.name].cast(_plain(field).type) for field in RAW_SCHEMA),
    ]
    return pa.table(columns, schema=SEALED_SCHEMA)


def _metadata(stream: RawStream) -> dict[str, str]:
    known = stream.schema.metadata if stream.schema is not None else None
    return {key.decode(): value.decode() for key, value in (known or {}).items()}


def _verify(part: Path, written: dict[str, int]) -> None:
    """Reads back what identifies the rows; raises LoadTestError where it is not what was written."""
    cells = pq.read_table(part, columns=["cell"])["cell"]
    counted = {item["values"]: item["counts"] for item in cells.value_counts().to_pylist()}
    if counted != {slug: rows for slug, rows in written.items() if rows}:
        part.unlink(missing_ok=True)
        raise LoadTestError(f"{part}: read back other rows than were written; the streams were kept")
