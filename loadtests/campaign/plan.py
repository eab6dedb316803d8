"""Which cells a campaign measures, in which order, and how long that takes. Nothing here is run."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from loadtests.campaign.null import NULL_S
from loadtests.campaign.progress import spoken
from loadtests.campaign.settings import WARM_UP_S, Campaign, ScenarioSettings
from loadtests.cell_spec import Arrivals, CellSpec, Kind, Load, Step, Target
from loadtests.errors import LoadTestError

# What a cell takes beside its load: the generator's fork, the stragglers, the files. Measured; 0.9 on a busy machine.
OVERHEAD_S = 0.3
# A search doubles from a first guess and bisects to 5 %: about so many rates are tried.
TRIES = 10
COLD_S = 20.0
# What a closed loop may reach; nobody knows it beforehand.
CLOSED_RATE = 5000.0
# Bytes at the peak of making a cell's line, measured: 285 with four million requests.
MEMORY_OF_A_REQUEST = 300
COOL_DOWN_S = 5.0
# A quick campaign's targets are warm after its first round: later ones only open their connections.
QUICK_AGAIN_S = 0.3
MULTI_STREAM_ROWS = 8
_CONTROLLED: frozenset[Kind] = frozenset(
    {"single_stream", "multi_stream", "server", "offline", "curve", "overload", "burst", "mixed"}
)
# Of a rate: a light load, the rate itself, overload, and a light load to recover in.
_OVERLOAD = (0.5, 1.0, 1.5, 0.5)


@dataclass(frozen=True, slots=True)
class Plan:
    """`cells` in the order of measuring; a search is one cell here, whose rate is yet to be found."""

    cells: tuple[CellSpec, ...]
    seconds: float
    rounds: int

    @property
    def per_round(self) -> int:
        """Cells in a round."""
        return len(self.round(0))

    def round(self, number: int) -> tuple[CellSpec, ...]:
        """The cells of a round, in order."""
        return tuple(cell for cell in self.cells if cell.round == number)


def plan_of(campaign: Campaign, targets: Mapping[str, Sequence[Target]]) -> Plan:
    """The plan of a campaign; `targets` are those of each model. The same campaign gives the same plan.

    The order within a round is random, by the seed; every scenario has an A/A control, one target under a second
    name, except where that would double hours and another scenario has one.
    """
    distinct = _cells(campaign, targets)
    cells: list[CellSpec] = []
    for number in range(campaign.rounds):
        order = list(distinct)
        random.Random(f"{campaign.seed} {number}").shuffle(order)  # noqa: S311 - an order, no secret
        cells += [
            replace(cell, round=number, order_in_round=place, load=_load_in(campaign, cell, number))
            for place, cell in enumerate(order)
        ]
    return Plan(tuple(cells), NULL_S + sum(seconds_of(campaign, cell) for cell in cells), campaign.rounds)


def plan_text(campaign: Campaign, plan: Plan) -> list[str]:
    """What will be measured, and how long that takes."""
    first: Sequence[CellSpec] = plan.round(0)
    control = sum(bool(cell.control) for cell in first)
    searches = sum(is_search(cell) for cell in first)
    lines = [
        f"Campaign {campaign.name}: {len(first) - control} cells and {control} A/A control"
        f"{'s' if control != 1 else ''}, {campaign.rounds} interleaved rounds, seed {campaign.seed}: "
        f"about {spoken(plan.seconds)}."
    ]
    first = sorted(first, key=lambda cell: (cell.scenario_index, bool(cell.control), cell.target.name))
    for scenario in dict.fromkeys(cell.scenario for cell in first):
        own = [cell for cell in first if cell.scenario == scenario]
        names = ", ".join(dict.fromkeys(cell.target.name for cell in own if not cell.control))
        each = spoken(seconds_of(campaign, own[0]))
        lines.append(f"  {scenario} ({own[0].load.kind}): {len(own)} cells of about {each}: {names}")
    if searches:
        lines.append(f"  A search tries about ten rates, so {searches} of the cells of a round may take more or less.")
    if campaign.tier == "run" and campaign.rounds < 6:
        lines.append(f"  No verdict can come of rounds: {campaign.rounds}; with fewer than 6 no p-value is below 0.05.")
    elif campaign.tier == "run" and campaign.rounds < 8:
        lines.append("  No round to spare: a target with one INVALID round gets no verdict; 8 leave room for one.")
    return lines


def is_search(cell: CellSpec) -> bool:
    """Whether the cell stands for a search: its rate is yet to be found."""
    return cell.load.kind == "server" and all(step.rate == 0 for step in cell.load.steps)


def seconds_of(campaign: Campaign, cell: CellSpec) -> float:
    """About how long a cell takes."""
    cool_down, load = cool_down_of(campaign), cell.load
    if load.kind == "cold":
        return COLD_S + load.seconds + cool_down
    if is_search(cell):
        return TRIES * (load.warm_up_seconds + load.seconds + OVERHEAD_S + cool_down)
    rate = next((step.rate for step in load.steps if step.rate), 0.0)
    warm_up = max(load.warm_up_seconds, load.warm_up_requests / rate if rate else 0.0)
    return warm_up + load.seconds + OVERHEAD_S + cool_down


def requests_of(cell: CellSpec) -> int:
    """About how many requests a cell records, a closed loop's as many as anything reaches."""
    warm_up = Step(next((step.rate for step in cell.load.steps if step.rate), 0.0), cell.load.warm_up_seconds)
    steps = (warm_up, *cell.load.steps)
    return int(
        sum((step.rate or (CLOSED_RATE if cell.load.arrivals == "closed" else 0.0)) * step.seconds for step in steps)
    )


def check_memory(plan: Plan, memory: int) -> None:
    """Raises LoadTestError where a cell's figures would need more than half of `memory` bytes.

    What is generated and recorded needs none that grows with time; percentiles of all of it do.
    """
    for cell in plan.round(0):
        needed = requests_of(cell) * MEMORY_OF_A_REQUEST
        if needed > memory / 2:
            raise LoadTestError(
                f"{cell.scenario} on {cell.target.name}: {requests_of(cell):,} requests in one cell; their figures "
                f"would need {needed / 1e9:.0f} GB of the {memory / 1e9:.0f} GB of memory here. Make `duration_s` "
                "shorter and give the campaign as many more `rounds`: a round follows upon the other"
            )


def cool_down_of(campaign: Campaign) -> float:
    """Seconds between two cells."""
    if campaign.cool_down_s is not None:
        return campaign.cool_down_s
    return COOL_DOWN_S if campaign.tier == "run" else 0.0


def _cells(campaign: Campaign, targets: Mapping[str, Sequence[Target]]) -> list[CellSpec]:
    slugs: set[str] = set()
    cells: list[CellSpec] = []
    kinds = {scenario.kind for scenario in campaign.scenarios}
    index = 0
    for scenario in campaign.scenarios:
        for rows in _rows(scenario):
            name = scenario.name if len(_rows(scenario)) == 1 else f"{scenario.name} rows={rows}"
            load = _load(campaign, scenario, rows)
            made = [
                CellSpec(
                    slug=_slug((_models_of(group), name, group[0].name), slugs),
                    target=group[0],
                    others=group[1:],
                    scenario=name,
                    load=load,
                    campaign_seed=campaign.seed,
                    scenario_index=index,
                    slo_ms=campaign.slo_of(scenario),
                )
                for group in _asked_at_once(campaign, scenario, targets)
            ]
            cells += made
            if made and (scenario.kind in _CONTROLLED or not kinds & _CONTROLLED):
                cells.append(_control(made[0], slugs, {target.name for group in targets.values() for target in group}))
            index += 1
    return cells


def _models_of(group: Sequence[Target]) -> str:
    return "+".join(target.model for target in group)


def _asked_at_once(
    campaign: Campaign, scenario: ScenarioSettings, targets: Mapping[str, Sequence[Target]]
) -> Iterator[tuple[Target, ...]]:
    """What a cell asks: one target, and in a mixed scenario the same target for every model."""
    every = [target for of_model in targets.values() for target in of_model]
    if scenario.kind == "cold":
        elsewhere = {settings.address for settings in campaign.targets}
        yield from ((target,) for target in every if _restartable(target) and target.address not in elsewhere)
    elif scenario.kind != "mixed":
        yield from ((target,) for target in every)
    else:
        for name in dict.fromkeys(target.name for target in every):
            group = tuple(target for target in every if target.name == name)
            if len(group) > 1:
                yield group


def _restartable(target: Target) -> bool:
    return target.path == "direct" and target.stack in ("torchserve", "tfserving")


def _rows(scenario: ScenarioSettings) -> tuple[int, ...]:
    if scenario.rows is None:
        return (MULTI_STREAM_ROWS,) if scenario.kind == "multi_stream" else (1,)
    return scenario.rows if isinstance(scenario.rows, tuple) else (scenario.rows,)


def _control(cell: CellSpec, slugs: set[str], names: Collection[str]) -> CellSpec:
    """The twin of a cell, under a name that no target has."""
    name, number = f"{cell.target.name} (A/A)", 1
    while name in names:
        number += 1
        name = f"{cell.target.name} (A/A {number})"
    target = replace(cell.target, name=name)
    return replace(cell, slug=_slug((cell.slug, "AA"), slugs), target=target, control=cell.slug)


def _slug(parts: tuple[str, ...], taken: set[str]) -> str:
    """A file name without suffix, distinct in the campaign; whatever else a name holds becomes `_`."""
    slug = "-".join(re.sub(r"[^A-Za-z0-9_.=]+", "_", part)[:60].strip("_.") or "_" for part in parts)
    base, number = slug, 1
    while slug.lower() in taken:
        number += 1
        slug = f"{base}-{number}"
    taken.add(slug.lower())
    return slug


def _load(campaign: Campaign, scenario: ScenarioSettings, rows: int) -> Load:
    seconds = campaign.duration_of(scenario)
    quick = campaign.tier != "run"
    warm_up = scenario.warm_up_s if scenario.warm_up_s is not None else WARM_UP_S[campaign.tier]
    requests = scenario.warm_up_requests if scenario.warm_up_requests is not None else (1 if quick else 1000)
    return Load(
        kind=scenario.kind,
        arrivals=_arrivals(scenario),
        steps=_steps(scenario, seconds),
        warm_up_seconds=warm_up,
        warm_up_requests=requests,
        concurrency=scenario.concurrency if scenario.kind == "offline" else 1,
        rows=rows,
        cv=scenario.cv if scenario.kind == "burst" else 1.0,
        max_in_flight=scenario.max_in_flight,
        timeout_seconds=scenario.timeout_s,
        workers=scenario.workers,
    )


def _arrivals(scenario: ScenarioSettings) -> Arrivals:
    if scenario.kind in ("single_stream", "multi_stream", "offline", "cold"):
        return "closed"
    return scenario.arrivals or ("gamma" if scenario.kind == "burst" else "poisson")


def _steps(scenario: ScenarioSettings, seconds: float) -> tuple[Step, ...]:
    rate = scenario.rate or 0.0
    match scenario.kind:
        case "curve":
            up = list(scenario.rates or ())
            return tuple(Step(each, seconds) for each in (*up, *up[-2::-1]))
        case "overload":
            return tuple(Step(rate * factor, seconds) for factor in _OVERLOAD)
        case _:
            return (Step(rate, seconds),)


def _load_in(campaign: Campaign, cell: CellSpec, number: int) -> Load:
    if campaign.tier == "quick" and number > 0:
        return replace(cell.load, warm_up_seconds=min(cell.load.warm_up_seconds, QUICK_AGAIN_S))
    return cell.load
