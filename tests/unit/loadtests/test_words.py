"""How figures are written."""

from __future__ import annotations

import pytest

from loadtests.words import NONE, number, transport_word


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (0, "0"),
        (0.12345, "0.123"),
        (1.0, "1"),
        (14.26, "14.3"),
        (829.4, "829"),
        (12345.6, "12,300"),
        (3.14159e-5, "3.14e-05"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    """No figure claims more than it knows; none at all is a dash."""
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "+0.5"), (-0.5, "\N{MINUS SIGN}0.5"), (0.0, "0"), (None, NONE)])
def test_differences_carry_their_sign(value: float | None, text: str) -> None:
    """A gateway may also come out faster."""
    assert number(value, True) == text


def test_names_are_written_as_people_do() -> None:
    """No transport is a dash."""
    assert (transport_word("grpc"), transport_word(None)) == ("gRPC", NONE)
