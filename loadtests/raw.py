"""The raw record: one row for every scheduled request, as Arrow. Every figure of a report is made of these rows.

The generator appends them as Arrow IPC while a cell runs (`<slug>.<worker>.arrow`); a finished round is one Parquet
file with the columns `round` and `cell` in front of them.
"""

from __future__ import annotations

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
        pa.field("t_int", _SECONDS, nullable=False),  # scheduled instant; in a closed loop that of sending
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


def read_rows(path: Path) -> pa.Table:
    """The rows of one worker's Arrow stream, up to the last whole batch where its end is torn off or not written yet.

    Raises LoadTestError for a file that is no such stream.
    """
    batches: list[pa.RecordBatch] = []
    schema = RAW_SCHEMA
    with path.open("rb") as source:
        try:
            reader = pa.ipc.open_stream(source)
            schema = reader.schema
            batches.extend(iter(reader.read_next_batch, None))
        except StopIteration:
            pass
        except (pa.ArrowInvalid, OSError) as exc:
            if schema is RAW_SCHEMA and path.stat().st_size > 0 and not _torn_schema(path):
                raise LoadTestError(f"{path}: not a stream of measured rows: {exc}") from exc
    if not schema.equals(RAW_SCHEMA):
        raise LoadTestError(f"{path}: its columns are not those of this version; measured by another one?")
    return pa.Table.from_batches(batches, schema).unify_dictionaries()


def _torn_schema(path: Path) -> bool:
    """Whether the file begins as an Arrow stream does and ends within its first message."""
    with path.open("rb") as source:
        head = source.read(8)
    mark, length = head[:4], int.from_bytes(head[4:8], "little")
    return mark == b"\xff" * len(mark) and (len(head) < 8 or path.stat().st_size < 8 + length)
