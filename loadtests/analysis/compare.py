"""Comparisons within a run: which figures may be set side by side, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from loadtests.analysis.cell import MAX_ERRORS
from loadtests.analysis.likeness import Family, unlike
from loadtests.analysis.samples import Values
from loadtests.analysis.series import METRICS, Line, Metric, Series, series_of
from loadtests.analysis.statistics import (
    MIN_CONTROL_ROUNDS,
    MIN_ROUNDS,
    Interval,
    Verdict,
    bootstrap_mean,
    paired_verdicts,
    resolution,
)
from loadtests.store.stored import target_key

# With more rounds left out than this, what is left is a selection.
_MAX_LEFT_OUT = 0.2
Control = Mapping[tuple[str, str], float]
QUICK = "a quick look gives figures, no verdict"
NO_CONTROL = (
    f"no A/A control with {MIN_CONTROL_ROUNDS} valid rounds and four fifths of all, so nobody knows what differs here "
    "by itself"
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """B/A of one figure over the `rounds` that have it on both sides, with its 95 % interval; one has NaN ends."""

    metric: str
    interval: Interval
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """JSON types only; an end that is not known is null."""
        ends = {name: _finite(getattr(self.interval, name)) for name in ("value", "low", "high")}
        return {"metric": self.metric, **ends, "rounds": self.rounds}


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A in one scenario with one model.

    `ratios` are of every figure both sides have, the one that the verdict is about first. Without a `verdict`, `why`
    says why. `unlike` lists what differs between the ledgers; where it is not empty and there is a verdict, the user
    asked for it. `stand_in` says that a side is one: such a pair may still say something of itself.
    """

    family: Family
    model: str
    scenario: str
    a: Series
    b: Series
    metric: Metric
    rounds: tuple[int, ...]
    left_out: int
    ratios: tuple[Ratio, ...]
    verdict: Verdict | None = None
    why: str = ""
    unlike: tuple[str, ...] = ()
    stand_in: bool = False
    resolution: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "family": self.family,
            "model": self.model,
            "scenario": self.scenario,
            "a": self.a.target,
            "b": self.b.target,
            "metric": self.metric.name,
            "rounds": len(self.rounds),
            "left_out": self.left_out,
            "ratios": [ratio.to_json() for ratio in self.ratios],
            "verdict": self.verdict.to_json() if self.verdict else None,
            "why": self.why,
            "unlike": list(self.unlike),
            "stand_in": self.stand_in,
            "resolution": _finite(self.resolution),
        }


@dataclass(frozen=True, slots=True)
class Findings:
    """All comparisons of a run, A/A controls among them.

    `allowed` lists what differs between ledgers that were compared on request. `resolutions` are the A/A controls', as
    shares, by (scenario, metric).
    """

    comparisons: tuple[Comparison, ...]
    allowed: tuple[str, ...] = ()
    resolutions: Control = field(default_factory=dict)

    def of(self, *families: Family) -> list[Comparison]:
        """The comparisons of some families, in order."""
        return [found for found in self.comparisons if found.family in families]


def within_run(
    lines: Iterable[Line], ledger: Mapping[str, Any], *, tier: str = "run", allow_unlike: bool = False
) -> Findings:
    """Stacks, gateway against direct, variants, protocols, configurations and the A/A controls of one run.

    A verdict is about the scenario's own figure, paired by round; Holm corrects within each family. Rounds in which
    either side is invalid or has no figure are left out, except for the figures of a pair that has no other. There is
    no verdict in the tier `quick`, where fewer than six rounds are left or more than a fifth was left out, without an
    A/A control of five rounds, on response times where more than 0.1 % of a round's requests failed, on a figure that
    is zero, between stacks where a stand-in answered, or where the ledgers differ and `allow_unlike` does not ask for
    it.
    """
    series = series_of(lines)
    pairs = list(_pairs(series, ledger))
    control: dict[tuple[str, str], float] = {}
    for pair in pairs:
        for metric in METRICS if pair[0] == "control" else ():
            value, key = _resolution(pair, metric), (pair[1].scenario, metric)
            if not math.isnan(value):
                control[key] = max(value, control.get(key, 0.0))
    found = [
        _comparison(family, a, b, ledger, tier=tier, allow_unlike=allow_unlike, control=control)
        for family, a, b in pairs
    ]
    judged = _judged(found)
    allowed = dict.fromkeys(text for item in judged if item.verdict for text in item.unlike)
    return Findings(tuple(judged), tuple(allowed), control)


def resolution_of(control: Control, scenario: str, metric: str) -> float:
    """The A/A resolution of a scenario, of the worst one that has a control where it has none; NaN without any."""
    if (scenario, metric) in control:
        return control[scenario, metric]
    return max((value for (_, name), value in control.items() if name == metric), default=math.nan)


def log_ratios(a: Series, b: Series, metric: str, rounds: Sequence[int]) -> Values:
    """ln B - ln A of each round that has both figures; a figure that is zero has no logarithm and is none."""
    pairs = [(a.value(number, metric), b.value(number, metric)) for number in rounds]
    return np.array([math.log(y / x) for x, y in pairs if x and y and x > 0 and y > 0])


def _resolution(pair: tuple[Family, Series, Series], metric: str) -> float:
    every = pair[1].rounds.keys() | pair[2].rounds.keys()
    values = log_ratios(pair[1], pair[2], metric, _both_valid(pair[1], pair[2]))
    enough = len(values) >= MIN_CONTROL_ROUNDS and len(every) - len(values) <= _MAX_LEFT_OUT * len(every)
    return resolution(values) if enough else math.nan


def _both_valid(a: Series, b: Series) -> list[int]:
    return [number for number in sorted(a.rounds.keys() & b.rounds.keys()) if a.valid(number) and b.valid(number)]


def _comparison(
    family: Family,
    a: Series,
    b: Series,
    ledger: Mapping[str, Any],
    *,
    tier: str,
    allow_unlike: bool,
    control: Control,
) -> Comparison:
    metric = a.primary
    shared = sorted(a.rounds.keys() & b.rounds.keys())
    valid = _both_valid(a, b)
    # Without one valid round there is something to look at, and no verdict.
    rounds = valid or shared
    names = dict.fromkeys([metric.name, *METRICS])
    ratios = []
    for name in names:
        values = log_ratios(a, b, name, rounds)
        if len(values):
            mean = bootstrap_mean(values)
            ends = Interval(*(math.exp(end) for end in (mean.value, mean.low, mean.high)))
            ratios.append(Ratio(name, ends, len(values)))
    differences = tuple(unlike(_entry(ledger, a), _entry(ledger, b), family))
    count = len(log_ratios(a, b, metric.name, valid))
    resolved = resolution_of(control, a.scenario, metric.name)
    stand_in = a.stand_in or b.stand_in
    why = ""
    if family == "control":
        why = "an A/A control: the same target twice"
    elif tier != "run":
        why = QUICK
    elif family == "stacks" and stand_in:
        why = "a stand-in answered: its speed says nothing of the server that it stands for"
    elif differences and not allow_unlike:
        why = f"the ledgers differ ({'; '.join(differences)}); --allow-unlike compares them all the same"
    else:
        sides = [shortcoming(own, metric, shared, valid) for own in (a, b)]
        few = too_few(len(shared), len(valid), count, metric)
        why = sides[0] or sides[1] or few or (NO_CONTROL if math.isnan(resolved) else "")
    return Comparison(
        family=family,
        model=a.model,
        scenario=a.scenario,
        a=a,
        b=b,
        metric=metric,
        rounds=tuple(rounds),
        left_out=len(shared) - count,
        ratios=tuple(ratios),
        why=why,
        unlike=differences,
        stand_in=stand_in,
        resolution=resolved,
    )


def shortcoming(own: Series, metric: Metric, rounds: Sequence[int], valid: Sequence[int]) -> str:
    """Why nothing may be said of a side, whatever the other one did; empty where something may."""
    if sum(own.open_ended(number) for number in rounds) > _MAX_LEFT_OUT * len(rounds):
        return f"the generator, not the server, ended the search of {own.target}: the rate is at least that"
    return _failing(own, metric, valid)


def too_few(rounds: int, valid: int, count: int, metric: Metric) -> str:
    """Why `count` figures of `valid` rounds of all `rounds` are too few, or a selection; empty where they suffice."""
    if rounds - valid > _MAX_LEFT_OUT * rounds:
        return f"{rounds - valid} of {rounds} rounds are invalid"
    if count < MIN_ROUNDS:
        lacking = "" if count == valid else f" with enough samples for {metric.title}"
        spare = f": with {rounds} rounds none may be lost, with 8 or more one may" if rounds >= MIN_ROUNDS else ""
        return f"{count} valid rounds{lacking}; a verdict needs {MIN_ROUNDS}{spare}"
    if rounds - count > _MAX_LEFT_OUT * rounds:
        return (
            f"{rounds - count} of {rounds} rounds are left out: {rounds - valid} are invalid, the others lack figures"
        )
    return ""


def _failing(own: Series, metric: Metric, rounds: Sequence[int]) -> str:
    """Why a server's own failures forbid a verdict on a figure in these rounds; empty where they do not."""
    zeros = sum(own.value(number, metric.name) == 0 for number in rounds)
    if zeros:
        return f"{metric.title} of {own.target} is zero in {zeros} of {len(rounds)} rounds, which has no ratio"
    worst = max((own.failed_share(number) for number in rounds), default=0.0)
    if metric.of_right_answers and worst > MAX_ERRORS:
        lost = f"{own.target} gave no right answer to {100 * worst:.2g} % of a round's requests"
        return f"{lost}; {metric.title} is of the rest"
    return ""


def _judged(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm is over each family: what asks one question."""
    judged = list(found)
    for family in dict.fromkeys(item.family for item in found):
        places = [place for place, item in enumerate(found) if item.family == family and not item.why]
        values = [
            log_ratios(found[place].a, found[place].b, found[place].metric.name, found[place].rounds)
            for place in places
        ]
        verdicts = paired_verdicts(
            values,
            aa=[found[place].resolution for place in places],
            higher_is_better=[found[place].metric.higher_is_better for place in places],
        )
        for place, verdict in zip(places, verdicts, strict=True):
            judged[place] = replace(found[place], verdict=verdict)
    return judged


def _pairs(series: Sequence[Series], ledger: Mapping[str, Any]) -> Iterator[tuple[Family, Series, Series]]:
    """Which series are compared, and what the comparison is about: they differ in one thing."""
    by_cell = {str(own.first["cell"]): own for own in series}
    for own in series:
        twin = own.first.get("control")
        # A search's twin is named by its cell, whose tries carry a number.
        other = by_cell.get(str(twin)) or by_cell.get(f"{twin}-try01") or by_cell.get(f"{twin}-try00")
        if twin and other:
            yield "control", other, own
    real = [own for own in series if not own.first.get("control")]
    # A stack is represented by the variant that the campaign names first: pairs of all with all would only bury it.
    leading: dict[tuple[str, str, str], str] = {}
    for own in real:
        leading.setdefault((own.model, own.scenario, own.identity), str(own.first["variant"]))
    for place, a in enumerate(real):
        for b in real[place + 1 :]:
            if (a.model, a.scenario) != (b.model, b.scenario):
                continue
            family = _family(a, b, ledger)
            if family == "stacks" and any(
                leading[own.model, own.scenario, own.identity] != own.first["variant"] for own in (a, b)
            ):
                continue
            if family is not None:
                yield family, *_ordered(family, a, b)


def _family(a: Series, b: Series, ledger: Mapping[str, Any]) -> Family | None:
    same = {
        "stacks": a.identity == b.identity,
        "gateway": a.first["path"] == b.first["path"],
        "variants": a.first["variant"] == b.first["variant"],
        "protocols": a.transport == b.transport,
        "configs": _config(ledger, a) == _config(ledger, b),
    }
    differ = [name for name, alike in same.items() if not alike]
    if "stacks" in differ:
        # Another stack serves another export by nature.
        differ = [name for name in differ if name != "variants"]
    if len(differ) != 1:
        return None
    if differ == ["gateway"] and not _same_upstream(a, b):
        return None
    if differ != ["gateway"] and bool(a.first.get("upstream_protocol")) != bool(b.first.get("upstream_protocol")):
        # Of one it is known what the gateway speaks behind it, of the other that is the gateway's to choose.
        return None
    return differ[0]  # type: ignore[return-value]  # a key of `same`


def _same_upstream(a: Series, b: Series) -> bool:
    direct, via = (a, b) if a.first["path"] == "direct" else (b, a)
    upstream = via.first.get("upstream_protocol")
    return upstream in (None, "", direct.first["protocol"])


def _ordered(family: Family, a: Series, b: Series) -> tuple[Series, Series]:
    """A is what was there first: direct, REST, the default configuration, TorchServe."""
    turned = {
        "gateway": a.first["path"] == "gateway",
        "protocols": a.transport == "grpc",
        "stacks": (b.identity, a.identity) == ("torchserve", "tfserving"),
    }.get(family, False)
    return (b, a) if turned else (a, b)


def _entry(ledger: Mapping[str, Any], series: Series) -> Mapping[str, Any]:
    found = ledger.get(target_key(series.model, series.target, series.first.get("control")), {})
    return found if isinstance(found, Mapping) else {}


def _config(ledger: Mapping[str, Any], series: Series) -> str:
    return str(_entry(ledger, series).get("like", {}).get("config") or "default")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
