"""The gRPC error table, against the rows of the error design."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from gateway.core.errors import Cause
from gateway.frontends.grpc.errors import OIP, TORCHSERVE

# Causes that cannot arise over gRPC ("-" in the design) take INTERNAL's row.
ROWS = {
    "UNPARSEABLE": "INVALID_ARGUMENT",
    "INVALID_INPUT": "INVALID_ARGUMENT",
    "UNSUPPORTED_DATATYPE": "UNIMPLEMENTED",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "FORBIDDEN": "PERMISSION_DENIED",
    "ROUTE_NOT_FOUND": "UNIMPLEMENTED",
    "METHOD_NOT_ALLOWED": "INTERNAL",
    "MODEL_NOT_FOUND": "NOT_FOUND",
    "VERSION_NOT_FOUND": "NOT_FOUND",
    "LABEL_NOT_FOUND": "NOT_FOUND",
    "SIGNATURE_NOT_FOUND": "INVALID_ARGUMENT",
    "MEDIA_TYPE": "INTERNAL",
    "CLIENT_TOO_SLOW": "INTERNAL",
    "TOO_LARGE": "RESOURCE_EXHAUSTED",
    "RATE_LIMITED": "RESOURCE_EXHAUSTED",
    "OVERLOADED": "UNAVAILABLE",
    "NOT_READY": "UNAVAILABLE",
    "UPSTREAM_UNREACHABLE": "UNAVAILABLE",
    "UPSTREAM_LOST": "INTERNAL",
    "UPSTREAM_BAD_REPLY": "INTERNAL",
    "UPSTREAM_REJECTED": "INVALID_ARGUMENT",
    "UPSTREAM_FAILED": "INTERNAL",
    "DEADLINE": "DEADLINE_EXCEEDED",
    "CLIENT_GONE": "CANCELLED",
    "INTERNAL": "INTERNAL",
}


def test_no_cause_is_unmapped() -> None:
    """Every cause has a row."""
    assert set(OIP) == set(TORCHSERVE) == set(Cause)


@pytest.mark.parametrize("cause", Cause)
def test_statuses_are_those_of_the_design(cause: Cause) -> None:
    """The tables are the design's columns; TorchServe's is the Open Inference Protocol's."""
    assert OIP[cause] is TORCHSERVE[cause] is StatusCode[ROWS[cause.name]]
