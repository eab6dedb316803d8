"""Names that clients ask for, and the bounds on what is done about them."""

from __future__ import annotations

from gateway.routing.wanted import LOOK_S, MAX_MISSED, MAX_PENDING, MISSED_S, Wanted
from tests.builders import FakeClock


def test_a_name_is_looked_for_until_every_endpoint_has_been_asked() -> None:
    """It is missed only where none has it, and then not looked for again for a while."""
    clock = FakeClock()
    wanted = Wanted(clock)
    assert wanted.want("m", ["a", "b"])
    assert wanted.want("m", ["a", "b"])
    wanted.missed("m", "a")
    assert (wanted.names("a"), wanted.names("b")) == ((), ("m",))
    wanted.missed("m", "b")
    assert not wanted.want("m", ["a", "b"])
    clock.advance(MISSED_S)
    assert wanted.want("m", ["a"])
    wanted.found("m")
    assert wanted.names("a") == ()


def test_what_is_looked_for_at_once_is_bounded() -> None:
    """Further names are simply unknown; a look that nobody answers comes to its end."""
    clock = FakeClock()
    wanted = Wanted(clock)
    assert [wanted.want(f"m{index}", ["a"]) for index in range(MAX_PENDING + 2)] == [True] * MAX_PENDING + [False] * 2
    assert not wanted.want("other", [])
    clock.advance(LOOK_S)
    assert wanted.want("other", ["a"])
    assert wanted.names("a") == ("other",)
    assert not wanted.want("m0", ["a"])


def test_what_is_remembered_of_misses_is_bounded() -> None:
    """The oldest is forgotten first, and may be looked for again."""
    wanted = Wanted(FakeClock())
    for index in range(MAX_MISSED + 1):
        wanted.want(f"m{index}", ["a"])
        wanted.missed(f"m{index}", "a")
    assert not wanted.want("m1", ["a"])
    assert wanted.want("m0", ["a"])


def test_an_answer_on_a_name_that_nobody_wants_changes_nothing() -> None:
    """Models that are known anyway are asked about all the time."""
    wanted = Wanted(FakeClock())
    wanted.missed("m", "a")
    wanted.found("m")
    assert wanted.want("m", ["a"])
