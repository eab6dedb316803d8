"""Fields that several protocols share."""

from __future__ import annotations

import pytest

from gateway.codecs.fields import (
    input_name,
    parameter,
    refuse_unknown,
    request_id,
    shown,
    wanted_outputs,
)
from gateway.core.errors import Cause, GatewayError


@pytest.mark.parametrize("value", ["text", True, False, 0, -(2**63), 2**64 - 1, 1.5])
def test_scalar_parameters_pass(value: object) -> None:
    """Strings, booleans and finite 64-bit numbers are parameters."""
    assert parameter("p", value) is value


@pytest.mark.parametrize("value", [None, [], {}, float("nan"), float("inf"), 2**64, -(2**63) - 1])
def test_other_parameters_are_invalid_input(value: object) -> None:
    """Everything else is refused, naming the parameter."""
    with pytest.raises(GatewayError, match="'p'") as caught:
        parameter("p", value)
    assert caught.value.cause is Cause.INVALID_INPUT


@pytest.mark.parametrize("value", [None, "", 1, "x" * 257])
def test_unusable_input_names_are_invalid_input(value: object) -> None:
    """A name must be there, and short enough for messages to repeat it."""
    with pytest.raises(GatewayError) as caught:
        input_name(value)
    assert caught.value.cause is Cause.INVALID_INPUT
    assert len(caught.value.detail) < 100


@pytest.mark.parametrize("names", [[1], [""], [None], ["y", "y"], [["y"]]])
def test_unusable_outputs_are_invalid_input(names: list[object]) -> None:
    """Outputs are asked for by name, each once."""
    with pytest.raises(GatewayError, match="outputs") as caught:
        wanted_outputs(names)
    assert caught.value.cause is Cause.INVALID_INPUT


def test_outputs_keep_their_order() -> None:
    """The answer comes in the order asked for."""
    assert wanted_outputs(["b", "a"]) == ("b", "a")


def test_ids_are_strings_or_absent() -> None:
    """No id is the empty string; a number is none."""
    assert request_id(None) == ""
    assert request_id("7") == "7"
    with pytest.raises(GatewayError, match="'id'"):
        request_id(7)


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    """The message lists a few unknown fields, cut and printable, and all known ones."""
    with pytest.raises(GatewayError) as caught:
        refuse_unknown(
            "the body", ["a", "\x1b[31m", *(f"z{n}" for n in range(9)), "x" * 100_000], frozenset({"b", "a"})
        )
    detail = caught.value.detail
    assert caught.value.cause is Cause.INVALID_INPUT
    assert "'?[31m'" in detail
    assert "and 7 more" in detail
    assert detail.endswith("expected a, b")
    assert len(detail) < 400
    refuse_unknown("the body", ["a"], frozenset({"a", "b"}))


def test_shown_words_are_cut_and_printable() -> None:
    """A client's word can neither fill nor break a line."""
    assert shown("a\r\n\ud800b") == "a???b"
    assert len(shown("x" * 1000)) == 64
