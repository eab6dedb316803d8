"""Every failure of the gateway: one exception type, one closed list of causes.

A front end owns one exhaustive table from `Cause` to its protocol's status; nothing else in the gateway
knows a status code of a downstream protocol.
"""

from __future__ import annotations

from enum import StrEnum

# Upstream text reaches clients; it is capped, so that a model server cannot fill an answer or a log line.
MAX_UPSTREAM_TEXT = 512


class Cause(StrEnum):
    """Why a request was not answered with a result."""

    UNPARSEABLE = "unparseable"
    INVALID_INPUT = "invalid_input"
    UNSUPPORTED_DATATYPE = "unsupported_datatype"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    ROUTE_NOT_FOUND = "route_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    VERSION_NOT_FOUND = "version_not_found"
    LABEL_NOT_FOUND = "label_not_found"
    SIGNATURE_NOT_FOUND = "signature_not_found"
    MEDIA_TYPE = "media_type"
    CLIENT_TOO_SLOW = "client_too_slow"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_LOST = "upstream_lost"
    UPSTREAM_BAD_REPLY = "upstream_bad_reply"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_FAILED = "upstream_failed"
    DEADLINE = "deadline"
    CLIENT_GONE = "client_gone"
    INTERNAL = "internal"


class GatewayError(Exception):
    """Raised for every failure that a client is told of.

    `detail` names the input and what was expected; it never echoes a payload. `retry_after_s` is a hint
    for causes that pass by themselves.
    """

    def __init__(self, cause: Cause, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"GatewayError({self.cause.name}, {self.detail!r})"

    def again(self) -> GatewayError:
        """The same, for another task to raise: one that several raise would collect all their tracebacks."""
        kind = RefusedError if isinstance(self, RefusedError) else GatewayError
        other = kind(self.cause, self.detail, retry_after_s=self.retry_after_s)
        other.__cause__ = self.__cause__
        return other


class RefusedError(GatewayError):
    """Raised by a gate of the gateway's own: nothing was sent, so that another endpoint may be asked at no cost."""


def capped(text: str, limit: int = MAX_UPSTREAM_TEXT) -> str:
    """`text` cut to `limit` characters, with a mark where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
