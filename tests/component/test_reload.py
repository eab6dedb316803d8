"""A gateway whose configuration changes while it answers: nothing is lost, and nothing invalid takes effect."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.component.reload_world import endpoint_of, running
from tests.fakes.script import Hold, double

REQUESTS = 2000


async def test_a_reload_under_load_loses_nothing(tmp_path: Path) -> None:
    """While routes flip between stacks, and endpoints come and go, every request is answered."""
    async with running(tmp_path) as world:
        told: Counter[Any] = Counter()
        left = iter(range(REQUESTS))

        async def ask() -> None:
            for _ in left:
                status, body = await world.predict()
                told[status, body.get("stack") or body.get("detail")] += 1
                assert status != 200 or body["outputs"]["y"] == [[2.0, 4.0]]

        asking = asyncio.gather(*(ask() for _ in range(16)))
        flips = 0
        while not asking.done():
            name = ("ts", "tf", "again")[flips % 3]
            more = {"again": {**endpoint_of(world), "slots": 1 + flips}} if flips % 3 else {}
            assert (await world.reload(double={"targets": [{"endpoint": name}]}, more=more))[0] == 200
            flips += 1
        await asking
        assert {status for status, _ in told} == {200}, told
        assert told.total() == REQUESTS
        assert {stack for _, stack in told} == {"torchserve", "tfserving"}
        assert flips > 5


async def test_an_invalid_file_keeps_the_old_configuration(tmp_path: Path) -> None:
    """The old routes go on; the answer, the admin port and the metrics say what is wrong, until a good file comes."""
    async with running(tmp_path) as world:
        status, problem = await world.reload(double={"targets": [{"endpoint": "gone"}]})
        assert (status, problem["title"]) == (422, "The configuration cannot be used; the one before goes on")
        assert "models.double: unknown endpoint 'gone'; there are ts, tf" in problem["detail"]
        assert (await world.predict())[1]["stack"] == "torchserve"
        _, config = await world.admin("/config")
        assert config["last"]["outcome"] == "invalid"
        assert config["last"]["error"] == problem["detail"]
        _, metrics = await world.admin("/metrics")
        assert "gateway_config_last_reload_successful 0.0" in metrics
        assert (await world.reload(double={"targets": [{"endpoint": "tf"}]}))[0] == 200
        assert (await world.predict())[1]["stack"] == "tfserving"
        _, metrics = await world.admin("/metrics")
        assert "gateway_config_last_reload_successful 1.0" in metrics


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"double": {"contract": "missing.json"}}, "models.double.contract"),
        ({"double": {"targets": [{"endpoint": "ts", "payload": "json", "template": "$nothing"}]}}, "models.double"),
        ({"limits": {"in_flight": 0}}, "limits.in_flight"),
    ],
)
async def test_the_whole_file_is_validated_before_any_of_it_is_used(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    """Contracts and handlers belong to it, as for `gateway check`."""
    async with running(tmp_path) as world:
        status, problem = await world.reload(**changes)
        assert status == 422
        assert expected in problem["detail"]
        assert (await world.predict())[0] == 200


async def test_a_file_that_is_replaced_is_read_without_being_asked(tmp_path: Path) -> None:
    """A rename over the old file is a change of it."""
    async with running(tmp_path) as world:
        world.write(double={"targets": [{"endpoint": "tf"}]})
        config = await world.until("/config", lambda told: told["reloads"]["ok"])
        assert config["last"]["cause"] == "file"
        assert (await world.predict())[1]["stack"] == "tfserving"


async def test_a_request_in_flight_ends_at_the_endpoint_it_began_at(tmp_path: Path) -> None:
    """The endpoint is gone from the routes at once, and is closed only after its last answer."""
    async with running(tmp_path) as world:
        hold = Hold()
        world.torchserve.then(hold)
        asked = asyncio.create_task(world.predict())
        await hold.reached.wait()
        world.write(double={"targets": [{"endpoint": "tf"}]})
        without = yaml.safe_load(world.file.read_text())
        del without["endpoints"]["ts"]
        world.file.write_text(yaml.safe_dump(without))
        status, config = await world.admin("/reload", "POST")
        assert (status, config["last"]["endpoints"]["closed"]) == (200, ["ts"])
        assert (await world.predict())[1]["stack"] == "tfserving"
        assert 'gateway_endpoint_info{endpoint="ts"' in (await world.admin("/metrics"))[1]
        hold.release.set()
        status, body = await asked
        assert (status, body["stack"]) == (200, "torchserve")
        await world.until("/metrics", lambda text: 'gateway_endpoint_info{endpoint="ts"' not in text)


async def test_an_endpoint_that_did_not_change_keeps_what_it_has(tmp_path: Path) -> None:
    """Its connections, slots and breakers live on; a new weight, policy or model is no reason to connect anew."""
    async with running(tmp_path) as world:
        model = {"targets": [{"endpoint": "ts", "weight": 3}, {"endpoint": "tf"}], "policy": "weighted"}
        _, config = await world.reload(double=model)
        assert config["last"]["endpoints"] == {"kept": ["ts", "tf"], "connected": [], "closed": []}
        _, routes = await world.admin("/routes")
        assert [target["weight"] for target in routes["routes"]["double"]["targets"]] == [3, 1]
        assert [target["status"] for target in routes["routes"]["double"]["targets"]] == ["ready", "ready"]
        _, config = await world.reload(more={"tf": {**endpoint_of(world), "slots": 9}})
        assert config["last"]["endpoints"] == {"kept": ["ts"], "connected": ["tf"], "closed": ["tf"]}


async def test_a_label_leads_to_another_version_when_the_table_says_so(tmp_path: Path) -> None:
    """The target stays as it is written; clients that name the label go along."""
    async with running(tmp_path) as world:
        world.tfserving.models["double"] = replace(double(), versions=(2, 1))
        for version in (1, 2):
            model = {"targets": [{"endpoint": "tf", "label": "live"}], "labels": {"live": version}}
            assert (await world.reload(double=model))[0] == 200
            for fields in ({}, {"label": "live"}, {"version": version}):
                status, body = await world.predict(**fields)
                assert (status, body["version"]) == (200, version)
            assert (await world.predict(version=3 - version))[0] == 404
        _, routes = await world.admin("/routes")
        (target,) = routes["routes"]["double"]["targets"]
        assert (target["label"], target["version"]) == ("live", 2)


async def test_what_a_reload_removed_has_no_breaker_on_the_page(tmp_path: Path) -> None:
    """Neither at an endpoint that stays nor at one that is described otherwise from then on."""
    async with running(tmp_path) as world:
        await world.reload(double={"targets": [{"endpoint": "ts"}, {"endpoint": "tf"}]})
        breaker = 'gateway_breaker_state{{endpoint="{}",model="double"}} 0.0'.format
        _, page = await world.admin("/metrics")
        assert breaker("ts") in page
        assert breaker("tf") in page
        await world.reload(double={"targets": [{"endpoint": "tf"}]})
        _, page = await world.admin("/metrics")
        assert breaker("ts") not in page
        assert breaker("tf") in page
        # The same endpoint with other slots, and no target any more.
        await world.reload(more={"tf": {**endpoint_of(world), "slots": 9}})
        _, page = await world.admin("/metrics")
        assert breaker("ts") in page
        assert breaker("tf") not in page


async def test_what_needs_a_restart_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    """Ports and limits stay; everything else of the file is in effect."""
    async with running(tmp_path) as world:
        _, config = await world.reload(limits={"in_flight": 7}, double={"targets": [{"endpoint": "tf"}]})
        assert config["last"]["needs_restart"] == ["limits.in_flight"]
        assert (await world.predict())[1]["stack"] == "tfserving"
