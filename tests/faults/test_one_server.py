"""One model server falls ill, in every way and over every protocol: nobody else notices, and nothing stays behind."""

from __future__ import annotations

import pytest

from tests.faults.clients import DOORS, OK, UNANSWERED, Samples, crowd, merged, outcomes
from tests.faults.seeds import seeded
from tests.faults.table import FAULTS, Fault
from tests.faults.world import LONG_MS, Way, World, running

pytestmark = pytest.mark.faults

EACH = 6
CALLERS = {"double": 12, "backed": 8, "neighbour": 4}
MODEL_OF = [model for model, callers in CALLERS.items() for _ in range(callers)]


async def load(world: World, *, patient: bool = False) -> None:
    """Callers of all three models, over both doors; the neighbours', or all of them, are patient."""

    async def ask(caller: int) -> None:
        model = MODEL_OF[caller]
        await world.clients.ask(model, DOORS[caller % 2], LONG_MS if patient or model == "neighbour" else None)

    await crowd(len(MODEL_OF), EACH, ask)


def check_accounts(world: World, samples: Samples, fault: Fault) -> None:
    """Every request ended once, in a way that the fault explains; no number reached a model more often than it may."""
    ended, allowed = world.clients.ended, outcomes(fault.causes)
    assert merged(ended).total() == world.clients.asked
    assert not [outcome for outcome in merged(ended) if outcome.startswith(UNANSWERED)]
    assert set(ended["neighbour"]) == {OK}
    # One whose deadline passes before its model is known is counted under none.
    assert samples.total("gateway_request_duration_seconds_count") == world.clients.asked
    for model in ("double", "backed"):
        assert set(ended[model]) <= allowed, ended[model]
        assert set(samples.ended(model)) <= {OK, *(cause.value for cause in fault.causes)}
        assert samples.attempts(model=model) <= fault.attempts * ended[model].total()
    assert max(world.seen.values()) <= fault.reaches
    assert world.clients.answered <= set(world.seen)


@pytest.mark.parametrize(
    ("fault", "way"), [pytest.param(fault, way, id=f"{fault.name}-{way}") for fault in FAULTS for way in fault.ways]
)
async def test_one_sick_server_harms_nobody_else(fault: Fault, way: Way) -> None:
    """Every request is answered once, the neighbours' well; when it is over everything is as it was before."""
    async with running(way) as world:
        async with world.watching():
            fault.strike(world.sick, seeded(f"{fault.name} {way}"))
            await load(world, patient=fault.harmless)
        assert fault.harmless or set(world.clients.ended["double"]) != {OK}, "the fault had no effect"
        if not fault.harmless:
            await world.sick.recovers()
            await world.recovered()
        await world.settled()
        check_accounts(world, await world.clients.metrics(), fault)
