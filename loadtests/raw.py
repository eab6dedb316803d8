"""The raw record: one row for every scheduled request, as Arrow. Every figure of a report is made of these rows.

The generator appends them as Arrow IPC while a cell runs (`<slug>.<worker>.arrow`); a finished round is one Parquet
file with the columns `round` and `cell` in front of them.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

# Times are seconds since the cell's T0, on the generator's monotonic clock; T0 as wall time is in the metadata.
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
    ]
)
