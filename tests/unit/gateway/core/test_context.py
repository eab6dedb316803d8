"""Where one request's time went, as its client is told."""

from __future__ import annotations

import re
from time import perf_counter

import pytest

from gateway.core.context import Timings

SHAPE = re.compile(r"decode;dur=(\S+), queue;dur=(\S+), upstream;dur=(\S+), encode;dur=(\S+), total;dur=(\S+)")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ({}, ["0.000"] * 4),
        ({"decode": 1e-6, "upstream": 0.0012344, "encode": 0.0000016}, ["0.001", "0.000", "1.234", "0.002"]),
        ({"queue": 0.0019989, "upstream": 0.0019991}, ["0.000", "1.999", "1.999", "0.000"]),
        ({"queue": 0.002, "upstream": 12.3456789, "encode": 0.0000016}, ["0.000", "2.000", "12345.679", "0.002"]),
    ],
)
def test_phases_are_told_in_milliseconds(seconds: dict[str, float], told: list[str]) -> None:
    """To the microsecond, however long the longest took, and in the same order always."""
    found = SHAPE.fullmatch(Timings(seconds=seconds).server_timing())
    assert found is not None
    assert list(found.groups())[:4] == told


def test_the_total_is_all_of_it() -> None:
    """Also where nobody says what the time went to."""
    found = SHAPE.fullmatch(Timings(started=perf_counter() - 1.5).server_timing())
    assert found is not None
    assert float(found[5]) >= 1500
