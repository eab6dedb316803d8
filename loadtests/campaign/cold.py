"""A cold start: from the start of the server's process until it is ready, until its first answer, until it is steady.

The answers are a raw record like any other cell's, with the start of the process as its T0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pyarrow as pa

from loadtests.campaign.asking import Asker, Told
from loadtests.campaign.fleet import Restarted
from loadtests.cell_spec import CellSpec
from loadtests.golden import Golden, question_order
from loadtests.raw import RAW_SCHEMA
from loadtests.replies import Outcome

# Steady: the median of a window of answers is within a tenth of that of the last answers.
WINDOW = 20
_NEAR = 1.1


@dataclass(frozen=True, slots=True)
class Asked:
    """One question after a start; instants are seconds since the process began."""

    question: int
    sent: float
    ended: float
    outcome: Outcome
    detail: str
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Seconds since the start of the process; None where it was not reached."""

    ready_s: float
    first_answer_s: float | None
    steady_s: float | None
    first_request_ms: float | None
    steady_request_ms: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {name: getattr(self, name) for name in self.__slots__}


def ask_after(
    restarted: Restarted, spec: CellSpec, golden: Golden, *, stop: Callable[[], bool], clock: Callable[[], float]
) -> list[Asked]:
    """Asks one question after another from readiness on, for the seconds of the spec; answers are checked."""
    rows = spec.load.rows
    order = question_order(golden.questions(rows), 0)
    asked: list[Asked] = []
    with Asker(spec.target, golden, timeout=spec.load.timeout_seconds) as asker:
        until = clock() + spec.load.seconds
        while clock() < until and not stop():
            question = order[len(asked) % len(order)]
            sent = clock()
            told = asker.ask(question, rows)
            asked.append(_judged(told, golden, question, rows, sent - restarted.began, spec.target.parity))
    return asked


def cold_start(ready_s: float, asked: Sequence[Asked]) -> ColdStart:
    """The instants of a cold start, from its answers."""
    right = [each for each in asked if each.outcome is Outcome.OK]
    times = [each.ended - each.sent for each in right]
    if not right:
        return ColdStart(ready_s, None, None, None, None)
    steady_ms = median(times[-5 * WINDOW :]) * 1e3 if len(times) >= 2 * WINDOW else None
    steady_at = None
    if steady_ms is not None:
        for begin in range(len(times) - WINDOW + 1):
            if median(times[begin : begin + WINDOW]) * 1e3 <= steady_ms * _NEAR:
                steady_at = right[begin].ended
                break
    return ColdStart(ready_s, right[0].ended, steady_at, times[0] * 1e3, steady_ms)


def write_rows(asked: Sequence[Asked], spec: CellSpec, path: Any, t0_unix: float) -> None:  # noqa: ANN401 - a path
    """The raw record of a cold start, as the engine's recorder writes it."""
    count = len(asked)
    label = pa.dictionary(pa.int32(), pa.string())

    def labels(values: Sequence[str | None]) -> pa.Array:
        return pa.array(values, pa.string()).dictionary_encode().cast(label)

    columns: dict[str, pa.Array] = {
        "step": pa.array([0] * count, pa.int16()),
        "worker": pa.array([0] * count, pa.int16()),
        "seq": pa.array(range(count), pa.int64()),
        "question": pa.array([each.question for each in asked], pa.int32()),
        "measured": pa.array([True] * count, pa.bool_()),
        "t_int": pa.array([each.sent for each in asked], pa.float64()),
        "t_snd": pa.array([each.sent for each in asked], pa.float64()),
        "t_end": pa.array([each.ended for each in asked], pa.float64()),
        "outcome": labels([str(each.outcome) for each in asked]),
        "bytes_out": pa.array([each.bytes_out for each in asked], pa.int32()),
        "bytes_in": pa.array([each.bytes_in for each in asked], pa.int32()),
        "stack": labels([spec.target.stack or None] * count),
        "server": labels([spec.target.server or None] * count),
        "detail": labels([each.detail or None for each in asked]),
    }
    schema = RAW_SCHEMA.with_metadata({"t0_unix": repr(t0_unix)})
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in schema]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_table(pa.table(arrays, schema=schema))


def wall_of(instant: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """A monotonic instant as wall time."""
    return time.time() - (clock() - instant)


def _judged(told: Told, golden: Golden, question: int, rows: int, sent: float, parity: bool) -> Asked:
    outcome, detail = told.outcome, told.detail
    if outcome is Outcome.OK and parity and told.answer is not None:
        fault = golden.fault(question, rows, told.answer)
        if fault is not None:
            outcome, detail = Outcome.WRONG_ANSWER, fault
    return Asked(question, sent, sent + told.seconds, outcome, detail, told.bytes_out, told.bytes_in)
