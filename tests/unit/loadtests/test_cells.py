"""Cells: which ones the demo has, what each asks of the gateway, and their JSON form."""

from __future__ import annotations

import json

import pytest

from loadtests.cells import Addresses, Cell, Endpoints, demo_cells
from loadtests.errors import LoadTestError
from tests.unit.loadtests.builders import SERVERS, toy_cell

CELLS = demo_cells(["simplenn", "digits"], servers=SERVERS)


def test_each_model_has_eight_cells_and_a_default_row_for_each_stack() -> None:
    """Per model: two stacks, two protocols, direct and via the gateway, then the gateway's default of each stack."""
    for model in ("simplenn", "digits"):
        own = [cell for cell in CELLS if cell.model == model]
        matrix = {(c.stack, c.protocol, c.path) for c in own if c.upstream != "default"}
        assert len(matrix) == 8
        assert [(c.stack, c.protocol) for c in own if c.upstream == "default"] == [
            ("torchserve", "rest"),
            ("tfserving", "rest"),
        ]


def test_a_matched_cell_speaks_the_direct_cells_protocol_upstream() -> None:
    """The gateway is the only difference between a matched pair."""
    matched = [cell for cell in CELLS if cell.upstream == "matched"]
    assert len(matched) == 8
    assert all(cell.upstream_protocol == cell.protocol for cell in matched)


@pytest.mark.parametrize(
    ("stack", "protocol", "wire", "endpoint"),
    [
        ("torchserve", "rest", "predict", "ts"),
        ("torchserve", "grpc", "oip-grpc", "ts-grpc"),
        ("tfserving", "rest", "predict", "tf-rest"),
        ("tfserving", "grpc", "oip-grpc", "tf"),
    ],
)
def test_a_matched_cell_pins_its_endpoint(stack: str, protocol: str, wire: str, endpoint: str) -> None:
    """A matched cell names the endpoint; its direct partner sends no header and speaks the server's own protocol."""
    matched = toy_cell(path="gateway", stack=stack, protocol=protocol)
    assert matched.wire == wire
    assert matched.pins == {"x-endpoint": endpoint}
    direct = toy_cell(stack=stack, protocol=protocol)
    assert direct.wire == f"{stack}-{protocol}"
    assert direct.pins == {}


def test_a_default_cell_names_only_the_stack() -> None:
    """The gateway chooses the endpoint; until it answers, its documented default is what the row expects."""
    defaults = {c.stack: c for c in CELLS if c.upstream == "default"}
    assert defaults["torchserve"].pins == {"x-stack": "torchserve"}
    assert defaults["torchserve"].upstream_protocol == "rest"
    assert defaults["tfserving"].upstream_protocol == "grpc"
    assert defaults["tfserving"].transports["tf"] == "grpc"


def test_addresses_and_endpoint_names_are_parameters() -> None:
    """Nothing is tied to the default ports or to the default endpoint names."""
    cells = demo_cells(
        ["m"],
        servers=SERVERS,
        addresses=Addresses(torchserve_grpc="10.0.0.1:1", gateway_grpc="10.0.0.2:2"),
        endpoints=Endpoints(torchserve_grpc="other"),
    )
    direct, matched = (c for c in cells if c.stack == "torchserve" and c.protocol == "grpc")
    assert (direct.address, matched.address) == ("10.0.0.1:1", "10.0.0.2:2")
    assert matched.pins == {"x-endpoint": "other"}


def test_a_cell_survives_json() -> None:
    """What is written for Locust is read back equal."""
    for cell in CELLS:
        assert Cell.from_text(json.dumps(cell.to_json())) == cell


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "m"}', '{"unknown": 1}'])
def test_what_is_not_a_cell_is_refused(text: str) -> None:
    """The message names the file."""
    with pytest.raises(LoadTestError, match=r"cell\.json"):
        Cell.from_text(text, "cell.json")


def test_slugs_are_distinct_and_safe_file_names() -> None:
    """Each cell's files have a name of their own, whatever the model is called."""
    cells = demo_cells(["../<script>", "digits"], servers=SERVERS)
    slugs = {cell.slug for cell in cells}
    assert len(slugs) == len(cells)
    assert not any(mark in slug for slug in slugs for mark in "/<>")
