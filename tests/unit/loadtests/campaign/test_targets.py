"""What the targets of a campaign mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtests.addresses import Addresses, Endpoints
from loadtests.analysis.cell import summarise
from loadtests.analysis.compare import within_run
from loadtests.campaign.reading import campaign_of
from loadtests.campaign.targets import beside_default, needed_stacks, targets_of
from loadtests.cell_spec import CellSpec, Load, Step, Target
from loadtests.errors import LoadTestError
from tests.unit.loadtests.campaign.worlds import campaign_text, rows_of

VARIANTS = {"toy": {"torchscript": "torchserve", "savedmodel": "tfserving"}}
SERVERS = {"torchserve": "TorchServe 0.12.0", "tfserving": "savedmodel-server 1.0 (stand-in)"}


def made(targets: Any, **changes: Any) -> list[Target]:
    """The targets of the toy."""
    text = campaign_text("x:1", targets=targets, **changes)
    found = targets_of(campaign_of(text, "c"), VARIANTS, Addresses(), SERVERS, endpoints=Endpoints())
    return [target for target, _ in found["toy"]]


def test_a_stack_is_asked_by_its_own_protocol_or_by_the_gateways() -> None:
    """The gateway is told which endpoint, so that the upstream protocol is known."""
    direct, through = made(["tfserving-grpc", "gateway/tfserving-grpc"])
    assert (direct.protocol, direct.address, direct.path, direct.pins) == (
        "tfserving-grpc",
        "127.0.0.1:8500",
        "direct",
        {},
    )
    assert (direct.stack, direct.variant, direct.server) == ("tfserving", "savedmodel", SERVERS["tfserving"])
    assert (through.protocol, through.address, through.path) == ("oip-grpc", "127.0.0.1:8001", "gateway")
    assert (through.upstream_protocol, through.pins) == ("tfserving-grpc", {"x-endpoint": "tf"})


def test_the_gateway_may_be_asked_by_any_of_its_doors() -> None:
    """The name says so."""
    (target,) = made([{"stack": "torchserve", "path": "gateway", "protocol": "tfserving-grpc"}])
    assert (target.protocol, target.address) == ("tfserving-grpc", "127.0.0.1:8001")
    assert target.name == "gateway/torchserve-rest by tfserving-grpc"


def test_variants_leave_the_stacks_that_serve_them() -> None:
    """Where none is left it is told which there are."""
    assert [target.name for target in made(["all"], variants=["torchscript"])] == [
        "torchserve-rest",
        "torchserve-grpc",
        "gateway/torchserve-rest",
        "gateway/torchserve-grpc",
    ]
    with pytest.raises(LoadTestError, match="its own are torchscript on torchserve, savedmodel on tfserving"):
        made(["torchserve-rest"], variants=["onnx"])


MORE = {"toy": {**VARIANTS["toy"], "aotinductor": "torchserve", "onnx": "torchserve", "xla": "tfserving"}}


def exports(targets: Any, *variants: str) -> list[Target]:
    """The targets of a toy with more variants than the stacks' own."""
    chosen = {"variants": variants} if variants else {}
    text = campaign_text("x:1", targets=targets, **chosen)
    found = targets_of(campaign_of(text, "c"), MORE, Addresses(), SERVERS, endpoints=Endpoints())
    return [target for target, _ in found["toy"]]


def test_each_stack_is_asked_for_its_own_variant_unless_others_are_named() -> None:
    """However many were built."""
    assert [target.variant for target in exports(["all"])] == ["torchscript"] * 2 + ["savedmodel"] * 2 + [
        *["torchscript"] * 2,
        *["savedmodel"] * 2,
    ]


def test_another_variant_has_a_name_of_its_own_on_the_server_and_a_pin_at_the_gateway() -> None:
    """A stack's own keeps the model's plain name, and its target the plain name of the stack."""
    own, other, through, pinned = exports(["torchserve-rest", "gateway/torchserve-grpc"], "torchscript", "aotinductor")
    assert (own.name, own.asked_for, through.pins) == ("torchserve-rest", "toy", {"x-endpoint": "ts-grpc"})
    assert (other.name, other.variant) == ("torchserve-rest aotinductor", "aotinductor")
    assert (other.model, other.asked_for) == ("toy", "toy-aotinductor")
    assert pinned.pins == {"x-endpoint": "ts-grpc", "x-variant": "aotinductor"}
    assert (pinned.asked_for, pinned.name) == ("toy", "gateway/torchserve-grpc aotinductor")


def test_what_is_beside_a_stack_s_own_variants_must_be_started() -> None:
    """In the campaign's order; what no model has is none of it."""
    text = campaign_text("x:1", targets=["all"], variants=["xla", "torchscript", "onnx", "other"])
    assert beside_default(campaign_of(text, "c"), MORE) == ("xla", "onnx")


def test_a_stack_at_an_address_has_the_same_names() -> None:
    """A server that calls the model something else is told by `served_as`."""
    there = {"name": "there", "protocol": "torchserve-rest", "address": "h:1", "stack": "torchserve"}
    found = exports([there], "torchscript", "onnx", "xla")
    assert [(target.name, target.asked_for) for target in found] == [
        ("there torchscript", "toy"),
        ("there onnx", "toy-onnx"),
    ]
    (named,) = exports([there | {"variant": "onnx", "served_as": "mine"}])
    assert (named.model, named.variant, named.asked_for) == ("toy", "onnx", "mine")


def test_the_gateway_may_be_left_to_choose_its_connection() -> None:
    """Then only the stack is pinned, and what is spoken upstream is what the answers say."""
    (target,) = made([{"stack": "tfserving", "path": "gateway", "pin": "stack"}])
    assert (target.name, target.pins, target.upstream_protocol) == ("gateway/tfserving", {"x-stack": "tfserving"}, "")


def test_variants_on_one_server_are_compared_and_each_stack_by_the_first_that_is_named() -> None:
    """Not all pairs of all: a comparison of stacks is of one variant each."""
    load = Load("server", "poisson", (Step(100, 5),))
    targets = exports(["torchserve-rest", "tfserving-rest"], "torchscript", "aotinductor", "savedmodel", "xla")
    cells = [CellSpec(f"s-{place}", target, "s", load) for place, target in enumerate(targets)]
    lines = [summarise(cell, rows_of(cell), {}, None, None) for cell in cells]
    assert {f"{found.family}: {found.b.target} / {found.a.target}" for found in within_run(lines, {}).comparisons} == {
        "variants: torchserve-rest aotinductor / torchserve-rest",
        "variants: tfserving-rest xla / tfserving-rest",
        "stacks: tfserving-rest / torchserve-rest",
    }


def test_any_address_is_a_target_and_parity_may_differ_there() -> None:
    """The single variant of a campaign is that of an address which names none."""
    server = {"name": "mine", "protocol": "oip-rest", "address": "h:1", "server": "Mine 1", "parity": False}
    (target,) = made([server], variants=["torchscript"])
    assert (target.name, target.address, target.server, target.parity) == ("mine", "h:1", "Mine 1", False)
    assert (target.stack, target.variant) == ("Mine 1", "torchscript")
    assert made([server | {"parity": True}], parity=False)[0].parity


def test_a_gateway_of_ones_own_is_asked_for_each_variant() -> None:
    """By a header, under a name of its own."""
    gateway = {"name": "g", "protocol": "predict", "address": "h:1", "path": "gateway"}
    found = made([gateway], variants=["torchscript", "savedmodel"])
    assert [(target.name, target.pins) for target in found] == [
        ("g torchscript", {"x-variant": "torchscript"}),
        ("g savedmodel", {"x-variant": "savedmodel"}),
    ]
    assert made([gateway])[0].pins == {}


def compared(targets: Any) -> list[str]:
    """What a run of these targets compares."""
    load = Load("server", "poisson", (Step(100, 5),))
    cells = [
        CellSpec(f"s-{place}", target, "s", load, round=number)
        for number in range(2)
        for place, target in enumerate(made(targets))
    ]
    lines = [summarise(cell, rows_of(cell), {}, None, None) for cell in cells]
    return [f"{found.family}: {found.b.target} / {found.a.target}" for found in within_run(lines, {}).comparisons]


def test_two_servers_of_one_protocol_are_two_servers() -> None:
    """Triton against MLServer: by their names, or by what the user says they are; never one thing by the protocol."""
    triton = {"name": "triton", "protocol": "oip-rest", "address": "h:1"}
    mlserver = {"name": "mlserver", "protocol": "oip-rest", "address": "h:2"}
    assert compared([triton, mlserver]) == ["stacks: mlserver / triton"]
    told = [triton | {"server": "Triton 2.60"}, mlserver | {"server": "MLServer 1.7"}]
    assert compared(told) == ["stacks: mlserver / triton"]


def test_the_doors_of_one_server_are_compared_as_one() -> None:
    """The same `server` says that a port for REST and one for gRPC, or a gateway in front, are of the same server."""
    server = {"server": "Triton 2.60"}
    rest = {"name": "rest", "protocol": "oip-rest", "address": "h:1", **server}
    grpc = {"name": "grpc", "protocol": "oip-grpc", "address": "h:2", **server}
    proxy = {"name": "proxy", "protocol": "oip-rest", "address": "h:3", "path": "gateway", **server}
    assert compared([rest, grpc]) == ["protocols: grpc / rest"]
    assert compared([proxy, rest]) == ["gateway: proxy / rest"]
    assert compared([proxy | {"upstream": "oip-grpc"}, rest]) == []


def test_a_gateway_of_ones_own_is_compared_with_the_stack_behind_it() -> None:
    """`stack` and `upstream` say what answers behind an address; the export is then known too."""
    own = {"name": "g", "protocol": "predict", "address": "h:1", "path": "gateway"}
    found = made([own | {"stack": "torchserve", "upstream": "torchserve-rest"}])[0]
    assert (found.stack, found.variant, found.upstream_protocol) == ("torchserve", "torchscript", "torchserve-rest")
    both = ["torchserve-rest", own | {"stack": "torchserve", "upstream": "torchserve-rest"}]
    assert compared(both) == ["gateway: g / torchserve-rest"]
    assert needed_stacks(campaign_of(campaign_text("x:1", targets=both[1:]), "c")) == ()


@pytest.mark.parametrize(
    ("targets", "stacks"),
    [(["torchserve-rest"], ("torchserve",)), (["gateway/tfserving-rest"], ("gateway", "tfserving"))],
)
def test_the_stacks_that_must_run_are_known(targets: list[str], stacks: tuple[str, ...]) -> None:
    """An address needs none."""
    assert needed_stacks(campaign_of(campaign_text("x:1", targets=targets), "c")) == stacks
    assert needed_stacks(campaign_of(campaign_text("x:1"), "c")) == ()
    assert json.loads(campaign_text("x:1"))["targets"][0]["address"] == "x:1"
