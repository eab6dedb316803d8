"""The operator's port of a running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.server import serve
from gateway.settings import Settings, SettingsError
from tests.component.reload_world import World, running
from tests.fakes.script import FakeModel, double


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway as it starts."""
    async with running(tmp_path) as world:
        yield world


def off_by_one() -> FakeModel:
    """`double`, with every `y` one too large."""
    return replace(
        double(), compute=lambda arrays: {**double().compute(arrays), "y": double().compute(arrays)["y"] + 1}
    )


async def test_explain_says_where_a_request_would_go_and_why(tmp_path: Path) -> None:
    """The order of the targets, the rule that made it, and what stands against each."""
    async with running(tmp_path) as world:
        model = {
            "policy": "sticky",
            "sticky": {"header": "x-user"},
            "targets": [{"endpoint": "ts"}, {"endpoint": "tf"}],
            "labels": {"stable": 1},
        }
        await world.reload(double=model)
        orders = []
        for user in range(20):
            _, told = await world.admin(f"/routes/explain?model=double&header=x-user%3D{user}")
            assert told["rule"] == "the value of header 'x-user' decides: always the same order for it"
            assert told["order"][0]["standing"] == "fit"
            assert told["order"][1]["standing"].startswith("not tried: the route stays with the stack")
            orders.append(told["order"][0]["endpoint"])
        assert set(orders) == {"ts", "tf"}
        _, told = await world.admin("/routes/explain?model=double&stack=tfserving&label=stable")
        assert ([target["endpoint"] for target in told["order"]], told["version"]) == (["tf"], 1)


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/routes/explain", 422, "model is missing; there are"),
        ("/routes/explain?model=double&colour=red", 422, "'colour' is unknown"),
        ("/routes/explain?model=nope", 404, "unknown model 'nope'"),
        ("/routes/explain?model=double&version=x", 422, "version 'x' is no whole number"),
        ("/routes/explain?model=double&header=x", 422, "expected name=value"),
        ("/nowhere", 404, "GET / lists those there are"),
        ("/reload", 405, "GET / lists those there are"),
    ],
)
async def test_a_question_that_cannot_be_answered_says_why(world: World, path: str, status: int, detail: str) -> None:
    """Errors of the operator's port are problem documents."""
    found, problem = await world.admin(path)
    assert (found, problem["status"]) == (status, status)
    assert detail in problem["detail"]


async def test_the_operators_port_answers_no_page_of_another_name(world: World) -> None:
    """A name that somebody else made point to this machine is refused."""
    status, _ = await world.admin("/routes", headers={"host": "evil.example"})
    assert status == 400


async def test_the_operators_port_says_what_is_there(world: World) -> None:
    """A browser that opens it finds the rest."""
    _, told = await world.admin("/")
    assert told["doors"]["rest"] == f"http://127.0.0.1:{world.addresses.rest_port}"
    assert "POST /reload" in told["paths"]


async def test_the_mirror_is_told_without_payloads_unless_they_were_asked_for(tmp_path: Path) -> None:
    """Outcomes and the worst differences; inputs and answers only with `keep_payloads`."""
    async with running(tmp_path) as world:
        world.tfserving.models["double"] = off_by_one()
        for keep in (False, True):
            mirror = {"endpoint": "tf", "share": 1.0, "keep_payloads": keep}
            await world.reload(double={"mirror": mirror})
            await world.predict()
            told = await world.until("/mirror", lambda told: told["double"]["outcomes"].get("mismatch"))
            (worst,) = told["double"]["worst"]
            assert worst["max_abs"] == 1.0
            assert ("inputs" in worst) is keep
            assert not keep or worst["inputs"] == {"x": [[1.0, 2.0]]}


async def test_two_gateways_that_chose_no_operators_port_do_not_clash(tmp_path: Path) -> None:
    """The second takes any free one, and says which."""
    ports = {"rest_port": 0, "grpc_port": 0}
    (tmp_path / "other").mkdir()
    async with running(tmp_path, server=ports) as one, running(tmp_path / "other", server=ports) as other:
        assert one.addresses.admin_port != other.addresses.admin_port
        assert (await other.admin("/"))[1]["doors"]["rest"].endswith(f":{other.addresses.rest_port}")


async def test_an_operators_port_that_was_chosen_has_to_be_free(world: World) -> None:
    """Whoever chose it will look there."""
    server = {"rest_port": 0, "grpc_port": 0, "admin_port": world.addresses.admin_port}
    settings = Settings(server=server, endpoints={"nothing": {"stack": "noop"}})
    with pytest.raises(SettingsError, match=r"cannot listen on 127\.0\.0\.1:\d+; choose another server\.admin_port"):
        await serve(settings, {}, asyncio.Event())


async def test_the_operators_port_can_be_turned_off() -> None:
    """Then nothing listens there."""
    settings = Settings(
        server={"rest_port": 0, "grpc_port": 0, "admin_port": None}, endpoints={"nothing": {"stack": "noop"}}
    )
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, {}, stop, listening.set_result))
    assert (await listening).admin_port is None
    stop.set()
    await asyncio.wait_for(serving, 15)
