"""The raw record of a cell as arrays: what every figure is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loadtests.analysis.samples import Values
from loadtests.replies import Outcome

PARTS = ("decode", "queue", "upstream", "encode", "total")
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """The measured requests of a cell, one element each, in the order of their scheduled instants.

    Times are seconds as recorded, NaN where the request was never sent. `parts` are the gateway's own figures in ms,
    NaN where nobody gave one. `outcomes` holds names, all different; `outcome` indexes them.
    """

    step: npt.NDArray[np.int16]
    worker: npt.NDArray[np.int16]
    seq: npt.NDArray[np.int64]
    t_int: Values
    t_snd: Values
    t_end: Values
    outcome: npt.NDArray[np.int64]
    outcomes: tuple[str, ...]
    bytes_out: Values
    bytes_in: Values
    parts: dict[str, Values]
    servers: tuple[str, ...]
    endpoints: tuple[str, ...]
    details: dict[str, int]
    warm_up: int

    @property
    def count(self) -> int:
        """How many were scheduled."""
        return len(self.t_int)

    @property
    def ok(self) -> Flags:
        """Which got a right answer."""
        if Outcome.OK not in self.outcomes:
            return np.zeros(self.count, dtype=np.bool_)
        return np.asarray(self.outcome == self.outcomes.index(Outcome.OK))

    @property
    def sent(self) -> Flags:
        """Which were handed to a socket."""
        return ~np.isnan(self.t_snd)

    def counted(self) -> dict[str, int]:
        """Every outcome that can be, and how many ended in it."""
        counts = np.bincount(self.outcome, minlength=len(self.outcomes))
        seen = {name: int(count) for name, count in zip(self.outcomes, counts, strict=True)}
        return {**{outcome.value: 0 for outcome in Outcome}, **seen}

    @classmethod
    def of(cls, rows: pa.Table) -> Columns:
        """The measured rows of one cell; raises KeyError where a column of the raw schema is missing."""
        measured = np.asarray(rows["measured"])
        warm_up = int(len(measured) - np.count_nonzero(measured))
        kept = rows.filter(rows["measured"]) if warm_up else rows
        order = np.argsort(np.asarray(kept["t_int"]), kind="stable")
        codes, names = _labels(kept["outcome"])

        def column(name: str) -> npt.NDArray[Any]:
            return np.asarray(kept[name].to_numpy()[order])

        def number(name: str) -> Values:
            return column(name).astype(np.float64, copy=False)

        return cls(
            step=column("step"),
            worker=column("worker"),
            seq=column("seq"),
            t_int=number("t_int"),
            t_snd=number("t_snd"),
            t_end=number("t_end"),
            outcome=codes[order],
            outcomes=names,
            bytes_out=number("bytes_out"),
            bytes_in=number("bytes_in"),
            parts={part: number(f"gw_{part}_ms") for part in PARTS},
            servers=_seen(kept["server"]),
            endpoints=_seen(kept["endpoint"]),
            details=_details(kept),
            warm_up=warm_up,
        )


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    unified = column.unify_dictionaries().combine_chunks()
    return unified.combine_chunks() if isinstance(unified, pa.ChunkedArray) else unified


def _labels(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if len(column) == 0:
        return np.zeros(0, dtype=np.int64), ()
    encoded = _encoded(column)
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), tuple(encoded.dictionary.to_pylist())


def _seen(column: pa.ChunkedArray) -> tuple[str, ...]:
    """The texts of a column that rows really hold, sorted; empty ones left out."""
    return tuple(sorted({text for text in pc.unique(column.cast(pa.string())).to_pylist() if text}))


def _details(rows: pa.Table, most: int = 5) -> dict[str, int]:
    """The reasons given most often for what failed."""
    failed = rows["detail"].cast(pa.string()).drop_null()
    if len(failed) == 0:
        return {}
    counted = pc.value_counts(failed).to_pylist()
    ranked = sorted(counted, key=lambda item: (-item["counts"], item["values"]))
    return {item["values"]: item["counts"] for item in ranked[:most] if item["values"]}
