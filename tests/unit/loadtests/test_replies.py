"""Outcomes: HTTP and gRPC statuses are counted alike; and what a reply says of its origin."""

from __future__ import annotations

import pytest

from loadtests.replies import Outcome, ServedBy, outcome_of_code, outcome_of_status


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.OK),
        (204, Outcome.WRONG_ANSWER),
        (302, Outcome.WRONG_ANSWER),
        (404, Outcome.HTTP_4XX),
        (429, Outcome.SHED),
        (500, Outcome.HTTP_5XX),
        (503, Outcome.SHED),
    ],
)
def test_http_statuses(status: int, outcome: Outcome) -> None:
    """Only 200 can be an answer; a redirect is none."""
    assert outcome_of_status(status) is outcome


@pytest.mark.parametrize(
    ("code", "details", "outcome"),
    [
        ("OK", "", Outcome.OK),
        ("INVALID_ARGUMENT", "input 'x' is missing", Outcome.HTTP_4XX),
        ("NOT_FOUND", "", Outcome.HTTP_4XX),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Outcome.TIMEOUT),
        ("UNAVAILABLE", "Prediction failed", Outcome.SHED),
        ("RESOURCE_EXHAUSTED", "", Outcome.SHED),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: refused", Outcome.CONN_ERROR),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", Outcome.CONN_ERROR),
        ("INTERNAL", "Connection reset by the model server", Outcome.HTTP_5XX),
        ("UNIMPLEMENTED", "", Outcome.HTTP_5XX),
    ],
)
def test_grpc_codes(code: str, details: str, outcome: Outcome) -> None:
    """UNAVAILABLE is a server's answer unless gRPC's own words say that the connection was lost."""
    assert outcome_of_code(code, details) is outcome


def test_replies_name_who_answered() -> None:
    """The gateway's header wins over the SavedModel server's own mark; both give one name."""
    header = 'endpoint=tf; stack=tfserving; server="savedmodel-server 1.0 (stand-in)"; version=1'
    gateway = ServedBy.of({"x-served-by": header, "x-server": "other"})
    assert gateway == ServedBy("tf", "tfserving", "savedmodel-server 1.0 (stand-in)")
    assert ServedBy.of({"x-server": "savedmodel-server/1.0 (stand-in)"}).server == "savedmodel-server 1.0 (stand-in)"
    assert ServedBy.of({"x-served-by": "garbage"}) == ServedBy()
