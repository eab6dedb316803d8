"""TorchServe's own words for failures, which its REST and gRPC front ends share (http/HttpRequestHandler.java)."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from gateway.codecs.fields import shown
from gateway.core.errors import Cause, GatewayError

_NO_WORKER = frozenset({Cause.OVERLOADED, Cause.NOT_READY, Cause.UPSTREAM_UNREACHABLE})

_TEXTS: Mapping[Cause, str] = {
    Cause.ROUTE_NOT_FOUND: "Requested resource is not found, please refer to API document.",
    Cause.METHOD_NOT_ALLOWED: "Requested method is not allowed, please refer to API document.",
    Cause.UPSTREAM_FAILED: "Prediction failed",
}

# Cause -> the simple name of the Java class that TorchServe would have thrown.
TYPES: Mapping[Cause, str] = {
    Cause.UNPARSEABLE: "BadRequestException",
    Cause.INVALID_INPUT: "BadRequestException",
    Cause.UNSUPPORTED_DATATYPE: "BadRequestException",
    Cause.UNAUTHENTICATED: "InvalidKeyException",
    Cause.FORBIDDEN: "InvalidKeyException",
    Cause.ROUTE_NOT_FOUND: "ResourceNotFoundException",
    Cause.METHOD_NOT_ALLOWED: "MethodNotAllowedException",
    Cause.MODEL_NOT_FOUND: "ModelNotFoundException",
    Cause.VERSION_NOT_FOUND: "ModelVersionNotFoundException",
    # TorchServe has neither labels nor signatures, but x-label and an Open Inference Protocol body may name one.
    Cause.LABEL_NOT_FOUND: "ModelVersionNotFoundException",
    Cause.SIGNATURE_NOT_FOUND: "BadRequestException",
    Cause.MEDIA_TYPE: "InternalServerException",
    Cause.CLIENT_TOO_SLOW: "RequestTimeoutException",
    Cause.TOO_LARGE: "",
    Cause.RATE_LIMITED: "ServiceUnavailableException",
    Cause.OVERLOADED: "ServiceUnavailableException",
    Cause.NOT_READY: "ServiceUnavailableException",
    Cause.UPSTREAM_UNREACHABLE: "ServiceUnavailableException",
    Cause.UPSTREAM_LOST: "InternalServerException",
    Cause.UPSTREAM_BAD_REPLY: "InternalServerException",
    Cause.UPSTREAM_REJECTED: "BadRequestException",
    Cause.UPSTREAM_FAILED: "InternalServerException",
    Cause.DEADLINE: "RequestTimeoutException",
    Cause.CLIENT_GONE: "InternalServerException",
    Cause.INTERNAL: "InternalServerException",
}


def message(error: GatewayError, model: str = "", version: str = "") -> str:
    """The error's text as TorchServe words it for a model, by its name and version as the client wrote them.

    Clients tell a full queue and a missing model by these words; what only the gateway knows follows them.
    """
    cause = error.cause
    if cause in _TEXTS:
        return _TEXTS[cause]
    if cause is Cause.MODEL_NOT_FOUND and model:
        return _led(f"Model not found: {shown(model)}", error.detail, f"unknown model '{model[:128]}'")
    if cause is Cause.VERSION_NOT_FOUND and model and version:
        return f"Model version: {shown(version)} does not exist for model: {shown(model)}"
    if cause in _NO_WORKER and model:
        # TorchServe's own text has one quotation mark too many where there is a version.
        named = f'Model "{shown(model)}"' + (f' Version {shown(version)}"' if version else "")
        return f"{named} has no worker to serve inference request. {error.detail}"
    return error.detail


def pretty(document: object) -> bytes:
    """JSON as TorchServe prints it, with a newline at its end."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def health(ready: bool) -> dict[str, str]:
    """What `/ping` and Ping say."""
    return {"status": "Healthy" if ready else "Unhealthy"}


def _led(text: str, detail: str, same: str) -> str:
    # A model that exists, but not on the stack or endpoint asked for, is not found either: then the detail says why.
    return text if detail in (text, same) else f"{text} ({detail})"
