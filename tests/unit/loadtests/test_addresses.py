"""Where the servers listen, and what the gateway calls its connections to them."""

from __future__ import annotations

from loadtests.addresses import Addresses, Endpoints, server_of


def test_each_connection_of_the_gateway_has_its_transport() -> None:
    """Two for each server, under names that a user may change."""
    assert Endpoints().transports() == {
        **{"ts": "rest", "ts-grpc": "grpc", "tf-rest": "rest", "tf": "grpc"},
        **{"tf-nograppler-rest": "rest", "tf-nograppler": "grpc"},
    }
    assert Endpoints(torchserve_grpc="other").transports()["other"] == "grpc"


def test_a_server_has_an_address_for_each_transport() -> None:
    """The gateway is one of them."""
    addresses = Addresses(gateway_grpc="10.0.0.2:2")
    assert addresses.of("gateway", "grpc") == "10.0.0.2:2"
    assert addresses.of("tfserving", "rest") == "127.0.0.1:8501"


def test_one_variant_has_a_server_of_its_own() -> None:
    """Every other is served where its stack is."""
    assert server_of("tfserving", "savedmodel-nograppler") == "tfserving-nograppler"
    assert server_of("tfserving", "xla") == "tfserving"
    assert Addresses().of("tfserving-nograppler", "grpc") == "127.0.0.1:8510"
