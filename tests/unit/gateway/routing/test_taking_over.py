"""What is known outlives a change of the endpoints: of the health watch, of discovery, and of requests under way."""

from __future__ import annotations

import asyncio

from gateway.core.backend import ModelState
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse
from gateway.core.observer import NullObserver
from gateway.routing.discovery import Discovery, Listed, Plan
from gateway.routing.endpoint import Endpoint, Status, Target
from gateway.routing.health import HealthMonitor
from gateway.routing.router import Router
from gateway.routing.table import Mirroring, Route, RouteTable, Traffic
from gateway.routing.under_way import UnderWay
from tests.builders import FakeBackend, context, contract, request

SERVED = ModelState((1,), contract().metadata((1,)))
BOTH = Plan({}, {"a": None, "b": None})


def endpoints() -> dict[str, Endpoint]:
    return {name: Endpoint(name, "oip", FakeBackend(has={"m": SERVED})) for name in ("a", "b")}


async def test_a_new_monitor_knows_what_the_kept_endpoints_said() -> None:
    """Their targets are ready before anybody was asked again; those of an endpoint that changed are not."""
    known = endpoints()
    before = HealthMonitor(known.values(), observer=NullObserver())
    discovery = Discovery(BOTH)
    router = Router(RouteTable({}), known, before)
    before.discover(discovery, router.replace)
    await before.check_all()

    changed = {**known, "b": Endpoint("b", "oip", FakeBackend(has={"m": SERVED}))}
    after = HealthMonitor(changed.values(), observer=NullObserver(), before=before, kept={"a"})
    after.discover(discovery.renewed(BOTH, {"a"}), after.follow)
    assert [target.endpoint for target in after.table.routes["m"].targets] == ["a"]
    assert after.verdict("m", Target("a", "m")).status is Status.READY
    assert after.verdict("m", Target("b", "m")).status is Status.UNVERIFIED
    await after.check_all()
    router.replace(after.table, changed, after)
    assert {target.endpoint for target in router.table.routes["m"].targets} == {"a", "b"}
    assert after.verdict("m", Target("b", "m")).status is Status.READY


async def test_a_check_that_breaks_ends_no_other() -> None:
    """What a bug raises is logged, as the watch does."""
    known = endpoints()
    known["a"].backend.server = None  # type: ignore[method-assign, assignment]
    health = HealthMonitor(known.values(), observer=NullObserver())
    health.discover(Discovery(BOTH), health.follow)
    await health.check_all()
    assert health.verdict("m", Target("b", "m")).status is Status.READY


def test_a_renewed_discovery_forgets_what_is_gone() -> None:
    """Names that the configuration now lists are no discoveries; a list of names counts at once."""
    discovery = Discovery(BOTH)
    for name in ("a", "b"):
        discovery.hear(name, ("m", "n"), {"m": SERVED, "n": SERVED})
    listed = Listed(contract("m"), (Target("a", "m"),))
    table = discovery.renewed(Plan({"m": listed}, {"a": ("n",)}), {"a"}).table()
    assert {name: [target.endpoint for target in route.targets] for name, route in table.routes.items()} == {
        "m": ["a"],
        "n": ["a"],
    }


def test_the_server_of_a_mirror_is_asked_about_its_model() -> None:
    """Though no request of a client ever goes there."""
    traffic = Traffic(mirror=Mirroring(Target("b", "theirs"), 0.5))
    plan = Plan({"m": Listed(contract("m"), (Target("a", "m"),), traffic=traffic)}, {"a": (), "b": ()})
    assert Discovery(plan).to_ask("b", None) == ("theirs",)


async def test_whoever_waits_for_requests_under_way_is_told_of_the_last() -> None:
    """However many wait; at once where there are none."""
    under_way = UnderWay()
    await under_way.ended()
    under_way.count = 2
    waiting = [asyncio.create_task(under_way.ended()) for _ in range(2)]
    await asyncio.sleep(0)
    under_way.leave()
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [False, False]
    under_way.leave()
    await asyncio.gather(*waiting)


async def test_a_request_under_way_is_retried_at_an_endpoint_that_left_meanwhile() -> None:
    """It ends by the routes that it began with, and is counted until then."""
    known = endpoints()
    plan = Plan({"m": Listed(contract("m"), (Target("a", "m"), Target("b", "m")))}, {"a": (), "b": ()})
    before = HealthMonitor(known.values(), observer=NullObserver())
    router = Router(RouteTable({}), known, before)
    before.discover(Discovery(plan), router.replace)
    await before.check_all()
    reached, release = asyncio.Event(), asyncio.Event()

    async def unreachable(*_: object) -> InferenceResponse:
        reached.set()
        await release.wait()
        raise GatewayError(Cause.UPSTREAM_UNREACHABLE, "refused")

    known["a"].backend.infer = unreachable  # type: ignore[method-assign]
    asked = asyncio.create_task(router.dispatch(request(model="m"), context()))
    await reached.wait()
    started = router.under_way
    without = {"a": known["a"]}
    after = HealthMonitor(without.values(), observer=NullObserver(), before=before, kept={"a"})
    router.replace(RouteTable({"m": Route.of(contract("m"), (Target("a", "m"),))}), without, after)
    assert (started.count, router.under_way.count) == (1, 0)
    release.set()
    served_by = (await asked).served_by
    assert served_by is not None
    assert (served_by.endpoint, started.count) == ("b", 0)
