"""Selections against targets."""

from __future__ import annotations

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Selection
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.selection import eligible
from gateway.routing.table import Route
from tests.builders import FakeBackend, contract, selected

ENDPOINTS = {
    name: Endpoint(name, stack, FakeBackend())
    for name, stack in (
        ("ts", "torchserve"),
        ("ts-grpc", "torchserve"),
        ("tf", "tfserving"),
        *(("plain", "oip"), ("lite", "oip")),
    )
}
TARGETS = tuple(Target(name, "doubler") for name in ("ts", "tf", "ts-grpc"))
ROUTE = Route.of(contract(), TARGETS)
# The same with variants that answer only by name: two beside the others, two on endpoints of their own.
VARIANTS = Route.of(
    contract(),
    (
        Target("ts", "doubler-int8", variant="int8", by_name=True),
        *TARGETS,
        Target("tf", "doubler-xla", variant="xla", by_name=True),
        Target("plain", "doubler-plain", variant="plain", by_name=True),
        Target("lite", "doubler-lite16", variant="lite16", by_name=True),
        Target("lite", "doubler-lite8", variant="lite8", by_name=True),
    ),
    unavailable={"tensorrt": "needs an NVIDIA GPU"},
)


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
    assert [target.endpoint for target in eligible(ROUTE, ENDPOINTS, selection)] == expected


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
        eligible(ROUTE, ENDPOINTS, selection)
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
        eligible(ROUTE, ENDPOINTS, selection)
    assert caught.value.cause is Cause.INVALID_INPUT


def test_a_targets_own_variant_wins_over_its_stacks() -> None:
    """A target may say which variant its server runs."""
    route = Route.of(contract(), (*TARGETS, Target("tf", "doubler-xla", variant="xla")))
    assert [item.model for item in eligible(route, ENDPOINTS, selected(variant="xla"))] == ["doubler-xla"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (selected(), ["doubler", "doubler", "doubler"]),
        (selected(endpoint="ts"), ["doubler"]),
        (selected(stack="tfserving"), ["doubler"]),
        (selected(variant="int8"), ["doubler-int8"]),
        (selected(variant="xla", stack="tfserving", endpoint="tf"), ["doubler-xla"]),
        (selected(endpoint="plain"), ["doubler-plain"]),
        (selected(variant="lite8", endpoint="lite"), ["doubler-lite8"]),
    ],
)
def test_what_answers_by_name_answers_nothing_else(selection: Selection, expected: list[str]) -> None:
    """Its variant, or an endpoint that has no other one for the model, is its name."""
    assert [target.model for target in eligible(VARIANTS, ENDPOINTS, selection)] == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (selected(endpoint="lite"), "by endpoint 'lite' as a variant only; name one of 'lite16', 'lite8'"),
        (selected(stack="oip"), "by stack 'oip' as a variant only; name one of 'plain', 'lite16', 'lite8'"),
        (
            selected(variant="tensorrt"),
            "variant 'tensorrt' of model 'doubler' is not available: needs an NVIDIA GPU; "
            "there: 'int8', 'torchscript', 'savedmodel', 'xla', 'plain', 'lite16', 'lite8'",
        ),
    ],
)
def test_a_variant_that_is_not_to_be_had_says_why_and_what_is(selection: Selection, expected: str) -> None:
    """The reason is the configuration's."""
    with pytest.raises(GatewayError) as caught:
        eligible(VARIANTS, ENDPOINTS, selection)
    assert caught.value.cause is Cause.MODEL_NOT_FOUND
    assert expected in caught.value.detail
