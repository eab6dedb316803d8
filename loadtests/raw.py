"""The raw record: one row for every scheduled request, as Arrow. Every figure of a report is made of these rows.

The generator appends them as Arrow IPC while a cell runs (`<slug>.<worker>.arrow`); a finished round is one Parquet
file with the columns `round` and `cell` in front of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from loadtests.errors import LoadTestError

SCHEMA_VERSION = 1

# Times are seconds since the cell's T0, the beginning of its first measured step, on the generator's monotonic clock:
# those of the warm-up are negative. T0 as wall time is in the file's metadata (`t0_unix`).
_SECONDS = pa.float64()
_LABEL = pa.dictionary(pa.int32(), pa.string())

RAW_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int16(), nullable=False),  # index into the load's steps; -1 in the warm-up
        pa.field("worker", pa.int16(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),  # counts the worker's arrivals
        pa.field("question", pa.int32(), nullable=False),  # which golden rows were asked
        pa.field("measured", pa.bool_(), nullable=False),  # false in the warm-up
        pa.field("t_int", _SECONDS, nullable=False),  # scheduled instant; in a closed loop: client free
        pa.field("t_snd", _SECONDS),  # handed to the socket or stub; null where it was never sent
        pa.field("t_end", _SECONDS),  # last byte read; null where it was never sent
        pa.field("outcome", _LABEL, nullable=False),  # an `Outcome`
        pa.field("bytes_out", pa.int32(), nullable=False),
        pa.field("bytes_in", pa.int32(), nullable=False),
        pa.field("endpoint", _LABEL),  # what the reply says of its origin
        pa.field("stack", _LABEL),
        pa.field("server", _LABEL),
        # The gateway's own account of the request (Server-Timing), milliseconds; null where nobody gave one.
        pa.field("gw_decode_ms", pa.float32()),
        pa.field("gw_queue_ms", pa.float32()),
        pa.field("gw_upstream_ms", pa.float32()),
        pa.field("gw_encode_ms", pa.float32()),
        pa.field("gw_total_ms", pa.float32()),
        pa.field("detail", _LABEL),  # why it failed, in words
        pa.field("model", _LABEL),  # which one was asked, where a cell asks several; else null
    ]
)


@dataclass(slots=True)
class RawStream:
    """One worker's Arrow stream, read batch by batch from the mapped file: what was read need not stay in memory.

    After the last batch `torn` says why the stream ended before its end mark, empty where it did not; `schema` is None
    where not even that was there. A stream of other columns raises LoadTestError.
    """

    path: Path
    schema: pa.Schema | None = None
    torn: str = ""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The batches, up to the last whole one."""
        self.schema, self.torn = None, ""
        try:
            with pa.memory_map(str(self.path)) as file, pa.ipc.open_stream(file) as reader:
                self.schema = reader.schema
                if not self.schema.equals(RAW_SCHEMA):
                    missing = ", ".join(name for name in RAW_SCHEMA.names if name not in self.schema.names)
                    what = f"no column {missing}" if missing else "columns of other types"
                    raise LoadTestError(f"{self.path}: {what}: no record of this version; measured by another one?")
                yield from reader
        except (pa.ArrowInvalid, OSError) as exc:
            self.torn = str(exc).splitlines()[0][:200]
        if not self.torn and not ended(self.path):
            self.torn = "no end mark: the recorder was stopped"


def read_rows(path: Path) -> pa.Table:
    """The rows of one worker's Arrow stream, up to the last whole batch where its end is torn off or not written yet.

    Raises LoadTestError for a file that is no such stream.
    """
    stream = RawStream(path)
    batches = list(stream.batches())
    if stream.schema is None and path.stat().st_size > 0 and not _torn_schema(path):
        raise LoadTestError(f"{path}: not a stream of measured rows: {stream.torn}")
    return pa.Table.from_batches(batches, stream.schema or RAW_SCHEMA).unify_dictionaries()


def ended(path: Path) -> bool:
    """Whether a stream has Arrow's end mark; a reader takes a bare end of file for one too."""
    # The continuation mark and a length of zero.
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < 8:
            return False
        file.seek(-8, os.SEEK_END)
        return file.read(8) == b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _torn_schema(path: Path) -> bool:
    """Whether the file begins as an Arrow stream does and ends within its first message."""
    with path.open("rb") as source:
        head = source.read(8)
    mark, length = head[:4], int.from_bytes(head[4:8], "little")
    return mark == b"\xff" * len(mark) and (len(head) < 8 or path.stat().st_size < 8 + length)
