"""One run against another: did anything become slower?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.analysis.compare import NO_CONTROL, QUICK, Control, resolution_of, shortcoming, too_few, within_run
from loadtests.analysis.likeness import unlike
from loadtests.analysis.samples import Values
from loadtests.analysis.series import Metric, Series, series_of
from loadtests.analysis.statistics import (
    Verdict,
    holm,
    judge,
    permutation_p,
    two_sample_bootstrap,
)
from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError
from loadtests.store.stored import StoredRun, target_key

NOTHING_SLOWER, SLOWER, REFUSED, UNDECIDED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Change:
    """One target in one scenario: run B against run A. Without a `verdict`, `why` says why."""

    model: str
    scenario: str
    target: str
    metric: Metric
    a: float | None
    b: float | None
    verdict: Verdict | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        verdict = self.verdict.to_json() if self.verdict else None
        names = {"model": self.model, "scenario": self.scenario, "target": self.target, "metric": self.metric.name}
        return {**names, "a": self.a, "b": self.b, "verdict": verdict, "why": self.why}


@dataclass(frozen=True, slots=True)
class Regression:
    """The result of `bench compare A B`. `title` says so where unlike set-ups were compared."""

    title: str
    changes: tuple[Change, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 nothing is slower, 1 something is, 2 the comparison is refused, 3 nothing at all could be decided."""
        words = [change.verdict.word for change in self.changes if change.verdict]
        if self.refused:
            return REFUSED
        if "slower" in words:
            return SLOWER
        return NOTHING_SLOWER if any(word != "inconclusive" for word in words) else UNDECIDED

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "title": self.title,
            "changes": [change.to_json() for change in self.changes],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "refused": list(self.refused),
            "exit_code": self.exit_code,
        }


def compare_runs(a: Path, b: Path, *, allow_unlike: bool = False) -> Regression:
    """Every target, model and scenario that both runs have, B against A.

    Rounds of two runs are no pairs, so they are resampled and permuted apart. What the machine did between the runs is
    part of the difference; the wider of both runs' A/A resolutions is the margin. Unlike ledgers, loads or processors
    refuse the whole comparison unless `allow_unlike`. Raises LoadTestError where a run cannot be read or nothing is in
    both.
    """
    runs = StoredRun(a).checked(), StoredRun(b).checked()
    series = [{own.key: own for own in series_of(run.cells()) if not own.first.get("control")} for run in runs]
    both = [key for key in series[0] if key in series[1]]
    if not both:
        raise LoadTestError(f"{a} and {b} have no model, scenario and target in common; nothing to compare")
    ledgers = [run.ledger() for run in runs]
    names = dict.fromkeys(target_key(model, target) for model, _, target in both)
    differences = (
        *_apart("", *(_host(run) for run in runs)),
        *(f"{name}: {text}" for name in names for text in unlike(_of(ledgers[0], name), _of(ledgers[1], name), "runs")),
        *_loads(runs, [(series[0][key], series[1][key]) for key in both]),
    )
    margins = _margins(runs)
    quick = any(run.tier != "run" for run in runs)
    refused = differences if not allow_unlike else ()
    changes = _changes([(series[0][key], series[1][key]) for key in both], margins, quick=quick, refused=bool(refused))
    title = f"{runs[1].id} against {runs[0].id}"
    if differences and allow_unlike:
        title += f", UNLIKE SET-UPS COMPARED ({'; '.join(differences[:3])}{'; …' if len(differences) > 3 else ''})"
    return Regression(
        title=title,
        changes=tuple(changes),
        only_a=tuple(" ".join(key) for key in series[0] if key not in series[1]),
        only_b=tuple(" ".join(key) for key in series[1] if key not in series[0]),
        refused=refused,
    )


def _of(ledger: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = ledger.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _host(run: StoredRun) -> dict[str, Any]:
    environment = run.manifest().get("environment")
    found = environment if isinstance(environment, Mapping) else {}
    return {"processor": found.get("cpu_model"), "cores": found.get("cores")}


def _loads(runs: tuple[StoredRun, StoredRun], pairs: Sequence[tuple[Series, Series]]) -> list[str]:
    """What differs between loads of the same name; the rates of a search are its result."""
    specs = [run.specs() for run in runs]
    found = {}
    for pair in pairs:
        sides = [_load(own, specs[place]) for place, own in enumerate(pair)]
        for text in _apart(f"{pair[0].scenario}: ", *sides):
            # All targets of a scenario have its load.
            found[text] = None
    return list(found)


def _load(own: Series, specs: Mapping[tuple[int, str], CellSpec]) -> dict[str, Any]:
    spec = specs.get((int(own.first["round"]), str(own.first["cell"])))
    if spec is None:
        return {name: own.first.get(name) for name in ("kind", "arrivals", "rows", "concurrency", "slo_ms")}
    load = spec.load
    rates = [f"{step.rate:g}/s for {step.seconds:g} s" for step in load.steps]
    return {
        "kind": load.kind,
        "arrivals": load.arrivals,
        "cv": load.cv if load.arrivals == "gamma" else None,
        "rows": load.rows,
        "concurrency": load.concurrency if load.arrivals == "closed" else None,
        "slo_ms": spec.slo_ms,
        "duration": f"{load.seconds:g} s",
        "rates": "searched" if own.is_search else ", ".join(rates),
    }


def _apart(prefix: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Facts that differ; one that a side does not know differs from one that the other knows."""
    return [
        f"{prefix}{name}: {a.get(name, 'not known')} against {b.get(name, 'not known')}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _margins(runs: tuple[StoredRun, StoredRun]) -> list[Control]:
    """The A/A resolutions of each run."""
    return [within_run(run.cells(), {}, tier=run.tier).resolutions for run in runs]


def _margin(margins: Sequence[Control], scenario: str, metric: Metric) -> float:
    """The wider one; NaN where either run has no control."""
    return float(np.max([resolution_of(control, scenario, metric.name) for control in margins]))


def _values(series: Series, metric: Metric) -> Values:
    values = [series.value(number, metric.name) for number in series.valid_rounds()]
    return np.log([value for value in values if value is not None and value > 0])


def _why(a: Series, b: Series, metric: Metric, values: Sequence[Values], margins: Sequence[Control]) -> str:
    """Why there is no verdict on a pair of two whole, like runs; empty where there is one."""
    if a.stand_in != b.stand_in:
        return "another set of servers answered"
    for name, own, known in (("A", a, values[0]), ("B", b, values[1])):
        valid = own.valid_rounds()
        text = shortcoming(own, metric, sorted(own.rounds), valid)
        text = text or too_few(len(own.rounds), len(valid), len(known), metric)
        if text:
            return f"run {name}: {text}"
    return NO_CONTROL if math.isnan(_margin(margins, a.scenario, metric)) else ""


def _changes(
    pairs: Sequence[tuple[Series, Series]], margins: Sequence[Control], *, quick: bool, refused: bool
) -> list[Change]:
    rows = [(a, b, a.primary, _values(a, a.primary), _values(b, a.primary)) for a, b in pairs]
    whole = QUICK if quick else "the set-ups are unlike" if refused else ""
    why = [whole or _why(a, b, metric, (x, y), margins) for a, b, metric, x, y in rows]
    judged = [place for place, text in enumerate(why) if not text]
    p_values = [permutation_p(rows[place][3], rows[place][4]) for place in judged]
    adjusted = dict(zip(judged, zip(p_values, holm(p_values), strict=True), strict=True))
    return [
        Change(
            model=a.model,
            scenario=a.scenario,
            target=a.target,
            metric=metric,
            a=math.exp(x.mean()) if len(x) else None,
            b=math.exp(y.mean()) if len(y) else None,
            verdict=_verdict(x, y, metric, *adjusted[place], len(judged), _margin(margins, a.scenario, metric))
            if place in adjusted
            else None,
            why=why[place],
        )
        for place, (a, _, metric, x, y) in enumerate(rows)
    ]


def _verdict(x: Values, y: Values, metric: Metric, p: float, adjusted: float, family: int, aa: float) -> Verdict:
    # As if paired: the scatter of a difference of two means of as many rounds.
    spread = float(np.sqrt(x.var(ddof=1) + y.var(ddof=1)))
    return judge(
        two_sample_bootstrap(x, y),
        two_sample_bootstrap(x, y, level=0.9),
        p,
        adjusted,
        spread=spread,
        rounds=min(len(x), len(y)),
        family=family,
        aa=aa,
        higher_is_better=metric.higher_is_better,
    )
