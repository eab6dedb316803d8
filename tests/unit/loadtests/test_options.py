"""The locustfile's options: each explained, each with its variable, and the targets they describe."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from loadtests.cell_spec import PROTOCOLS
from loadtests.options import add_options, target_of_options


@dataclass
class FakeParser:
    """Keeps what it is given, as Locust's parser would."""

    added: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_argument(self, name: str, **settings: Any) -> None:
        """Takes one option."""
        self.added[name] = settings

    def defaults(self) -> Namespace:
        """What a user gets who sets nothing."""
        return Namespace(**{name[2:].replace("-", "_"): s["default"] for name, s in self.added.items()})


@pytest.fixture
def parser() -> FakeParser:
    """A parser with our options."""
    parser = FakeParser()
    add_options(cast(Any, parser))
    return parser


def test_every_option_of_the_web_ui_has_help_and_a_variable(parser: FakeParser) -> None:
    """A stranger can set everything without reading the source."""
    shown = parser.added
    assert {"--model", "--gateway-rest", "--tfserving-grpc"} <= shown.keys()
    for name, settings in shown.items():
        assert settings["env_var"] == "TWINSERVE_" + name[2:].upper().replace("-", "_")
    assert all(settings["help"] for settings in parser.added.values())


@pytest.mark.parametrize("wire", PROTOCOLS)
def test_options_describe_a_target_of_each_protocol(wire: str, parser: FakeParser) -> None:
    """The user of a protocol finds its address, and pins nothing unless told to."""
    target = target_of_options(parser.defaults(), wire)
    assert target.protocol == wire
    assert target.address.startswith("127.0.0.1:")
    assert target.pins == {}


def test_gateway_users_can_be_pinned(parser: FakeParser) -> None:
    """A named endpoint wins over the stack; direct users ignore both."""
    options = parser.defaults()
    options.stack = "tfserving"
    assert target_of_options(options, "predict").pins == {"x-stack": "tfserving"}
    options.endpoint = "tf-rest"
    assert target_of_options(options, "oip-grpc").pins == {"x-endpoint": "tf-rest"}
    assert target_of_options(options, "torchserve-rest").pins == {}


@pytest.mark.parametrize("wire", ["tfserving-rest", "tfserving-grpc", "torchserve-rest", "torchserve-grpc"])
def test_the_gateway_has_the_servers_doors_too(wire: str, parser: FakeParser) -> None:
    """The same protocol, but the gateway's address and its pins."""
    options = parser.defaults()
    options.endpoint = "tf"
    target = target_of_options(options, wire, door=True)
    assert (target.protocol, target.path, target.pins) == (wire, "gateway", {"x-endpoint": "tf"})
    assert target.address == (options.gateway_grpc if wire.endswith("grpc") else options.gateway_rest)
