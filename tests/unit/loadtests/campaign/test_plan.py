"""What is measured, in which order, and for how long."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from loadtests.campaign.plan import OVERHEAD_S, check_memory, is_search, plan_of, seconds_of
from loadtests.campaign.quick import quick_campaign
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.settings import Campaign
from loadtests.cell_spec import CellSpec, at_rate
from loadtests.errors import LoadTestError
from tests.unit.loadtests.campaign.worlds import campaign_text, target

TARGETS = {"toy": [target("a"), target("b"), target("c")]}


def campaign(**changes: Any) -> Campaign:
    """The small campaign, changed."""
    return campaign_of(campaign_text("127.0.0.1:1", **changes), "c.yaml")


def scenario(**fields: Any) -> list[dict[str, Any]]:
    """One scenario."""
    return [{"name": "s", **fields}]


def test_every_round_has_every_cell_in_an_order_of_its_own() -> None:
    """Interleaved, not first one target and then the other; the A/A control among them."""
    plan = plan_of(campaign(rounds=8), TARGETS)
    orders = [tuple(cell.slug for cell in plan.round(number)) for number in range(8)]
    assert {frozenset(order) for order in orders} == {frozenset(orders[0])}
    assert len(orders[0]) == 4
    assert len(set(orders)) > 4
    assert [cell.order_in_round for cell in plan.round(3)] == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_plan() -> None:
    """And another seed another order."""
    assert plan_of(campaign(), TARGETS) == plan_of(campaign(), TARGETS)
    orders = {tuple(cell.slug for cell in plan_of(campaign(seed=seed, rounds=1), TARGETS).cells) for seed in range(9)}
    assert len(orders) > 3


def test_all_targets_of_a_scenario_and_round_have_the_same_seeds() -> None:
    """So that they get the same instants and the same questions."""
    cells = plan_of(campaign(), TARGETS).round(1)
    assert {(cell.campaign_seed, cell.scenario_index, cell.round) for cell in cells} == {(7, 0, 1)}


def test_the_control_is_a_target_under_a_second_name() -> None:
    """It names the cell that it repeats, and differs from it in names alone."""
    cells = plan_of(campaign(rounds=1), TARGETS).cells
    control = next(cell for cell in cells if cell.control)
    twin = next(cell for cell in cells if cell.slug == control.control)
    assert control.target.name == f"{twin.target.name} (A/A)"
    assert (control.target.address, control.load, control.slo_ms) == (twin.target.address, twin.load, twin.slo_ms)


def test_names_become_file_names_that_never_meet() -> None:
    """Whatever a name holds, and however alike two are."""
    named = {
        "toy": [
            target("<script>/../x"),
            target("<script>\\..\\x"),
            target("../.."),
            target("é"),
            target("A"),
            target("a"),
        ]
    }
    slugs = [cell.slug for cell in plan_of(campaign(rounds=1), named).cells]
    assert len({slug.lower() for slug in slugs}) == len(slugs) == 7
    assert not any(set(slug) & set("/\\<>é ") for slug in slugs)


@pytest.mark.parametrize(
    ("fields", "rates", "arrivals"),
    [
        ({"kind": "server", "rate": 40, "duration_s": 5}, [(40, 5)], "poisson"),
        ({"kind": "server", "rate": 40, "duration_s": 5, "arrivals": "constant"}, [(40, 5)], "constant"),
        (
            {"kind": "curve", "rates": [10, 20, 40], "duration_s": 5},
            [(10, 5), (20, 5), (40, 5), (20, 5), (10, 5)],
            "poisson",
        ),
        ({"kind": "overload", "rate": 10, "duration_s": 5}, [(5, 5), (10, 5), (15, 5), (5, 5)], "poisson"),
        ({"kind": "burst", "rate": 10, "duration_s": 5}, [(10, 5)], "gamma"),
        ({"kind": "offline", "duration_s": 5}, [(0, 5)], "closed"),
        ({"kind": "single_stream", "duration_s": 5}, [(0, 5)], "closed"),
        ({"kind": "soak", "rate": 10, "duration_s": 900}, [(10, 900)], "poisson"),
    ],
)
def test_each_kind_has_its_own_load(fields: dict[str, Any], rates: list[tuple[float, float]], arrivals: str) -> None:
    """Steps as rate and seconds, and how arrivals are spread."""
    load = plan_of(campaign(scenarios=scenario(**fields)), TARGETS).cells[0].load
    assert [(step.rate, step.seconds) for step in load.steps] == rates
    assert load.arrivals == arrivals


def test_rows_make_a_scenario_each() -> None:
    """The payload is one of the dimensions of the matrix; eight rows are usual in a multi stream."""
    cells = plan_of(campaign(rounds=1, scenarios=scenario(kind="server", rate=9, rows=[1, 16])), TARGETS).cells
    assert Counter((cell.scenario, cell.load.rows) for cell in cells) == {("s rows=1", 1): 4, ("s rows=16", 16): 4}
    assert plan_of(campaign(scenarios=scenario(kind="multi_stream")), TARGETS).cells[0].load.rows == 8


def test_a_mixed_scenario_asks_one_server_for_every_model_at_once() -> None:
    """By targets of the same name; a server with one of the models has no such cell."""
    text = campaign_text("127.0.0.1:1", models=["toy", "toy2"], scenarios=scenario(kind="mixed", rate=10), rounds=1)
    mixed = {"toy": [target("a"), target("b")], "toy2": [target("a")]}
    cells = [cell for cell in plan_of(campaign_of(text, "c"), mixed).cells if not cell.control]
    assert [(cell.target.name, len(cell.others)) for cell in cells] == [("a", 1)]


def test_only_servers_that_can_be_restarted_have_cold_starts() -> None:
    """The configured stacks, direct."""
    targets = {"toy": [target("a", stack="torchserve"), target("b"), target("c", stack="tfserving", path="gateway")]}
    plan = plan_of(campaign(scenarios=scenario(kind="cold"), targets=["torchserve-rest"], rounds=1), targets)
    assert {cell.target.name for cell in plan.cells} == {"a", "a (A/A)"}


def test_a_search_is_planned_as_a_cell_without_a_rate() -> None:
    """And each of its tries is a cell with one."""
    cell = plan_of(campaign(slo_ms=5, scenarios=scenario(kind="server", duration_s=5)), TARGETS).cells[0]
    attempt = at_rate(cell, 80.0, 3)
    assert is_search(cell)
    assert not is_search(attempt)
    assert (attempt.load.steps[0].rate, attempt.slug) == (80.0, f"{cell.slug}-try03")


def test_the_time_of_a_cell_counts_what_is_not_measured_too() -> None:
    """Warm-up by seconds or by requests, whatever is longer, and the pause after the cell."""
    made = campaign(
        cool_down_s=5, scenarios=scenario(kind="server", rate=10, duration_s=60, warm_up_s=30, warm_up_requests=1000)
    )
    cell = plan_of(made, TARGETS).cells[0]
    assert seconds_of(made, cell) == pytest.approx(100 + 60 + OVERHEAD_S + 5)


def test_a_quick_campaign_has_nine_cells_six_rounds_and_takes_five_minutes_and_a_half() -> None:
    """Eight ways to ask and the control; after the first round, warm servers are only greeted again."""
    made = campaign_of(quick_campaign("toy"), "quick")
    every = {"toy": [target(str(number)) for number in range(8)]}
    plan = plan_of(made, every)
    assert (plan.per_round, plan.rounds) == (9, 6)
    assert 270 < plan.seconds <= 330
    loads = {cell.round: cell.load for cell in plan.cells}
    assert [loads[number].warm_up_seconds for number in range(6)] == [3, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert {load.seconds for load in loads.values()} == {5}


def test_a_soak_whose_figures_would_not_fit_into_memory_is_refused() -> None:
    """What to do instead is told: the same in rounds."""
    soak = plan_of(campaign(scenarios=scenario(kind="soak", rate=1000, duration_s=86_400)), TARGETS)
    check_memory(soak, 64 << 30)
    with pytest.raises(LoadTestError, match=r"s on [abc]: 86,\d+,\d+ requests in one cell(.|\n)*`rounds`"):
        check_memory(soak, 8 << 30)


def test_a_cell_of_the_plan_survives_json() -> None:
    """The state of a run is made of them."""
    cell = plan_of(campaign(), TARGETS).cells[0]
    assert CellSpec.from_json(cell.to_json()) == cell


def test_the_a_a_twin_takes_no_name_that_a_target_has() -> None:
    """Figures are told apart by names."""
    plan = plan_of(campaign(), {"toy": [target("a"), target("a (A/A)")]})
    (twin,) = [cell for cell in plan.round(0) if cell.control]
    assert twin.target.name == "a (A/A 2)"
