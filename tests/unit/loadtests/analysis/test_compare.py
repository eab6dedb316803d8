"""Which figures are set side by side, and when nothing may be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loadtests.analysis.compare import Findings, within_run
from loadtests.analysis.likeness import unlike
from loadtests.analysis.series import series_of

LIKE = {"golden_answers": "a" * 64, "payload_rows": "1", "payload_bytes_out": 200, "config": "default"}


def _line(number: int, target: str, p99: float, **changes: Any) -> dict[str, Any]:
    stack = "tfserving" if target.startswith("tf") else "torchserve"
    wire = "grpc" if "grpc" in target else "rest"
    path = "gateway" if target.startswith("gw") else "direct"
    return {
        "cell": f"s-{target}",
        "round": number,
        "model": "m",
        "scenario": "s",
        "kind": "server",
        "target": target,
        "stack": stack,
        "path": path,
        "variant": "v",
        "protocol": f"{stack}-{wire}" if path == "direct" else "predict",
        "upstream_protocol": f"{stack}-{wire}" if path == "gateway" else None,
        "server": stack,
        "stand_in": False,
        "control": None,
        "slo_ms": 50.0,
        "rate_offered": 100.0,
        "meets_slo": True,
        "valid": True,
        "steps": [],
        "achieved": 100.0,
        "goodput": 99.0,
        "L": {"p50": p99 / 3, "p90": p99 / 2, "p95": p99 / 1.5, "p99": p99, "max": p99 * 2},
        "resources": {"requests": 2000, "servers": [{"name": stack, "cpu_s": 3.0}]},
        **changes,
    }


def _lines(targets: dict[str, float], rounds: int = 8, **changes: Any) -> list[dict[str, Any]]:
    chance = np.random.default_rng(1)
    return [
        _line(number, name, p99 * math.exp(chance.normal(0, 0.01)), **changes)
        for number in range(rounds)
        for name, p99 in targets.items()
    ]


def _kinds(lines: Sequence[dict[str, Any]], **more: Any) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for item in _within(lines, more.get("ledger", {})).comparisons:
        found.setdefault(item.family, []).append((item.a.target, item.b.target))
    return found


def _ledger(**of: dict[str, Any]) -> dict[str, Any]:
    return {f"m/{name}": {"like": {**LIKE, **facts}} for name, facts in of.items()}


def _twin(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The A/A control of the first target: the same lines once more."""
    first = lines[0]["target"]
    return [
        {
            **line,
            "target": f"{first} (A/A)",
            "control": f"s-{first}",
            "cell": line["cell"].replace(f"s-{first}", f"s-{first}-AA"),
        }
        for line in lines
        if line["target"] == first
    ]


def _within(lines: Sequence[dict[str, Any]], ledger: dict[str, Any], **more: Any) -> Findings:
    """All comparisons but those of the control that is added."""
    if any(line["control"] for line in lines):
        return within_run(lines, ledger, **more)
    found = within_run([*lines, *_twin(lines)], ledger, **more)
    return replace(found, comparisons=tuple(item for item in found.comparisons if item.family != "control"))


def test_two_targets_are_compared_where_they_differ_in_one_thing() -> None:
    """Stacks, the gateway, protocols; what was there first is A; nothing is compared across two differences."""
    targets = {"ts": 10.0, "tf": 9.0, "ts grpc": 8.0, "gw": 12.0}
    assert _kinds(_lines(targets)) == {
        "stacks": [("ts", "tf")],
        "protocols": [("ts", "ts grpc")],
        "gateway": [("ts", "gw")],
    }


def test_a_gateway_is_compared_with_the_protocol_that_it_speaks_upstream() -> None:
    """REST in front and gRPC behind is two differences."""
    lines = _lines({"ts": 10.0}) + [_line(n, "gw", 12.0, upstream_protocol="torchserve-grpc") for n in range(8)]
    assert _kinds(lines) == {}


def test_variants_and_configurations_of_one_server_are_compared() -> None:
    """Another export, and the same one tuned."""
    lines = _lines({"ts": 10.0}) + [_line(n, "ts2", 9.0, variant="w") for n in range(8)]
    assert _kinds(lines) == {"variants": [("ts", "ts2")]}
    ledger = _ledger(ts={}, ts2={"config": "tuned"})
    assert _kinds(_lines({"ts": 10.0, "ts2": 9.0}), ledger=ledger) == {"configs": [("ts", "ts2")]}


def test_a_clear_gap_is_a_verdict_with_its_ratio() -> None:
    """B/A of the scenario's own figure first, of every other one beside it."""
    found = _within(_lines({"ts": 10.0, "tf": 8.0}), {}).comparisons[0]
    assert found.verdict is not None
    assert found.verdict.word == "faster"
    assert found.ratios[0].metric == "p99"
    assert found.ratios[0].interval.value == pytest.approx(0.8, rel=0.02)
    names = {ratio.metric for ratio in found.ratios}
    assert names == {"p50", "p90", "p95", "p99", "max", "achieved", "goodput", "cpu_per_1k"}
    assert found.to_json()["verdict"]["word"] == "faster"


def test_what_the_control_cannot_tell_apart_is_not_told_apart() -> None:
    """Twins 30 % apart make a gap of 20 % inconclusive."""
    twin = [_line(n, "ts (A/A)", 13.0, control="s-ts", cell="s-ts-AA") for n in range(8)]
    found = _within([*_lines({"ts": 10.0, "tf": 8.0}), *twin], {})
    assert [item.family for item in found.comparisons] == ["control", "stacks"]
    assert found.of("control")[0].verdict is None
    assert found.resolutions["s", "p99"] == pytest.approx(0.3, abs=0.03)
    verdict = found.of("stacks")[0].verdict
    assert verdict is not None
    assert verdict.word == "inconclusive"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stand_in": True}, "a stand-in answered"),
        ({"L": {"p50": 1.0, "p90": 1.0, "p95": 1.0, "p99": None, "max": 2.0}}, "0 valid rounds with enough samples"),
        ({"valid": False}, "8 of 8 rounds are invalid"),
    ],
)
def test_there_is_no_verdict_from_what_may_not_be_used(changes: dict[str, Any], why: str) -> None:
    """The reason is said instead."""
    lines = _lines({"ts": 10.0}) + [_line(n, "tf", 8.0, **changes) for n in range(8)]
    found = _within(lines, {}).comparisons[0]
    assert found.verdict is None
    assert found.why.startswith(why)


def test_a_stand_in_may_still_be_compared_with_itself() -> None:
    """Through the gateway against direct remains a claim."""
    found = _within(_lines({"ts": 10.0, "gw": 15.0}, stand_in=True), {}).comparisons
    assert [(item.family, item.verdict.word if item.verdict else "") for item in found] == [("gateway", "slower")]


def test_invalid_rounds_are_left_out_and_too_many_of_them_end_it() -> None:
    """One of ten is left out; three are a selection."""
    for bad, expected in ((1, ""), (3, "3 of 10 rounds are invalid")):
        lines = [
            {**line, "valid": line["round"] >= bad or line["target"] == "ts"}
            for line in _lines({"ts": 10.0, "tf": 8.0}, rounds=10)
        ]
        found = _within(lines, {}).comparisons[0]
        assert (found.left_out, found.why) == (bad, expected)


def test_five_rounds_and_a_quick_look_give_no_verdict() -> None:
    """Six rounds are needed, of a tier that lasts."""
    lines = _lines({"ts": 10.0, "tf": 8.0}, rounds=5)
    assert _within(lines, {}).comparisons[0].why == "5 valid rounds; a verdict needs 6"
    quick = _within(_lines({"ts": 10.0, "tf": 8.0}), {}, tier="quick").comparisons[0]
    assert (quick.verdict, quick.why) == (None, "a quick look gives figures, no verdict")
    assert quick.ratios[0].interval.value == pytest.approx(0.8, rel=0.02)


def test_unlike_ledgers_are_refused_and_named_unless_allowed() -> None:
    """The findings then list what was allowed."""
    lines, ledger = _lines({"ts": 10.0, "tf": 8.0}), _ledger(ts={}, tf={"golden_answers": "b" * 64})
    refused = _within(lines, ledger)
    assert refused.comparisons[0].verdict is None
    differ = "golden_answers: aaaaaaaaaaaa… against bbbbbbbbbbbb…"
    assert refused.comparisons[0].why.startswith(f"the ledgers differ ({differ})")
    allowed = _within(lines, ledger, allow_unlike=True)
    assert allowed.comparisons[0].verdict is not None
    assert allowed.allowed == (differ,)


@pytest.mark.parametrize(
    ("family", "a", "b", "differ"),
    [
        ("stacks", {"torchserve.cpus": "0-1"}, {"tfserving.cpus": "0-3"}, ["server.cpus: 0-1 against 0-3"]),
        (
            "stacks",
            {"torchserve.cpus": "0-1"},
            {"tfserving.threads": 2},
            ["server.cpus: 0-1 against not known"],
        ),
        ("stacks", {"payload_bytes_out": 215}, {}, []),
        ("stacks", {"payload_bytes_out": 260}, {}, []),
        ("stacks", {"payload_bytes_out": 290}, {}, ["payload_bytes_out: 290 against 200"]),
        ("gateway", {"payload_bytes_out": 260}, {"gateway.slots": 4}, []),
        ("protocols", {"payload_bytes_out": 260}, {}, []),
        ("stacks", {"golden_answers": None}, {}, [f"golden_answers: not known against {'a' * 12}…"]),
        (
            "stacks",
            {"golden_answers": None},
            {"golden_answers": None},
            ["golden_answers: not known of either"],
        ),
        ("gateway", {"golden_answers": None}, {"golden_answers": None}, []),
        ("runs", {"torchserve.OMP_NUM_THREADS": "1"}, {}, ["server.OMP_NUM_THREADS: 1 against default"]),
        ("stacks", {"torchserve.cpu_limit": 2.0}, {"tfserving.nice": 0}, ["server.cpu_limit: 2.0 against default"]),
        ("stacks", {"torchserve.nice": 5}, {"tfserving.memory_limit": None}, ["server.nice: 5 against 0"]),
        ("runs", {"torchserve.jobQueueSize": 9}, {}, ["server.jobQueueSize: 9 against not known"]),
        ("stacks", {"torchserve.jobQueueSize": 9}, {"tfserving.rest_threads": "default"}, []),
        (
            "stacks",
            {"torchserve.batchSize": 8, "torchserve.maxBatchDelay": 5, "torchserve.maxWorkers": 2},
            {"tfserving.batching": "default"},
            ["server.batch_size: 8 against 1"],
        ),
        (
            "stacks",
            {"torchserve.batchSize": 8, "torchserve.maxBatchDelay": 5, "torchserve.maxWorkers": 2},
            {
                "tfserving.batching": "true",
                "tfserving.batching_file": "b",
                "tfserving.max_batch_size": 8,
                "tfserving.batch_timeout_micros": 1000,
                "tfserving.num_batch_threads": 2,
            },
            ["server.batch_delay_ms: 5 against 1.0"],
        ),
        ("stacks", {"torchserve.batchSize": 1, "torchserve.maxBatchDelay": 5}, {"tfserving.batching": "default"}, []),
        (
            "runs",
            {"torchserve.batchSize": 1},
            {"torchserve.batchSize": 8},
            ["server.batchSize: 1 against 8", "server.batch_size: 1 against 8"],
        ),
        ("configs", {"torchserve.batchSize": 1}, {"torchserve.batchSize": 8}, []),
        ("stacks", {"tuning_trials": 20}, {"tuning_trials": 5}, ["tuning_trials: 20 against 5"]),
        ("stacks", {"tuning_trials": None}, {"tuning_trials": None}, ["tuning_trials: not known of either"]),
        ("stacks", {"tuning_trials": 20}, {"tuning_trials": 20}, []),
        ("configs", {"tuning_trials": 20}, {}, []),
    ],
)
def test_what_must_be_alike_depends_on_what_is_compared(
    family: Any, a: dict[str, Any], b: dict[str, Any], differ: list[str]
) -> None:
    """Facts of a server are compared by their own names; what only one side knows is a difference."""
    assert unlike({"like": {**LIKE, **a}}, {"like": {**LIKE, **b}}, family) == differ


def test_a_search_is_compared_by_the_rate_it_found() -> None:
    """lambda* of each round, more being better."""
    lines = []
    for number in range(8):
        for name, limit in (("ts", 200.0), ("tf", 400.0)):
            for attempt, rate in enumerate((100.0, 200.0, 400.0, 800.0), 1):
                cell = {"cell": f"s-{name}-try{attempt:02}", "rate_offered": rate, "meets_slo": rate <= limit}
                lines.append(_line(number, name, 10.0, **cell))
    series = series_of(lines)
    assert [(own.is_search, own.value(0, "lambda"), own.primary.name) for own in series] == [
        (True, 200.0, "lambda"),
        (True, 400.0, "lambda"),
    ]
    verdict = _within(lines, {}).comparisons[0].verdict
    assert verdict is not None
    assert (verdict.word, verdict.ratio.value) == ("faster", pytest.approx(2.0))


def test_without_a_control_there_is_no_verdict() -> None:
    """Nor with one that has five rounds of eight."""
    lines = _lines({"ts": 10.0, "tf": 8.0})
    for twin in ([], [line for line in _twin(lines) if line["round"] < 5]):
        found = within_run([*lines, *twin], {}).of("stacks")[0]
        assert (found.verdict, found.why.partition(",")[0]) == (
            None,
            "no A/A control with 5 valid rounds and four fifths of all",
        )


def test_of_six_rounds_the_control_may_lose_one_and_the_targets_none() -> None:
    """What a control cannot tell apart is an interval, which five rounds have; a p-value below 5 % needs six."""

    def invalid_in_first(name: str) -> str:
        lines = _lines({"ts": 10.0, "tf": 8.0}, rounds=6)
        lines += _twin(lines)
        own = [{**line, "valid": line["round"] > 0 or line["target"] != name} for line in lines]
        found = within_run(own, {}).of("stacks")[0]
        return found.verdict.word if found.verdict else found.why

    assert invalid_in_first("ts (A/A)") == "faster"
    assert invalid_in_first("tf").endswith("a verdict needs 6: with 6 rounds none may be lost, with 8 or more one may")


def test_a_server_that_fails_is_never_called_faster_for_it() -> None:
    """Response times are of right answers; one round with 2 % of failures ends it, one with 0.05 % does not."""
    for bad, why in (
        (40, "tf gave no right answer to 2 % of a round's requests; p99 response time is of the rest"),
        (1, ""),
    ):
        lines = [
            {**line, "outcomes": {"ok": 2000 - lost, "http_5xx": lost}}
            for line in _lines({"ts": 10.0, "tf": 8.0})
            for lost in [bad if line["target"] == "tf" and line["round"] == 3 else 0]
        ]
        found = _within(lines, {}).comparisons[0]
        assert (found.why, found.verdict is None) == (why, bool(why))
    offline = [{**line, "kind": "offline"} for line in lines]
    assert _within(offline, {}).comparisons[0].verdict is not None


def test_a_round_without_its_figure_is_left_out_and_counted() -> None:
    """One of eight lacks p99, then three of ten; a rate of zero is a result, and has no ratio."""
    blank = {"p50": 1.0, "p90": 1.0, "p95": 1.0, "p99": None, "max": 2.0}
    for rounds, bad, why in (
        (8, 1, ""),
        (10, 3, "3 of 10 rounds are left out: 0 are invalid, the others lack figures"),
    ):
        lines = [
            {**line, "L": blank} if line["target"] == "tf" and line["round"] < bad else line
            for line in _lines({"ts": 10.0, "tf": 8.0}, rounds=rounds)
        ]
        found = _within(lines, {}).comparisons[0]
        assert (found.left_out, found.why) == (bad, why)
    lines = [
        _line(number, name, 9.0, kind="overload", goodput=0.0 if name == "tf" and number > 5 else 100.0)
        for number in range(8)
        for name in ("ts", "tf")
    ]
    found = _within(lines, {}).comparisons[0]
    assert (found.left_out, found.verdict) == (2, None)
    assert found.why.endswith("of tf is zero in 2 of 8 rounds, which has no ratio")


@pytest.mark.parametrize("above", [None, True])
def test_a_rate_that_only_the_generator_ended_is_at_least_that(above: bool | None) -> None:
    """The next faster try was held up, or there was none."""
    lines = []
    for number in range(8):
        for name in ("ts", "tf"):
            for attempt, (rate, met) in enumerate(((4000.0, True), (8000.0, above), (4200.0, above)), 1):
                cell = {"cell": f"s-{name}-try{attempt:02}", "rate_offered": rate, "meets_slo": met}
                lines.append(_line(number, name, 10.0, valid=met is True, **cell))
    found = _within(lines, {}).comparisons[0]
    assert (found.verdict, found.a.valid(0), found.a.open_ended(0)) == (None, False, True)
    assert found.why == "the generator, not the server, ended the search of ts: the rate is at least that"
