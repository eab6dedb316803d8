"""The parity gate and the cache check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.core.contract import Tolerance
from loadtests.campaign.asking import Asker, Told, check_listening, host_and_port
from loadtests.campaign.parity import cache_check, gate, parity_of, warning
from loadtests.errors import LoadTestError
from loadtests.golden import Golden, load_golden
from loadtests.replies import Outcome
from tests.unit.loadtests.builders import toy_model, write_toy
from tests.unit.loadtests.campaign.worlds import target, toy_server


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    """The toy's golden data: 64 rows."""
    return load_golden(write_toy(tmp_path), "toy")


def answering(golden: Golden, seconds: Callable[[int], float] = lambda _: 0.001) -> Callable[[int, int], Told]:
    """A target that answers rightly and takes as long as `seconds` says of a question."""

    def ask(question: int, rows: int) -> Told:
        part = slice(question * rows, (question + 1) * rows)
        return Told(Outcome.OK, seconds(question), {"y": golden.outputs["y"][part]}, bytes_out=10, bytes_in=20)

    return ask


def test_right_answers_pass_with_their_largest_difference(golden: Golden) -> None:
    """Every golden row is asked."""
    found = parity_of(target(), golden, 4, answering(golden))
    assert (found.checked, found.bad, found.max_abs, found.max_rel) == (16, 0, 0.0, 0.0)
    assert (found.bytes_out, found.bytes_in) == (10, 20)
    assert warning(target(), found) is None


def test_every_size_that_is_measured_is_checked(golden: Golden) -> None:
    """A server that mixes up the rows of a batch is right as long as one row is asked at a time."""

    def mixed_up(question: int, rows: int) -> Told:
        told = answering(golden)(question, rows)
        assert told.answer is not None
        return Told(Outcome.OK, 0.001, {"y": told.answer["y"][::-1]}, bytes_out=10 * rows, bytes_in=20 * rows)

    found = parity_of(target(), golden, 1, mixed_up, 16)
    assert (found.checked, found.questions, found.bad) == (68, 68, 4)
    assert (found.bytes_out, found.bytes_in) == (10, 20)


def test_a_gate_that_ended_early_says_so(golden: Golden) -> None:
    """A slow target is asked for a minute, and its result says how much of the golden data that was."""
    found = parity_of(target(), golden, 1, answering(golden, lambda _: 7.0), 4)
    assert (found.checked, found.questions, found.whole) == (9, 80, False)
    assert "9 of 80 golden questions were asked in 60 s" in (warning(target(), found) or "")


def test_differences_are_counted_and_the_first_is_told(golden: Golden) -> None:
    """In the contract's tolerance, and as |a - b| and |a - b| / |b|."""

    def off(question: int, rows: int) -> Told:
        told = answering(golden)(question, rows)
        assert told.answer is not None
        return told if question else Told(Outcome.OK, 0.001, {"y": told.answer["y"] * np.float32(1.5)})

    found = parity_of(target(), golden, 1, off)
    assert (found.checked, found.bad) == (64, 1)
    assert found.max_rel == pytest.approx(0.5)
    assert "1 of 64 golden answers differ (output 'y' is off by up to" in (warning(target(), found) or "")


def test_a_quantized_variant_must_keep_the_classes(golden: Golden) -> None:
    """Within its distance, but too often of another class than the original."""

    def other_class(question: int, rows: int) -> Told:
        told = answering(golden)(question, rows)
        assert told.answer is not None
        # One row of eight has its outputs exchanged.
        return Told(Outcome.OK, 0.001, {"y": told.answer["y"][:, :: -1 if question % 8 == 0 else 1]})

    wide = replace(golden, contract=replace(golden.contract, tolerance=Tolerance(1e9, 0)))
    assert parity_of(target(), replace(wide, agreement=0.85), 1, other_class).bad == 0
    found = parity_of(target(), replace(wide, agreement=0.9), 1, other_class)
    assert (found.bad, found.fault) == (1, "the original's class on 87.5% of the rows; at least 90.0% is expected")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Told(Outcome.CONN_ERROR, 0.1, detail="refused"), "does not answer by predict: refused"),
        (Told(Outcome.HTTP_4XX, 0.1, detail="HTTP 404: none", status="404"), "has no model 'toy': HTTP 404"),
        (Told(Outcome.HTTP_4XX, 0.1, detail="NOT_FOUND: none", status="NOT_FOUND"), "has no model 'toy'"),
        (Told(Outcome.HTTP_5XX, 0.1, detail="HTTP 503: down", status="503"), "answers no golden question"),
    ],
)
def test_a_target_that_cannot_be_asked_stops_the_campaign(golden: Golden, told: Told, words: str) -> None:
    """Down, without the model, or with nothing behind it."""
    with pytest.raises(LoadTestError, match=words):
        parity_of(target(), golden, 1, lambda *_: told)


def test_the_name_that_the_server_knows_is_the_one_that_is_told(golden: Golden) -> None:
    """Of a variant its own, at the gateway the model's with the variant."""
    none = Told(Outcome.HTTP_4XX, 0.1, detail="HTTP 404: none", status="404")
    with pytest.raises(LoadTestError, match="has no model 'toy-int8-dynamic': HTTP 404"):
        parity_of(target(served_as="toy-int8-dynamic"), golden, 1, lambda *_: none)
    with pytest.raises(LoadTestError, match="has no model 'toy', variant 'int8-dynamic': HTTP 404"):
        parity_of(target(pins={"x-variant": "int8-dynamic"}), golden, 1, lambda *_: none)


def test_a_server_that_remembers_answers_is_suspected(golden: Golden) -> None:
    """A repeated question in less than nine tenths of the time of others."""
    check = cache_check(golden, 1, answering(golden, lambda question: 0.002 if question else 0.001))
    assert check is not None
    assert (check.ratio, check.suspected) == (pytest.approx(0.5), True)
    honest = cache_check(golden, 1, answering(golden, lambda question: 0.002 if question else 0.0019))
    assert honest is not None
    assert not honest.suspected
    assert cache_check(golden, 32, answering(golden)) is None


def test_the_gate_asks_a_real_server(golden: Golden) -> None:
    """Over one connection, by the target's protocol."""
    with toy_server() as address:
        found = gate(target(address=address), golden, 4)
    assert (found.checked, found.bad) == (16, 0)
    assert found.cache is not None


def test_a_wrong_protocol_and_a_server_that_is_down_are_told(golden: Golden) -> None:
    """Nothing is raised but words."""
    with toy_server() as address, Asker(target(address=address), golden) as asker:
        assert asker.ask(0, 1).outcome is Outcome.OK
    with Asker(target(address=address), golden) as asker:
        assert asker.ask(0, 1).outcome is Outcome.CONN_ERROR
    with pytest.raises(LoadTestError, match=f"nothing answers at {address}"):
        check_listening(target(address=address))
    with toy_server(lambda x: toy_model(x)[:, :1]) as address:
        found = gate(target(address=address), golden, 4)
    assert found.fault.startswith("output 'y' has shape [4, 1]")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("localhost:80", ("localhost", 80)), ("http://[::1]:9", ("::1", 9)), ("http://host", ("host", 80))],
)
def test_addresses_are_hosts_and_ports(address: str, expected: tuple[str, int]) -> None:
    """With or without a scheme."""
    assert host_and_port(address) == expected


@pytest.mark.parametrize("address", ["host", "https://host:1", "host:port", "", "http://:9", "host:99999"])
def test_what_is_no_address_is_told(address: str) -> None:
    """By what was expected."""
    with pytest.raises(LoadTestError, match="expected host:port"):
        host_and_port(address)
