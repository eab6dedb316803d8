"""A cell's line: figures of a known law, and VALID only where every limit is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from loadtests.analysis.cell import summarise
from loadtests.analysis.validity import LITTLE, limits_of
from loadtests.cell_spec import CellSpec, Load, Step
from loadtests.errors import LoadTestError
from tests.unit.loadtests.synthetic import Law, health_of, parity_of, resources_of, rows_of, server_load, target

SPEC = CellSpec("server-ts", target("ts"), "server", server_load(200, 60), slo_ms=50.0)


def _line(law: Law | None = None, spec: CellSpec = SPEC, tier: str = "run", **health: Any) -> dict[str, Any]:
    rows = rows_of(spec, law or Law())
    line = summarise(spec, rows, health_of(spec, rows, **health), resources_of(spec), parity_of(spec.target), tier=tier)
    return dict(json.loads(json.dumps(line, allow_nan=False)))


def test_a_sound_cell_is_valid_and_its_sums_agree() -> None:
    """Rates, outcomes and attainment are of what was scheduled."""
    line = _line()
    assert (line["valid"], line["reasons"], line["meets_slo"], line["stable"]) == (True, [], True, True)
    assert sum(line["outcomes"].values()) == line["scheduled"]
    assert line["achieved"] == pytest.approx(line["outcomes"]["ok"] / 60)
    assert line["goodput"] == pytest.approx(line["achieved"] * line["attainment"])
    assert (line["L"]["p999"], line["stand_in"], line["topology"]) == (None, False, "TS-REST")


def test_latency_runs_from_the_scheduled_instant_and_service_from_the_send() -> None:
    """L = D + S, in milliseconds."""
    line = _line(Law(lag_ms=0.1))
    assert line["L"]["mean"] == pytest.approx(line["S"]["mean"] + 0.1, abs=0.01)
    assert line["D"]["p50"] == pytest.approx(0.1 * np.log(2), rel=0.1)


def test_a_stall_is_in_the_response_time_of_all_who_waited() -> None:
    """One stall of 1.4 s in 60 s at 200 a second: p99 is near 1.4 s - 1 % of 60 s."""
    line = _line(Law(stall=(30.0, 1.4)))
    assert line["L"]["p99"] == pytest.approx(800, rel=0.1)
    assert line["L"]["p50"] < 5


def test_the_parts_of_a_gateway_s_reply_add_up() -> None:
    """Means of client, network, gateway and upstream make the whole; the overhead is request by request."""
    spec = replace(SPEC, target=target("gw", path="gateway"))
    line = _line(Law(gateway_ms=0.8), spec)
    parts = line["parts"]
    whole = sum(parts[name]["mean"] for name in ("client", "net", "decode", "queue", "encode", "compute"))
    assert whole == pytest.approx(line["L"]["mean"], rel=1e-4)
    assert parts["overhead"]["p50"] == pytest.approx(0.83, rel=0.1)
    assert _line()["parts"]["gw"] is None


def test_what_the_servers_used_together_is_in_the_line() -> None:
    """CPU seconds and peaks add up over gateway and server; what nobody measured is null and never zero."""
    spec = replace(SPEC, target=target("gw", path="gateway"))
    assert _line(Law(gateway_ms=0.8), spec)["cgroup"] == {"cpu_s": 37.0, "mem_peak": 1_010_000_000, "throttled": None}
    rows = rows_of(SPEC, Law())
    unseen = {"servers": [{"name": "server", "status": "not measured", "cpu_s": None}], "gpu": {"energy_j": None}}
    line = summarise(SPEC, rows, health_of(SPEC, rows), unseen, None)
    assert line["cgroup"] == {"cpu_s": None, "mem_peak": None, "throttled": None}
    assert (line["energy_j"], line["config"], line["cost_per_1m"]) == (None, "default", None)


def test_a_million_requests_cost_what_the_price_and_the_planned_use_make_of_them() -> None:
    """0.36 an hour, 200 good answers a second, half used: 100 in a second, a million in 10,000 s."""
    rows = rows_of(SPEC, Law())
    priced = {**resources_of(SPEC), "config": "tuned", "price_per_hour": 0.36, "utilisation": 0.5}
    line = summarise(SPEC, rows, health_of(SPEC, rows), priced, None)
    assert line["cost_per_1m"] == pytest.approx(1.0 * 200 / line["goodput"], rel=1e-3)
    assert line["config"] == "tuned"
    failing = rows_of(SPEC, Law(refused_share=1.0))
    assert summarise(SPEC, failing, health_of(SPEC, failing), priced, None)["cost_per_1m"] is None


def test_failures_are_counted_and_never_timed() -> None:
    """A tenth refused is a tenth of the objective missed; the percentiles are those of the rest."""
    line = _line(Law(refused_share=0.1))
    assert line["attainment"] == pytest.approx(0.9, abs=0.01)
    assert line["L"]["p50"] == pytest.approx(_line()["L"]["p50"], rel=0.05)
    assert (line["meets_slo"], line["failures"]) == (False, {"503 overloaded": line["outcomes"]["http_5xx"]})


def test_each_step_of_a_curve_has_its_own_figures() -> None:
    """Offered and achieved follow the steps."""
    load = Load("curve", "poisson", (Step(100, 30), Step(300, 30), Step(0, 5), Step(100, 30)))
    line = _line(spec=replace(SPEC, load=load))
    assert [round(step["offered"], -1) for step in line["steps"]] == [100, 300, 0, 100]
    assert line["steps"][2]["L"]["p50"] is None
    assert (line["valid"], line["stable"]) == (True, None)


def test_a_closed_loop_ends_with_its_last_answer() -> None:
    """The window of a closed loop is as long as the last answer took."""
    line = _line(spec=replace(SPEC, load=Load("single_stream", "closed", (Step(0, 60),))))
    assert line["T"] >= 60
    assert (line["rate_offered"], line["concurrency"], line["valid"]) == (None, 1, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cpu_max": 0.97}, "client: busiest second of a worker 0.97 of a core, limit at most 0.8 of a core"),
        ({"throttled": 3}, "client: throttled periods 3, limit at most 0"),
        ({"clock_step_ms": -7.5}, "client: clock step 7.5 ms, limit at most 5 ms"),
        ({"in_flight": [[t / 10, 9] for t in range(600)]}, "record: Little's law, N against X R"),
    ],
)
def test_a_breach_of_the_generator_is_named_with_its_limit(change: dict[str, Any], reason: str) -> None:
    """One reason, the value beside the limit, and nobody can tell whether the objective was missed."""
    line = _line(spec=replace(SPEC, slo_ms=0.01), **change)
    assert (line["valid"], len(line["reasons"]), line["meets_slo"]) == (False, 1, None)
    assert line["reasons"][0].startswith(reason)


def test_what_meets_the_objective_in_spite_of_a_late_generator_meets_it() -> None:
    """L counts from the scheduled instant, lateness included; a clock that was set says nothing."""
    assert (found := _line(cpu_max=0.97))["meets_slo"] is True
    assert not found["valid"]
    assert _line(clock_step_ms=7.5)["meets_slo"] is None


def test_few_samples_of_few_requests_under_way_do_not_break_little_s_law() -> None:
    """Where they scatter by more than a quarter they cannot tell, and the check is printed alone."""
    scattered = [[t / 10, 9 * (t % 40 == 0)] for t in range(600)]
    (law,) = (check for check in _line(in_flight=scattered)["checks"] if check["name"] == LITTLE)
    assert not law["binding"]
    steady = [[t / 10, 9] for t in range(600)]
    (law,) = (check for check in _line(in_flight=steady)["checks"] if check["name"] == LITTLE)
    assert (law["binding"], law["ok"]) == (True, False)


def test_a_short_lag_is_not_why_an_objective_is_missed() -> None:
    """A few milliseconds beside fifty; where the lag is as long as the objective nobody can tell."""
    slow, late = Law(median_ms=90, lag_ms=0.5), Law(median_ms=90, lag_ms=20)
    assert _line(slow)["reasons"][0].startswith("client: dispatch lag p99")
    assert (_line(slow)["meets_slo"], _line(late)["meets_slo"]) == (False, None)


@pytest.mark.parametrize(
    ("law", "reason"),
    [
        (Law(lag_ms=0.5), "client: dispatch lag p99"),
        (Law(wrong_share=0.01), "server: wrong answers"),
        (Law(stall=(45.0, 9.0)), "server: spread of the medians of three windows"),
    ],
)
def test_a_breach_of_the_record_is_named(law: Law, reason: str) -> None:
    """Late sends, wrong answers, a server that is not steady."""
    assert any(found.startswith(reason) for found in _line(law)["reasons"])


def test_rows_that_are_missing_are_noticed() -> None:
    """Neither the count nor the numbering of a torn record adds up."""
    rows = rows_of(SPEC, Law())
    torn = pa.concat_tables([rows.slice(0, 5000), rows.slice(5004)])
    line = summarise(SPEC, torn, health_of(SPEC, rows), None, None)
    assert line["reasons"] == ["record: requests without a record 4, limit at most 0"]


def test_a_short_cell_is_valid_for_a_quick_look_only() -> None:
    """Each tier has its own limits."""
    spec = replace(SPEC, load=server_load(200, 5, warm_up_seconds=3))
    assert _line(spec=spec, tier="quick")["valid"]
    reasons = _line(spec=spec)["reasons"]
    assert reasons[0] == "server: measured time 5 s, limit at least 60 s"
    with pytest.raises(LoadTestError, match="quick, run"):
        limits_of("slow")


def test_a_stand_in_is_marked_by_what_answered_or_by_what_was_expected() -> None:
    """Over gRPC no reply names its server; the target does."""
    own = target("tf", stack="tfserving", server="savedmodel-server 1.0 (stand-in)")
    assert _line(spec=replace(SPEC, target=own))["stand_in"] is True
    rows = rows_of(replace(SPEC, target=own), Law()).drop_columns(["server"])
    blank = rows.append_column("server", pa.nulls(rows.num_rows, pa.string()))
    line = summarise(replace(SPEC, target=own), blank, {}, None, None)
    assert (line["stand_in"], line["server"]) == (True, own.server)


def test_a_cell_without_one_answer_is_a_line_all_the_same() -> None:
    """A server that never answers gives nulls, counts and reasons."""
    line = _line(Law(refused_share=1.0))
    assert (line["achieved"], line["L"]["p50"], line["valid"]) == (0.0, None, False)
    rows = rows_of(SPEC, Law()).slice(0, 0)
    empty = summarise(SPEC, rows, {}, None, None)
    assert (empty["scheduled"], empty["valid"]) == (0, False)


def test_an_overload_says_what_was_kept_and_how_long_it_took_to_recover() -> None:
    """Capacity 500/s, offered 200, 400, 600, 200: most of the good answers are lost, and the queue takes its time."""
    load = Load("overload", "poisson", (Step(200, 20), Step(400, 20), Step(600, 20), Step(200, 40)))
    found = _line(Law(median_ms=2.0, sigma=0.05), replace(SPEC, load=load))["overload"]
    assert found["retention"] < 0.5
    # 600 - 500 a second for 20 s leave 2,000 that are worked off at 300 a second.
    assert found["recovery_s"] == pytest.approx(7, abs=3)
    assert _line()["overload"] is None


def test_arrivals_that_found_no_room_are_misses() -> None:
    """A server that leaves too many under way has missed the objective; the generator is not to blame for a search."""
    rows = rows_of(SPEC, Law())
    last = pa.array(np.arange(len(rows)) >= len(rows) - 200)
    nothing = pa.nulls(len(rows), pa.float64())
    outcome = pc.if_else(last, "dropped_by_client", rows["outcome"].cast(pa.string()))
    for name, values in (("t_snd", pc.if_else(last, nothing, rows["t_snd"])), ("outcome", outcome)):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    line = summarise(SPEC, rows, health_of(SPEC, rows), None, None)
    assert (line["meets_slo"], line["dropped"], line["valid"]) == (False, 200, False)


def test_a_server_that_stops_answering_is_not_steady() -> None:
    """Timeouts from 38 of 60 seconds on leave the last window empty, in an open loop and in a closed one."""
    for load in (server_load(200, 60), Load("offline", "closed", (Step(0, 60),), concurrency=4)):
        spec = replace(SPEC, load=load)
        rows = rows_of(spec, Law(median_ms=20.0 if load.arrivals == "closed" else 1.0))
        dead = pc.greater(rows["t_int"], 38.0)
        if load.arrivals == "closed":
            rows = rows.filter(pc.invert(dead))
        else:
            outcome = pc.if_else(dead, "timeout", rows["outcome"].cast(pa.string()))
            rows = rows.set_column(rows.column_names.index("outcome"), "outcome", outcome)
        line = summarise(spec, rows, health_of(spec, rows), None, None)
        assert (line["valid"], line["stable"]) == (False, False)
        assert "server: right answers in the emptiest of three windows 0, limit at least 6" in line["reasons"]


@pytest.mark.parametrize(
    ("load", "health", "reason"),
    [
        (server_load(200, 60), {}, "record: generator workers that gave an account 0, limit at least 1"),
        (server_load(200, 60, workers=2), None, "record: generator workers that gave an account 1, limit at least 2"),
        (Load("cold", "closed", (Step(0, 5),)), {}, "record: generator workers that gave an account 0"),
    ],
)
def test_a_cell_whose_generator_gave_no_account_is_invalid(load: Load, health: Any, reason: str) -> None:
    """Nobody knows whether it kept up, nor how much of the record is there."""
    spec = replace(SPEC, load=load)
    rows = rows_of(spec, Law(), warm_up=1000 if load.kind == "server" else 0)
    line = summarise(spec, rows, health_of(spec, rows) if health is None else health, None, None)
    assert (line["valid"], len(line["reasons"])) == (False, 1)
    assert line["reasons"][0].startswith(reason)


def test_a_record_without_its_end_mark_is_invalid() -> None:
    """The streams of a crashed generator."""
    rows = rows_of(SPEC, Law())
    line = summarise(SPEC, rows, health_of(SPEC, rows), None, None, torn=True)
    assert line["reasons"] == ["record: streams without their end mark 1, limit at most 0"]


@pytest.mark.parametrize("kind", ["offline", "overload", "cold"])
def test_a_cell_without_one_right_answer_is_invalid_whatever_its_kind(kind: Any) -> None:
    """Errors as such are a result, no answer at all is none."""
    load = server_load(200, 60) if kind == "overload" else Load("offline", "closed", (Step(0, 60),))
    spec = replace(SPEC, load=replace(load, kind=kind))
    for share, valid in ((1.0, False), (0.5, True)):
        line = _line(Law(median_ms=20.0 if kind != "overload" else 1.0, refused_share=share), spec)
        assert (line["valid"], "server: right answers 0, limit at least 1" in " ".join(line["reasons"])) == (
            valid,
            not valid and kind != "overload",
        )
