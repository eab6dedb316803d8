"""What crosses the pipe from a generator to the recorder: packed rows, and the texts that they point to.

A frame is its kind (one byte), the length of what follows (four, little-endian) and that. Packing a row costs a
microsecond, so the generator's dispatch is not held up; all that is slow happens in the recorder.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from loadtests.raw import RAW_SCHEMA
from loadtests.replies import Outcome

OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
_CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_HEAD = struct.Struct("<BI")
_ROW = struct.Struct("<hhqi?dddBiiiiifffffii")
# The same layout for numpy. A NaN time and a text -1 stand for null.
_DTYPE = np.dtype(
    [
        ("step", "<i2"),
        ("worker", "<i2"),
        ("seq", "<i8"),
        ("question", "<i4"),
        ("measured", "?"),
        *((name, "<f8") for name in ("t_int", "t_snd", "t_end")),
        ("outcome", "u1"),
        *((name, "<i4") for name in ("bytes_out", "bytes_in", "endpoint", "stack", "server")),
        *((f"gw_{part}_ms", "<f4") for part in ("decode", "queue", "upstream", "encode", "total")),
        ("detail", "<i4"),
        ("model", "<i4"),
    ]
)
_TEXTS = ("endpoint", "stack", "server", "detail", "model")
NO_TIMINGS = (float("nan"),) * 5
# Replies can name any number of different texts; beyond these they are not told apart.
_MOST_TEXTS = 4096
_OTHER = "(further texts are not kept apart)"


class Kind(IntEnum):
    """What a frame holds."""

    BEGIN = 0  # JSON object: the file's metadata
    TEXTS = 1  # JSON list: the next texts, in the order of their numbers
    ROWS = 2  # packed rows


class Row(NamedTuple):
    """One scheduled request, as RAW_SCHEMA has it. Times are seconds since T0; a NaN says it was never sent."""

    step: int
    worker: int
    seq: int
    question: int
    measured: bool
    t_int: float
    t_snd: float
    t_end: float
    outcome: Outcome
    bytes_out: int = 0
    bytes_in: int = 0
    endpoint: str = ""
    stack: str = ""
    server: str = ""
    timings: Sequence[float] = NO_TIMINGS
    detail: str = ""
    model: str = ""


@dataclass(slots=True)
class Packer:
    """Packs rows; `taken` gives the frames since it was last called."""

    _rows: bytearray = field(default_factory=bytearray)
    _texts: dict[str, int] = field(default_factory=dict)
    _new: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Packs one row."""
        text = self._text
        self._rows += _ROW.pack(
            *row[:8],
            _CODE[row.outcome],
            *row[9:11],
            text(row.endpoint),
            text(row.stack),
            text(row.server),
            *row.timings,
            text(row.detail),
            text(row.model),
        )

    def taken(self) -> bytes:
        """The frames of all rows that were added since, empty where there were none."""
        if not self._rows:
            return b""
        frames = frame(Kind.TEXTS, json.dumps(self._new).encode()) if self._new else b""
        frames += frame(Kind.ROWS, self._rows)
        self._new, self._rows = [], bytearray()
        return frames

    def _text(self, text: str) -> int:
        if not text:
            return -1
        number = self._texts.get(text)
        if number is None:
            if len(self._texts) >= _MOST_TEXTS and text != _OTHER:
                return self._text(_OTHER)
            number = self._texts[text] = len(self._texts)
            self._new.append(text)
        return number


def frame(kind: Kind, content: bytes | bytearray) -> bytes:
    """A frame with its head."""
    return _HEAD.pack(kind, len(content)) + content


def frames_of(buffer: bytearray) -> Iterator[tuple[Kind, bytes]]:
    """Takes the whole frames out of the front of `buffer` and leaves a torn one in it."""
    while len(buffer) >= _HEAD.size:
        kind, length = _HEAD.unpack_from(buffer)
        if len(buffer) < _HEAD.size + length:
            return
        content = bytes(buffer[_HEAD.size : _HEAD.size + length])
        del buffer[: _HEAD.size + length]
        yield Kind(kind), content


def batch_of(packed: bytes | bytearray, texts: Sequence[str], schema: pa.Schema = RAW_SCHEMA) -> pa.RecordBatch:
    """Packed rows as one Arrow batch."""
    rows: npt.NDArray[Any] = np.frombuffer(packed, _DTYPE)
    dictionary = pa.array(texts, pa.string())
    columns: list[pa.Array] = []
    for column in RAW_SCHEMA:
        values = np.ascontiguousarray(rows[column.name])
        if column.name == "outcome":
            outcomes = pa.array([outcome.value for outcome in OUTCOMES], pa.string())
            columns.append(pa.DictionaryArray.from_arrays(pa.array(values, pa.int32()), outcomes))
        elif column.name in _TEXTS:
            columns.append(pa.DictionaryArray.from_arrays(pa.array(values, pa.int32(), mask=values < 0), dictionary))
        else:
            columns.append(pa.array(values, column.type, from_pandas=column.nullable))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
