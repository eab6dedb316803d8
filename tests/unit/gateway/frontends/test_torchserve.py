"""TorchServe's words for failures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.core.errors import Cause, GatewayError
from gateway.frontends.grpc.errors import TORCHSERVE as GRPC
from gateway.frontends.rest.errors import TORCHSERVE as REST
from gateway.frontends.torchserve import TYPES, health, message, pretty


def test_no_cause_is_without_a_type() -> None:
    """Every cause has the exception that TorchServe would have thrown."""
    assert set(TYPES) == set(Cause)


def test_the_documented_rows_are_the_tables() -> None:
    """Cause by cause; what the page does not name cannot arise while there are no keys, or at these doors."""
    page = (Path(__file__).resolve().parents[4] / "docs" / "errors.md").read_text()
    section = page.partition("### TorchServe's paths and service")[2]
    documented = set()
    for causes, rest, grpc in re.findall(r"^\| (`.*?) \| (.*?) \|(?: ([A-Z_]+))? \|$", section, re.MULTILINE):
        status, _, kind = rest.partition(" ")
        for name in re.findall(r"`(\w+)`", causes):
            cause = Cause(name)
            documented.add(cause)
            if rest != "logged":
                assert (str(REST[cause]), TYPES[cause]) == (
                    status.strip(","),
                    "".join(re.findall(r"\w+Exception", kind)),
                )
            if grpc:
                assert GRPC[cause].name == grpc
    assert set(Cause) - documented == {Cause.UNAUTHENTICATED, Cause.FORBIDDEN, Cause.RATE_LIMITED, Cause.MEDIA_TYPE}


@pytest.mark.parametrize(
    ("cause", "model", "version", "expected"),
    [
        (Cause.ROUTE_NOT_FOUND, "", "", "Requested resource is not found, please refer to API document."),
        (Cause.METHOD_NOT_ALLOWED, "m", "", "Requested method is not allowed, please refer to API document."),
        (Cause.UPSTREAM_FAILED, "m", "1.0", "Prediction failed"),
        (Cause.MODEL_NOT_FOUND, "m", "", "Model not found: m (why)"),
        (Cause.MODEL_NOT_FOUND, "", "", "why"),
        (Cause.VERSION_NOT_FOUND, "m", "9.9", "Model version: 9.9 does not exist for model: m"),
        (Cause.VERSION_NOT_FOUND, "m", "", "why"),
        (Cause.OVERLOADED, "m", "", 'Model "m" has no worker to serve inference request. why'),
        (Cause.NOT_READY, "m", "2.0", 'Model "m" Version 2.0" has no worker to serve inference request. why'),
        (Cause.UPSTREAM_UNREACHABLE, "m", "", 'Model "m" has no worker to serve inference request. why'),
        (Cause.NOT_READY, "", "", "why"),
        (Cause.INVALID_INPUT, "m", "1", "why"),
        (Cause.INTERNAL, "m", "", "why"),
    ],
)
def test_texts_are_torchserves_where_it_has_one(cause: Cause, model: str, version: str, expected: str) -> None:
    """With what only the gateway knows behind them."""
    assert message(GatewayError(cause, "why"), model, version) == expected


def test_a_model_that_is_nowhere_is_told_in_torchserves_words_alone() -> None:
    """The gateway has nothing to add."""
    assert message(GatewayError(Cause.MODEL_NOT_FOUND, "unknown model 'm'"), "m") == "Model not found: m"


def test_names_are_cut_and_printable() -> None:
    """A client's own words come back in its error."""
    assert message(GatewayError(Cause.VERSION_NOT_FOUND, ""), "a\n" + "b" * 100, "1").endswith(": a?" + "b" * 62)


def test_health_is_printed_as_torchserve_prints_it() -> None:
    """Clients compare the text."""
    assert pretty(health(True)) == b'{\n  "status": "Healthy"\n}\n'
    assert pretty(health(False)) == b'{\n  "status": "Unhealthy"\n}\n'
