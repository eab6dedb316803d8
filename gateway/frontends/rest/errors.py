"""From a cause to an HTTP answer: one exhaustive table per REST protocol, and its error body."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from gateway.core.errors import Cause, GatewayError
from gateway.frontends import torchserve

PROBLEM_JSON = "application/problem+json"
JSON = "application/json"
OCTETS = "application/octet-stream"

# nginx's number for a client that closed its connection; logged, never received by anybody.
CLIENT_CLOSED_REQUEST = 499

# Cause -> (status, title). `/predict` tells broken syntax (400) from a request that breaks the contract (422).
PREDICT: Mapping[Cause, tuple[int, str]] = {
    Cause.UNPARSEABLE: (400, "The request cannot be parsed"),
    Cause.INVALID_INPUT: (422, "The request breaks the model's contract"),
    Cause.UNSUPPORTED_DATATYPE: (422, "The datatype cannot be carried here"),
    Cause.UNAUTHENTICATED: (401, "A key is needed"),
    Cause.FORBIDDEN: (403, "The key may not use this"),
    Cause.ROUTE_NOT_FOUND: (404, "There is no such path"),
    Cause.METHOD_NOT_ALLOWED: (405, "The path has no such method"),
    Cause.MODEL_NOT_FOUND: (404, "There is no such model"),
    Cause.VERSION_NOT_FOUND: (404, "The model has no such version"),
    Cause.LABEL_NOT_FOUND: (404, "The model has no such label"),
    Cause.SIGNATURE_NOT_FOUND: (422, "The model has no such signature"),
    Cause.MEDIA_TYPE: (415, "The content type or encoding is not supported"),
    Cause.CLIENT_TOO_SLOW: (408, "The request took too long to arrive"),
    Cause.TOO_LARGE: (413, "The request is too large"),
    Cause.RATE_LIMITED: (429, "Too many requests"),
    Cause.OVERLOADED: (503, "The service is overloaded"),
    Cause.NOT_READY: (503, "The model is not ready"),
    Cause.UPSTREAM_UNREACHABLE: (503, "The model server cannot be reached"),
    Cause.UPSTREAM_LOST: (502, "The connection to the model server was lost"),
    Cause.UPSTREAM_BAD_REPLY: (502, "The model server's reply is not usable"),
    Cause.UPSTREAM_REJECTED: (422, "The model refused the request"),
    Cause.UPSTREAM_FAILED: (500, "The model failed"),
    Cause.DEADLINE: (504, "The deadline passed"),
    Cause.CLIENT_GONE: (CLIENT_CLOSED_REQUEST, "The client closed the connection"),
    Cause.INTERNAL: (500, "Internal error"),
}

# The Open Inference Protocol fixes no code; 400 for whatever a client got wrong is what its servers answer.
OIP: Mapping[Cause, int] = {
    **{cause: status for cause, (status, _) in PREDICT.items()},
    Cause.INVALID_INPUT: 400,
    Cause.UNSUPPORTED_DATATYPE: 400,
    Cause.SIGNATURE_NOT_FOUND: 400,
    Cause.UPSTREAM_REJECTED: 400,
}

# TorchServe's numbers are its own only where it has such a failure; a model's own error is its famous 503.
TORCHSERVE: Mapping[Cause, int] = {
    **OIP,
    # No header of TorchServe's is looked at, so that this one cannot arise.
    Cause.MEDIA_TYPE: 500,
    Cause.UPSTREAM_FAILED: 503,
}

# TF Serving's own (model_servers/http_server.cc) where it has the case. UNSUPPORTED_DATATYPE is that of an input.
TFSERVING: Mapping[Cause, int] = {
    **OIP,
    Cause.UNSUPPORTED_DATATYPE: 501,
    Cause.ROUTE_NOT_FOUND: 400,
    Cause.METHOD_NOT_ALLOWED: 400,
    Cause.LABEL_NOT_FOUND: 400,
    # It ignores content types, and codings other than gzip.
    Cause.MEDIA_TYPE: 500,
}

# Answers that say "later": RFC 9110 gives them a Retry-After.
_RETRY_STATUSES = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How one REST protocol tells an error: its status, content type and body."""

    status: Callable[[Cause], int]
    media_type: str
    body: Callable[[GatewayError, str], bytes]


def problem(error: GatewayError, request_id: str) -> bytes:
    """The body of `/predict` errors, after RFC 9457 (problem+json)."""
    status, title = PREDICT[error.cause]
    return _dumped(
        {
            "type": f"urn:twinserve:cause:{error.cause.value}",
            "title": title,
            "status": status,
            "detail": error.detail,
            "cause": error.cause.value,
            "request_id": request_id,
        }
    )


def oip_error(error: GatewayError, _request_id: str) -> bytes:
    """The body of Open Inference Protocol errors."""
    return _dumped({"error": error.detail})


def torchserve_shape(model: str = "", version: str = "") -> ErrorShape:
    """The shape of TorchServe's errors, pretty-printed; its texts name the model and version as they were asked for."""

    def body(error: GatewayError, _request_id: str) -> bytes:
        if error.cause is Cause.TOO_LARGE:
            # Netty's own answer, before TorchServe sees a request.
            return b""
        text = _mended(torchserve.message(error, model, version))
        return torchserve.pretty(
            {"code": TORCHSERVE[error.cause], "type": torchserve.TYPES[error.cause], "message": text}
        )

    return ErrorShape(TORCHSERVE.__getitem__, JSON, body)


def tfserving_error(error: GatewayError, _request_id: str) -> bytes:
    """The body of TF Serving's errors, laid out as it does."""
    return b'{\n    "error": ' + _dumped({"error": error.detail}).removeprefix(b'{"error":').removesuffix(b"}") + b"\n}"


PREDICT_SHAPE = ErrorShape(lambda cause: PREDICT[cause][0], PROBLEM_JSON, problem)
OIP_SHAPE = ErrorShape(OIP.__getitem__, JSON, oip_error)
TORCHSERVE_SHAPE = torchserve_shape()
TFSERVING_SHAPE = ErrorShape(TFSERVING.__getitem__, JSON, tfserving_error)


def shape_for(path: str) -> ErrorShape:
    """The shape of errors on a path: that of the protocol whose path it is, problem+json elsewhere."""
    if is_torchserve(path):
        return TORCHSERVE_SHAPE
    if is_tfserving(path):
        return TFSERVING_SHAPE
    return OIP_SHAPE if is_oip(path) else PREDICT_SHAPE


def is_oip(path: str) -> bool:
    """Whether a path belongs to the Open Inference Protocol."""
    return path == "/v2" or path.startswith("/v2/")


def is_torchserve(path: str) -> bool:
    """Whether a path belongs to TorchServe's API."""
    return path == "/ping" or f"{path}/".startswith(("/predictions/", "/models/"))


def is_tfserving(path: str) -> bool:
    """Whether a path belongs to TF Serving, which does not mind its case."""
    return path[:4].lower() == "/v1/"


def retry_after(error: GatewayError, status: int) -> str | None:
    """The value of `Retry-After`, in whole seconds, for the statuses that have one."""
    if status not in _RETRY_STATUSES:
        return None
    return str(max(1, math.ceil(error.retry_after_s or 1.0)))


def _dumped(body: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        # A detail may quote a name with a lone surrogate, which UTF-8 cannot carry.
        return orjson.dumps({key: _mended(value) for key, value in body.items()})


def _mended(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
