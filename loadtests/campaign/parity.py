"""The parity gate: before anything is measured, every target answers every golden input, and its answers are compared.

Also the cache check (MLPerf's TEST04): a target that answers a repeated question much sooner than many different ones
probably remembers answers, and its figures would say nothing about the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from gateway.core.tensor import NDArray
from loadtests.campaign.asking import Asker, Told, questions_of
from loadtests.cell_spec import Target
from loadtests.errors import LoadTestError
from loadtests.golden import Golden
from loadtests.replies import Outcome

# So many pairs of a repeated and another question; a target's time for them is bounded.
_PAIRS = 150
_LEAST_PAIRS = 20
_PAIRS_S = 6.0
SUSPECTED = 0.9
_LONGEST_GATE_S = 60.0
# A target that answers nothing but errors so many times is not there.
_GIVE_UP_AFTER = 5
_ERRORS = frozenset({Outcome.HTTP_4XX, Outcome.HTTP_5XX})
# What a target that has none of the model answers; anything else that fails is an answer too, and a wrong one.
_NO_MODEL = frozenset({"404", "NOT_FOUND", "UNIMPLEMENTED"})


@dataclass(frozen=True, slots=True)
class CacheCheck:
    """Median milliseconds of one question repeated and of many different ones, asked in turns.

    `ratio` is repeated over different; below 0.9 `suspected` says that answers are remembered.
    """

    repeated_ms: float
    different_ms: float
    ratio: float
    suspected: bool


@dataclass(frozen=True, slots=True)
class Parity:
    """How a target answered the golden inputs.

    `checked` and `bad` count requests, `questions` are those that there are, in all sizes: a slow target is not asked
    them all. `max_abs` and `max_rel` are the largest |a - b| and |a - b| / |b| of all
    elements of the answers that could be read. `fault` is the first thing that was wrong. `bytes_out` and `bytes_in`
    are the means of a request's and a reply's body, in the smallest size.
    """

    checked: int
    bad: int
    max_abs: float | None
    max_rel: float | None
    fault: str = ""
    bytes_out: float = 0.0
    bytes_in: float = 0.0
    cache: CacheCheck | None = None
    questions: int = 0

    @property
    def whole(self) -> bool:
        """Whether every question was asked."""
        return self.checked >= self.questions

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def parity_of(target: Target, golden: Golden, rows: int, ask: Callable[[int, int], Told], *more: int) -> Parity:
    """Asks every golden question of `rows` rows, then those of `more`; raises LoadTestError where it cannot be asked.

    After a minute of asking it ends: `questions` then says how many there were.
    """
    told: list[Told] = []
    faults: list[str] = []
    largest: list[tuple[float, float]] = []
    kept: list[NDArray] = []
    spent = 0.0
    every = [(question, size) for size in (rows, *more) for question in questions_of(golden, size)]
    for question, size in every:
        reply = ask(question, size)
        _refuse_unreachable(target, reply)
        told.append(reply)
        spent += reply.seconds
        fault = golden.fault(question, size, reply.answer) if reply.answer is not None else reply.detail or "no answer"
        if fault is not None:
            faults.append(fault)
        if reply.answer is not None:
            largest += _distances(golden, question, size, reply.answer)
        if fault is None and reply.answer is not None and golden.agreement is not None:
            kept.append(golden.classes_kept(question, size, reply.answer))
        if len(told) == _GIVE_UP_AFTER and all(each.outcome in _ERRORS for each in told):
            raise LoadTestError(
                f"target '{target.name}' at {target.address} answers no golden question of {_model(target)}: "
                f"{reply.detail}; is the server behind it up, and is this its protocol? Nothing was measured"
            )
        if spent > _LONGEST_GATE_S:
            break
    if kept and golden.agreement is not None and (share := float(np.concatenate(kept).mean())) < golden.agreement:
        faults.append(f"the original's class on {share:.1%} of the rows; at least {golden.agreement:.1%} is expected")
    first = told[: len(questions_of(golden, rows))]
    return Parity(
        checked=len(told),
        questions=len(every),
        bad=len(faults),
        max_abs=max((each[0] for each in largest), default=None),
        max_rel=max((each[1] for each in largest), default=None),
        fault=faults[0] if faults else "",
        bytes_out=float(np.mean([reply.bytes_out for reply in first])),
        bytes_in=float(np.mean([reply.bytes_in for reply in first])),
    )


def cache_check(golden: Golden, rows: int, ask: Callable[[int, int], Told]) -> CacheCheck | None:
    """Asks one question repeatedly and others between; None where there are too few questions or right answers.

    A suspicion is checked a second time: on a busy machine one may come by chance.
    """
    if golden.questions(rows) < 8:
        return None
    found = _pairs(golden, rows, ask)
    return _pairs(golden, rows, ask) if found is not None and found.suspected else found


def _pairs(golden: Golden, rows: int, ask: Callable[[int, int], Told]) -> CacheCheck | None:
    count = golden.questions(rows)
    repeated: list[float] = []
    different: list[float] = []
    ask(0, rows)
    spent = 0.0
    for pair in range(_PAIRS):
        other = 1 + pair % (count - 1)
        # Side by side, so that both meet the machine in the same moment, and each is first as often as the other.
        first, second = (0, other) if pair % 2 else (other, 0)
        told = {question: ask(question, rows) for question in (first, second)}
        if all(reply.outcome is Outcome.OK for reply in told.values()):
            repeated.append(told[0].seconds * 1e3)
            different.append(told[other].seconds * 1e3)
        spent += sum(reply.seconds for reply in told.values())
        if spent > _PAIRS_S:
            break
    if len(repeated) < _LEAST_PAIRS or median(different) <= 0:
        return None
    ratio = median(repeated) / median(different)
    sooner = sum(one < other for one, other in zip(repeated, different, strict=True)) / len(repeated)
    # The sign test at 1 %: so often sooner by chance alone is one in a hundred.
    clear = sooner > 0.5 + 2.33 * 0.5 / len(repeated) ** 0.5
    return CacheCheck(median(repeated), median(different), ratio, ratio < SUSPECTED and clear)


def gate(target: Target, golden: Golden, *rows: int, timeout: float = 10.0) -> Parity:
    """Both checks over one connection, for every size that a cell asks, the smallest first."""
    # A first reply may take long: it is the model's first.
    with Asker(target, golden, timeout=max(timeout, 30.0)) as asker:
        found = parity_of(target, golden, rows[0], asker.ask, *rows[1:])
        cache = cache_check(golden, rows[0], asker.ask) if not found.bad else None
    return Parity(**{**_fields(found), "cache": cache})


def warning(target: Target, parity: Parity) -> str | None:
    """What a reader must know of a target before its figures; None where all is well."""
    if parity.bad:
        return (
            f"target '{target.name}', model '{target.model}': {parity.bad} of {parity.checked} golden answers differ "
            f"({parity.fault}); its cells are INVALID. `parity: off` is for a server that cannot answer them"
        )
    if parity.cache is not None and parity.cache.suspected:
        return (
            f"target '{target.name}', model '{target.model}': result caching suspected: a repeated question takes "
            f"{parity.cache.ratio:.0%} of the time of others"
        )
    if not parity.whole:
        return (
            f"target '{target.name}', model '{target.model}': {parity.checked} of {parity.questions} golden questions "
            f"were asked in {_LONGEST_GATE_S:.0f} s; the answers to the others were not compared"
        )
    return None


def _fields(parity: Parity) -> Mapping[str, Any]:
    return {name: getattr(parity, name) for name in Parity.__slots__}


def _model(target: Target) -> str:
    """What is asked for, by the name that the server knows."""
    variant = target.pins.get("x-variant")
    return f"model '{target.asked_for}'{f', variant {variant!r}' if variant else ''}"


def _refuse_unreachable(target: Target, reply: Told) -> None:
    if reply.status in _NO_MODEL:
        raise LoadTestError(
            f"target '{target.name}' at {target.address} has no {_model(target)}: {reply.detail}; "
            "load it there, or name another model or address; nothing was measured"
        )
    if reply.outcome in (Outcome.CONN_ERROR, Outcome.TIMEOUT):
        raise LoadTestError(
            f"target '{target.name}' at {target.address} does not answer by {target.protocol}: {reply.detail}; "
            "is that its protocol, and is the server up? Nothing was measured"
        )


def _distances(
    golden: Golden, question: int, rows: int, answer: Mapping[str, NDArray]
) -> Sequence[tuple[float, float]]:
    part = slice(question * rows, (question + 1) * rows)
    found = []
    for name, expected in golden.outputs.items():
        got = answer.get(name)
        if got is None or got.shape != expected[part].shape or not got.size:
            continue
        wide = expected[part].astype(np.float64)
        apart = np.abs(got.astype(np.float64) - wide)
        if np.isfinite(apart).all():
            scale = np.abs(wide)
            relative = np.divide(apart, scale, out=np.zeros_like(apart), where=scale > 0)
            found.append((float(apart.max()), float(relative.max())))
    return found
