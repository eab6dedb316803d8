"""What can become of a request, and how the statuses of both transports are counted alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """Every request ends in exactly one of these; all but `ok` are failures."""

    OK = "ok"
    WRONG_ANSWER = "wrong_answer"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    SHED = "shed"  # refused for load: 429 or 503
    TIMEOUT = "timeout"
    CONN_ERROR = "conn_error"
    DROPPED_BY_CLIENT = "dropped_by_client"  # never sent: too many were under way


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got, before the answer itself is judged.

    `seconds` runs from just before the send until the reply was fully read. `marks` holds `x-served-by` and
    `x-server` where the reply carries them.
    """

    outcome: Outcome
    seconds: float
    body: bytes = b""
    detail: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)


_SERVED_BY = re.compile(r'endpoint=(?P<endpoint>[^;]*); stack=(?P<stack>[^;]*); server="(?P<server>[^"]*)"')


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What a reply says of its origin; empty where it does not say."""

    endpoint: str = ""
    stack: str = ""
    server: str = ""

    @classmethod
    def of(cls, marks: Mapping[str, str]) -> ServedBy:
        """Reads the gateway's `x-served-by`, else the SavedModel server's own `x-server`."""
        found = _SERVED_BY.match(marks.get("x-served-by", ""))
        if found:
            return cls(**found.groupdict())
        # `name/version (stand-in)` as HTTP products are written; the gateway writes `name version (stand-in)`.
        return cls(server=marks.get("x-server", "").replace("/", " ", 1))


class BadReplyError(Exception):
    """Raised for a reply that cannot be read as an answer; it counts as a wrong answer."""


class RefusedError(Exception):
    """Raised for an error that came inside a successful reply; `status` is the HTTP status it stands for."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


# gRPC statuses whose HTTP equivalent is a 4xx.
_CLIENT_CODES = frozenset(
    {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
    }
)
# Refusals for load: the server may well answer the next request.
_SHED_STATUSES = frozenset({429, 503})
_SHED_CODES = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE"})
# UNAVAILABLE is what a server answers with and what gRPC's core says of a lost connection; only the text differs.
_LOST = (
    "failed to connect",
    "connections to all backends failing",
    "connection refused",
    "connection reset",
    "socket closed",
    "broken pipe",
    "goaway",
    "endpoint closing",
    "end of tcp stream",
    "stream removed",
    "recvmsg",
    "sendmsg",
)


def outcome_of_status(status: int) -> Outcome:
    """The outcome of an HTTP status. A redirect, or any other 2xx, is no answer to an inference request."""
    if status == 200:
        return Outcome.OK
    if status in _SHED_STATUSES:
        return Outcome.SHED
    if 400 <= status < 500:
        return Outcome.HTTP_4XX
    return Outcome.HTTP_5XX if status >= 500 else Outcome.WRONG_ANSWER


def outcome_of_code(code: str, details: str) -> Outcome:
    """The outcome of a gRPC status by its name, counted under its HTTP equivalent."""
    if code == "OK":
        return Outcome.OK
    if code == "DEADLINE_EXCEEDED":
        return Outcome.TIMEOUT
    if code == "UNAVAILABLE" and any(mark in details.lower() for mark in _LOST):
        return Outcome.CONN_ERROR
    if code in _SHED_CODES:
        return Outcome.SHED
    return Outcome.HTTP_4XX if code in _CLIENT_CODES else Outcome.HTTP_5XX
