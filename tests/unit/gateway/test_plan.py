"""Tests of gateway.plan: how handlers are spoken to, by the configuration and the contracts."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.codecs.torchserve_payloads import Foreign, Framed
from gateway.core.messages import TensorSpec
from gateway.frontends.rest.http_server import bound
from gateway.plan import handlers_of, plan_of
from gateway.settings import Settings, SettingsError
from tests.builders import contract, request

MIRROR = {"endpoint": "ts", "share": 1, "label": "stable"}
ADDRESSES = {"stack": "torchserve", "rest": "http://127.0.0.1:1", "management": "http://127.0.0.1:2"}


def settings(*targets: dict[str, Any], endpoint: dict[str, Any] | None = None) -> Settings:
    """One endpoint `ts`; a model for each target, all of them the doubler there."""
    return Settings(
        endpoints={"ts": {**ADDRESSES, **(endpoint or {})}},
        models={
            f"m{number}": {"contract": "unused", "targets": [{"endpoint": "ts", "model": "doubler", **target}]}
            for number, target in enumerate(targets)
        },
    )


def handlers(*targets: dict[str, Any], endpoint: dict[str, Any] | None = None) -> dict[Any, Any]:
    """How the doubler is spoken to on `ts`."""
    contracts = {f"m{number}": contract(f"m{number}") for number in range(len(targets))}
    spoken = handlers_of(settings(*targets, endpoint=endpoint), contracts, "ts")
    return {key: item.payload for key, item in spoken.items()}


def test_handlers_are_known_by_the_servers_own_names() -> None:
    """Model, version and tensors are called what the server calls them."""
    json = {"payload": "json", "names": {"x": "image", "y": "scores"}}
    found = handlers(json, {"version": 5, "versions": {"2024-05a": 5}})
    assert found.keys() == {("doubler", None), ("doubler", 5)}
    foreign, framed = found["doubler", None], found["doubler", 5]
    assert isinstance(foreign, Foreign)
    assert foreign.contract.inputs == (TensorSpec("image", "FP32", (-1, 2)),)
    assert foreign.contract.outputs == (TensorSpec("scores", "FP32", (-1, 2)),)
    assert framed == Framed({"2024-05a": 5})


def test_an_endpoint_speaks_for_its_targets() -> None:
    """What the endpoint says holds for every model there."""
    endpoint = {"payload": "json", "template": {"instances": "$rows"}}
    assert handlers({}, endpoint=endpoint)["doubler", None].encode(request()) == b'{"instances":[[1.0,2.0]]}'


def test_labels_are_targets_by_the_table_that_clients_use() -> None:
    """A target, or a mirror, that names a label is for its version now; where the table says otherwise, for that."""

    def planned(**labels: int) -> tuple[Any, Any]:
        given = {"endpoint": "ts", "model": "doubler", "label": "canary", "payload": "json"}
        model = {"contract": "unused", "targets": [given], "labels": labels, "mirror": MIRROR}
        changed = Settings(endpoints={"ts": ADDRESSES}, models={"m0": model})
        listed = plan_of(changed, {"m0": contract("m0")}).listed["m0"]
        assert listed.traffic.mirror is not None
        assert handlers_of(changed, {"m0": contract("m0")}, "ts").keys() == {("doubler", labels["canary"])}
        return listed.targets[0], listed.traffic.mirror.target

    target, mirror = planned(stable=3, canary=4)
    assert (target.version, target.label, mirror.version, mirror.label) == (4, "canary", 3, "stable")
    target, mirror = planned(stable=4, canary=5)
    assert (target.version, mirror.version) == (5, 4)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (({"payload": "json", "template": "$inputs.z"},), "models.m0: target 'ts': .* there is no 'z'"),
        (({"payload": "json"}, {"payload": "raw"}), "models.m1: target 'ts': another target describes the handler"),
        (({}, {"payload": "raw"}), "another target describes the handler of model 'doubler' there differently"),
        (({"payload": "raw"}, {}), "another target describes the handler of model 'doubler' there differently"),
    ],
)
def test_what_does_not_fit_stops_the_start(targets: tuple[dict[str, Any], ...], message: str) -> None:
    """The model and the target are named."""
    with pytest.raises(SettingsError, match=message):
        handlers(*targets)


def test_the_same_handler_may_serve_two_models() -> None:
    """Described the same way twice, or in the frame that names its tensors itself."""
    assert len(handlers({"payload": "json"}, {"payload": "json"})) == 1
    assert len(handlers({"names": {"x": "image"}}, {})) == 1


async def test_answers_are_not_held_back_on_a_connection() -> None:
    """Whatever the event loop, TCP sends each part of an answer at once."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bound("127.0.0.1", 0) as listener:
        async with await asyncio.start_server(look, sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            assert await accepted != 0
            client.close()
