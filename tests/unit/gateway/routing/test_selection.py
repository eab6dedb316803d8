"""Selections against targets."""

from __future__ import annotations

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Selection
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.selection import eligible
from tests.builders import FakeBackend, contract, selected

ENDPOINTS = {
    name: Endpoint(name, stack, FakeBackend())
    for name, stack in (("ts", "torchserve"), ("ts-grpc", "torchserve"), ("tf", "tfserving"))
}
TARGETS = [Target(name, "doubler") for name in ("ts", "tf", "ts-grpc")]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (selected(), ["ts", "tf", "ts-grpc"]),
        (selected(stack="tfserving"), ["tf"]),
        (selected(stack="torchserve"), ["ts", "ts-grpc"]),
        (selected(endpoint="ts-grpc"), ["ts-grpc"]),
        (selected(variant="savedmodel"), ["tf"]),
        (selected(variant="torchscript", stack="torchserve"), ["ts", "ts-grpc"]),
    ],
)
def test_a_selection_leaves_its_targets_in_listed_order(selection: Selection, expected: list[str]) -> None:
    """Without one, all are left: the policy chooses."""
    assert [target.endpoint for target in eligible(contract(), TARGETS, ENDPOINTS, selection)] == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (selected(stack="oip"), "stack 'oip'; there: 'torchserve', 'tfserving'"),
        (selected(endpoint="nowhere"), "endpoint 'nowhere'; there: 'ts', 'tf', 'ts-grpc'"),
        (selected(variant="onnx"), "variant 'onnx'; there: 'torchscript', 'savedmodel'"),
    ],
)
def test_a_selection_that_leaves_none_says_what_there_is(selection: Selection, expected: str) -> None:
    """The model is not to be had that way; the message lists the ways."""
    with pytest.raises(GatewayError, match=expected) as caught:
        eligible(contract(), TARGETS, ENDPOINTS, selection)
    assert caught.value.cause is Cause.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (selected(stack="tfserving", endpoint="ts"), "endpoint 'ts', stack 'tfserving'"),
        (selected(stack="torchserve", variant="savedmodel"), "stack 'torchserve', variant 'savedmodel'"),
    ],
)
def test_choices_that_exclude_each_other_are_the_clients_mistake(selection: Selection, expected: str) -> None:
    """Each is there, all of them together are not; the message names them."""
    with pytest.raises(GatewayError, match=expected) as caught:
        eligible(contract(), TARGETS, ENDPOINTS, selection)
    assert caught.value.cause is Cause.INVALID_INPUT


def test_a_targets_own_variant_wins_over_its_stacks() -> None:
    """A target may say which export its server runs."""
    targets = [*TARGETS, Target("tf", "doubler-xla", variant="xla")]
    assert [item.model for item in eligible(contract(), targets, ENDPOINTS, selected(variant="xla"))] == ["doubler-xla"]
