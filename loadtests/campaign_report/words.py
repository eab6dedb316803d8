"""How figures and verdicts are said: numbers with units and intervals, sentences in plain words."""

from __future__ import annotations

import math

from loadtests.analysis.compare import Comparison
from loadtests.analysis.likeness import Family
from loadtests.analysis.series import METRICS, Series
from loadtests.analysis.statistics import Interval
from loadtests.words import NONE, number

FAMILIES: dict[Family, str] = {
    "stacks": "Stack against stack",
    "gateway": "Through the gateway against direct",
    "variants": "Variant against variant",
    "protocols": "gRPC against REST",
    "configs": "Configuration against configuration",
    "control": "A/A control",
}
PROTOCOLS = {
    "predict": "/predict",
    "oip-rest": "OIP REST",
    "oip-grpc": "OIP gRPC",
    "tfserving-rest": "TF Serving REST",
    "tfserving-grpc": "TF Serving gRPC",
    "torchserve-rest": "TorchServe REST",
    "torchserve-grpc": "TorchServe gRPC",
}


def with_interval(found: Interval | None) -> str:
    """A figure with its 95 % interval; the figure alone where one round gives no interval."""
    if found is None:
        return NONE
    return f"{number(found.value)} {interval(found)}".rstrip()


def interval(found: Interval | None) -> str:
    """The interval alone, in brackets; empty where there is none."""
    if found is None or math.isnan(found.low) or found.low == found.high:
        return ""
    return f"({number(found.low)} to {number(found.high)})"


def caveat(series: Series, metric: str) -> str:
    """What the figure of the shown rounds does not say by itself; empty where it says all."""
    rounds = series.shown_rounds()
    if metric == "lambda" and any(series.open_ended(number) for number in rounds):
        return "at least: the generator ended the search"
    late = series.unrecovered(rounds) if metric == "recovery" else 0
    return f"not seen to recover in {late} of {len(rounds)} rounds" if late else ""


def share(value: float | None, digits: int = 3) -> str:
    """A share of 1 in per cent; what rounds to all or nothing without being it is not shown as that."""
    if value is None or math.isnan(value):
        return NONE
    if 0.9995 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.{digits}g} %"


def rounds_of(count: int) -> str:
    """So many rounds, in words."""
    return "1 round" if count == 1 else f"{count} rounds"


def times(found: Interval) -> str:
    """A ratio with its interval."""
    if math.isnan(found.low):
        return f"{found.value:.3g} times"
    return f"{found.value:.3g} times (95 %: {found.low:.3g} to {found.high:.3g})"


def who(series: Series, *, target: bool = True) -> str:
    """A side of a comparison: target and the server that answered."""
    server = str(series.first["server"])
    if not target:
        return server or series.target
    return f"{series.target} ({server})" if server and server != series.target else series.target


def _side(series: Series, family: Family) -> str:
    """A side of a sentence; where variants are compared the variant comes first."""
    variant, server = series.first.get("variant"), series.first["server"]
    if family != "variants" or not variant:
        return who(series)
    return f"{variant} on {server or series.identity} ({series.target})"


def where(found: Comparison) -> str:
    """What the comparison is about."""
    return (
        f"{found.model}, {found.scenario}, {PROTOCOLS.get(str(found.b.first['protocol']), found.b.first['protocol'])}"
    )


def sentence(found: Comparison) -> str:
    """The comparison in plain words, with what failed and what did not recover on either side."""
    return " ".join([_said(found), *_shortcomings(found)])


def _shortcomings(found: Comparison) -> list[str]:
    rounds = len(found.rounds)
    told = []
    for own in (found.a, found.b):
        lost = sum(own.failed_share(number) for number in found.rounds) / rounds if rounds else 0.0
        if lost:
            told.append(f"{own.target} gave no right answer to {share(lost, 2)} of the requests.")
        late = own.unrecovered(found.rounds)
        if late:
            told.append(f"{own.target} was not seen to recover in {late} of {rounds} rounds.")
    return told


def _said(found: Comparison) -> str:
    metric = METRICS[found.metric.name]
    # Where there are too few samples for the scenario's own figure, the first that both sides have.
    main = found.ratios[0] if found.ratios else None
    a, b = (_side(own, found.family) for own in (found.a, found.b))
    ratio = (
        f"{METRICS[main.metric].title} {times(main.interval)} that of {a}" if main else f"no figure in common with {a}"
    )
    if found.verdict is None:
        return f"{b}: {ratio}. No verdict: {found.why}."
    verdict = found.verdict
    base = f"over {verdict.rounds} rounds, Holm-adjusted p = {verdict.p_adjusted:.2g}"
    match verdict.word:
        case "faster" | "slower":
            ratio = f"its {metric.title} is {times(verdict.ratio)} that of the other"
            return f"{b} is {verdict.word} than {a}: {ratio}, {base}."
        case "equivalent":
            return f"{b} and {a} are equivalent: {metric.title} {times(verdict.ratio)}, within ±5 %, {base}."
    needed = verdict.rounds_needed
    more = f"about {needed} rounds would settle it" if needed else "more rounds of this kind would hardly settle it"
    return f"Inconclusive between {b} and {a}: {metric.title} {times(verdict.ratio)}, {base}; {more}."


def word(found: Comparison) -> str:
    """One word for a table."""
    return found.verdict.word if found.verdict else "no verdict"
