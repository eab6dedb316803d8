"""From a cause to a gRPC status: one exhaustive table per gRPC protocol."""

from __future__ import annotations

from collections.abc import Mapping

from grpc import StatusCode

from gateway.core.errors import Cause

# METHOD_NOT_ALLOWED, MEDIA_TYPE and CLIENT_TOO_SLOW cannot arise over gRPC; they map as a bug of ours would.
OIP: Mapping[Cause, StatusCode] = {
    Cause.UNPARSEABLE: StatusCode.INVALID_ARGUMENT,
    Cause.INVALID_INPUT: StatusCode.INVALID_ARGUMENT,
    Cause.UNSUPPORTED_DATATYPE: StatusCode.UNIMPLEMENTED,
    Cause.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Cause.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    Cause.ROUTE_NOT_FOUND: StatusCode.UNIMPLEMENTED,
    Cause.METHOD_NOT_ALLOWED: StatusCode.INTERNAL,
    Cause.MODEL_NOT_FOUND: StatusCode.NOT_FOUND,
    Cause.VERSION_NOT_FOUND: StatusCode.NOT_FOUND,
    Cause.LABEL_NOT_FOUND: StatusCode.NOT_FOUND,
    Cause.SIGNATURE_NOT_FOUND: StatusCode.INVALID_ARGUMENT,
    Cause.MEDIA_TYPE: StatusCode.INTERNAL,
    Cause.CLIENT_TOO_SLOW: StatusCode.INTERNAL,
    Cause.TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    Cause.RATE_LIMITED: StatusCode.RESOURCE_EXHAUSTED,
    Cause.OVERLOADED: StatusCode.UNAVAILABLE,
    Cause.NOT_READY: StatusCode.UNAVAILABLE,
    Cause.UPSTREAM_UNREACHABLE: StatusCode.UNAVAILABLE,
    Cause.UPSTREAM_LOST: StatusCode.INTERNAL,
    Cause.UPSTREAM_BAD_REPLY: StatusCode.INTERNAL,
    Cause.UPSTREAM_REJECTED: StatusCode.INVALID_ARGUMENT,
    Cause.UPSTREAM_FAILED: StatusCode.INTERNAL,
    Cause.DEADLINE: StatusCode.DEADLINE_EXCEEDED,
    Cause.CLIENT_GONE: StatusCode.CANCELLED,
    Cause.INTERNAL: StatusCode.INTERNAL,
}

# Not TorchServe's own statuses, which are INTERNAL for most (a missing model, a full queue), but the ones they mean.
TORCHSERVE: Mapping[Cause, StatusCode] = {**OIP}
# TF Serving's own (util/status_util.cc) where it has the case.
TFSERVING: Mapping[Cause, StatusCode] = {
    **OIP,
    Cause.LABEL_NOT_FOUND: StatusCode.INVALID_ARGUMENT,
    Cause.SIGNATURE_NOT_FOUND: StatusCode.FAILED_PRECONDITION,
}
