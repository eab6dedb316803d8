"""From what servers have to the table of routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.core.backend import ModelState
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.routing.discovery import MAX_NAMES, MAX_TAKEN, Answer, Discovery, Listed, Plan
from gateway.routing.endpoint import Target
from gateway.routing.table import RouteTable
from tests.builders import contract

METADATA = contract().metadata((2, 1))
INTS = replace(METADATA, inputs=(TensorSpec("x", "INT64", (-1, 2)),))
SERVED = ModelState((2, 1), METADATA)
SILENT = ModelState((1,))
LOADING = ModelState(())
GONE = GatewayError(Cause.MODEL_NOT_FOUND, "no such model")
ANYTHING: dict[str, tuple[str, ...] | None] = {"a": None, "b": None}


def heard(plan: Plan, *said: tuple[str, Mapping[str, Answer]]) -> RouteTable:
    """The table after endpoints listed these models, each with its answer."""
    discovery = Discovery(plan)
    for endpoint, answers in said:
        discovery.hear(endpoint, tuple(answers), answers)
    return discovery.table()


def test_a_discovered_model_is_routed_to_every_endpoint_that_has_it() -> None:
    """In the order of the configuration; the first gives the contract, at which nothing has to be finite."""
    table = heard(Plan({}, ANYTHING), ("b", {"m": ModelState((7,), INTS)}), ("a", {"m": SERVED, "n": SERVED}))
    assert list(table.routes) == ["m", "n"]
    route = table.routes["m"]
    assert [target.endpoint for target in route.targets] == ["a", "b"]
    assert (route.source, route.main.name, route.main.version) == ("a", "m", 2)
    assert (route.main.inputs, route.main.outputs) == (METADATA.inputs, METADATA.outputs)
    assert (route.main.finite, route.main.synthesised) == ("allowed", True)
    assert (table.unrouted, table.awaited) == ({}, ())


def test_each_signature_has_a_contract() -> None:
    """Of the same model; a model without the default one has the others."""
    both = heard(Plan({}, ANYTHING), ("a", {"m": ModelState((1,), METADATA, {"ints": INTS})})).routes["m"]
    assert {name: item.inputs[0].datatype for name, item in both.contracts.items()} == {
        "serving_default": "FP32",
        "ints": "INT64",
    }
    only = heard(Plan({}, ANYTHING), ("a", {"m": ModelState((1,), None, {"ints": INTS})})).routes["m"]
    with pytest.raises(GatewayError, match="no signature 'serving_default'; it has 'ints'") as caught:
        only.contract(None)
    assert caught.value.cause is Cause.SIGNATURE_NOT_FOUND


def test_a_model_whose_server_describes_nothing_needs_a_contract() -> None:
    """The reason is what to write: a contract that can be read, and the lines of gateway.yaml."""
    table = heard(Plan({}, ANYTHING, {"a": "; and more"}), ("a", {"m": SILENT}))
    reason = table.unrouted["m"]
    example = reason.partition("example: ")[2].partition("; and in gateway.yaml")[0]
    assert ModelContract.from_json(example).name == "m"
    entry = json.loads(reason.partition("models: ")[2].removesuffix("; and more"))
    assert entry == {"m": {"contract": "m.json", "targets": [{"endpoint": "a"}]}}
    with pytest.raises(GatewayError, match="cannot be answered: endpoint 'a' does not describe") as caught:
        table.route("m")
    assert caught.value.cause is Cause.NOT_READY


def test_a_server_without_metadata_does_not_join_one_that_has_some() -> None:
    """Whether it agrees cannot be known, but whoever knows it is told what to write, and that is enough."""
    said = (("a", {"m": SILENT}), ("b", {"m": SERVED}))
    table = heard(Plan({}, ANYTHING), *said)
    assert [target.endpoint for target in table.routes["m"].targets] == ["b"]
    entry = json.loads(table.left_out["m"].partition("models: ")[2])
    assert entry == {"m": {"targets": [{"endpoint": "b"}, {"endpoint": "a"}]}}
    targets = tuple(Target(item["endpoint"], "m") for item in entry["m"]["targets"])
    written = heard(Plan({"m": Listed(None, targets)}, ANYTHING), *said)
    assert (written.routes["m"].targets, written.routes["m"].source, written.left_out) == (targets, "b", {})


def test_a_listed_model_keeps_its_targets_and_may_go_without_a_contract() -> None:
    """Then that is the first target's metadata, in the names of the configuration; labels are as configured."""
    targets = (Target("a", "theirs", names={"image": "x"}), Target("b", "m"))
    plan = Plan({"m": Listed(None, targets, {"stable": 2}), "own": Listed(contract("own"), targets)}, ANYTHING)
    discovery = Discovery(plan)
    assert discovery.to_ask("a", ("m", "z")) == ("theirs", "z")
    assert "has not answered yet" in discovery.table().unrouted["m"]
    table = heard(plan, ("a", {"theirs": SERVED}), ("b", {"m": SERVED}))
    route = table.routes["m"]
    assert (route.targets, route.labels, route.source) == (targets, {"stable": 2}, "a")
    assert [spec.name for spec in route.main.inputs] == ["image"]
    assert table.routes["own"].main is plan.listed["own"].contract
    assert "theirs" in table.routes


def test_what_an_endpoint_said_stays_while_it_is_silent() -> None:
    """A failed check, or a model that is loading again, takes nothing away; a model that is gone is gone."""
    discovery = Discovery(Plan({}, ANYTHING))
    discovery.hear("a", ("m", "n"), {"m": SERVED, "n": SERVED})
    before = discovery.table()
    discovery.hear("a", ("m", "n"), {"m": LOADING, "n": GatewayError(Cause.UPSTREAM_UNREACHABLE, "away")})
    assert discovery.table() == before
    assert discovery.known("a") == ("m", "n")
    discovery.hear_of("a", {"m": SERVED, "n": SERVED})
    assert discovery.table() == before
    discovery.hear("a", ("n",), {"n": GONE})
    table = discovery.table()
    assert (list(table.routes), table.unrouted) == ([], {"n": "endpoint 'a': no such model"})


def test_a_model_that_was_never_ready_has_its_reason() -> None:
    """It is known, and why it cannot be answered too."""
    table = heard(Plan({}, {"a": ("m", "n")}), ("a", {"m": LOADING, "n": GONE}))
    assert table.unrouted == {
        "m": "endpoint 'a': no version of it can answer yet",
        "n": "endpoint 'a': no such model",
    }
    assert Discovery(Plan({}, {"a": ("m",)})).table().unrouted == {"m": "endpoint 'a': has not answered yet"}


def test_endpoints_are_awaited_where_nothing_is_known_without_them() -> None:
    """Not those that listed models name, nor those from which nothing is to be taken."""
    plan = Plan({"m": Listed(contract("m"), (Target("a", "m"),))}, {**ANYTHING, "c": (), "d": ("x",)})
    discovery = Discovery(plan)
    assert discovery.table().awaited == ("b", "d")
    discovery.hear("b", (), {})
    assert discovery.table().awaited == ("d",)


def test_an_endpoint_that_cannot_list_is_asked_about_names_from_elsewhere_and_from_clients() -> None:
    """What it has of them becomes its models, and nothing else; what nobody can have is not looked for."""
    discovery = Discovery(Plan({}, {"a": None, "b": None, "c": ("named",)}))
    assert discovery.seek("wanted") == ()
    discovery.hear("a", ("listed",), {"listed": SERVED})
    assert discovery.to_ask("b", None) == ("named", "listed")
    assert discovery.seek("wanted") == ("b",)
    assert discovery.seek("x" * 1000) == ()
    assert discovery.to_ask("b", None) == ("named", "listed", "wanted")
    discovery.hear("b", None, {"named": GONE, "listed": SERVED, "wanted": SERVED})
    routes = discovery.table().routes
    assert {name: [target.endpoint for target in route.targets] for name, route in routes.items()} == {
        "listed": ["a", "b"],
        "wanted": ["b"],
    }
    assert discovery.to_ask("b", None) == ("named", "listed", "wanted")
    assert discovery.to_ask("b", ("listed",)) == ("listed",)
    assert discovery.seek("another") == ()


@pytest.mark.parametrize("name", [".", "..", "m/versions/1", "m/../n", "..\\m", "m/"])
def test_what_a_server_could_take_for_a_path_is_not_looked_for(name: str) -> None:
    """Servers that decode before they route would know a model by as many names as clients think of."""
    discovery = Discovery(Plan({}, {"a": None}))
    assert discovery.to_ask("a", None) == ()
    assert discovery.seek("m") == ("a",)
    assert discovery.seek(name) == ()
    assert discovery.to_ask("a", None) == ("m",)


def test_an_endpoint_whose_models_are_listed_is_not_asked_for_others_that_clients_want() -> None:
    """Its configuration says what it is for; an unknown model is unknown at once."""
    discovery = Discovery(Plan({"m": Listed(contract("m"), (Target("a", "m"),))}, {"a": None}))
    assert discovery.to_ask("a", None) == ("m",)
    assert discovery.seek("wanted") == ()


def test_the_number_of_models_is_bounded() -> None:
    """At once and over time, since names become label values; odd names are not taken at all."""
    discovery = Discovery(Plan({}, {"a": None}))
    names = ("", "x" * 200, "a\nb", *(f"m{index}" for index in range(2 * MAX_TAKEN)))
    assert len(discovery.to_ask("a", names)) == MAX_TAKEN
    for turn in range(2 * MAX_NAMES // MAX_TAKEN):
        names = tuple(f"{turn}-{index}" for index in range(MAX_TAKEN))
        discovery.hear("a", names, dict.fromkeys(names, SERVED))
        assert len(discovery.table().routes) == (MAX_TAKEN if turn < MAX_NAMES // MAX_TAKEN else 0)
