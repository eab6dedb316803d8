"""The one seam where foreign exceptions and model servers' own errors become `GatewayError`s.

Three kinds of failure meet here. The transport's own (nothing connected, the connection broke, the deadline
passed) are the same for every server. What a server *answers* is judged by that server's table: TensorFlow Serving
speaks gRPC status codes over both transports, TorchServe HTTP statuses and Java class names, servers of the Open
Inference Protocol each their own mixture. What fits none is treated as perhaps processed, because that is never sent
again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import grpc

from gateway.core.errors import Cause, GatewayError, capped

Answered = Callable[[grpc.StatusCode, str], GatewayError]
Code = grpc.StatusCode

# grpcio gives UNAVAILABLE for every trouble with a connection; only these texts are written before anything was
# sent (seen with grpcio 1.85: refused, reset in the handshake, no SETTINGS frame, unknown host).
_BEFORE_CONNECTION = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "errors resolving ",
    "DNS resolution failed",
    "empty address list",
)
# Statuses that grpcio makes up when a stream or its connection breaks under a call.
_BROKEN_STREAM = ("Stream removed", "Received RST_STREAM")
# Something else than the expected server answers, or answers compressed, which was not offered.
_NOT_OURS = (
    (Code.UNIMPLEMENTED, "Received http2 header with status"),
    (Code.UNIMPLEMENTED, "Method not found!"),  # grpcio
    (Code.UNIMPLEMENTED, "Method not found"),  # grpc-java, the method's name after a colon
    (Code.UNIMPLEMENTED, ""),  # gRPC C++
    (Code.INTERNAL, "Compression algorithm not supported"),
)
_TOO_BIG = re.compile(r"larger than max|exceeds maximum size")


class TakesNoWorkError(GatewayError):
    """TorchServe's refusal that means either a full queue or no worker; its describe call tells which."""

    def __init__(self, detail: str) -> None:
        super().__init__(Cause.NOT_READY, detail)


class TokenRefusedError(GatewayError):
    """TorchServe's answer to a missing, wrong or expired access token: the endpoint is configured wrongly.

    Nothing was processed.
    """

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            Cause.UPSTREAM_BAD_REPLY,
            detail or f"{TORCHSERVE} demands an access token; write token_file: KEY_FILE.JSON on the endpoint",
        )


@contextmanager
def translated(server: str, answered: Answered | None = None) -> Iterator[None]:
    """Raises every failure of the body as a `GatewayError`, the original kept as its cause.

    `server` is how messages name the model server; `answered` judges a gRPC status that it sent itself, and is not
    needed over HTTP, where a status is no exception. A cancellation of the running task passes through.
    """
    try:
        yield
    except GatewayError:
        raise
    except grpc.aio.AioRpcError as exc:
        code, text = exc.code(), exc.details() or ""
        cause = rpc_transport_cause(code, text)
        if cause is None and answered is not None:
            raise answered(code, text) from exc
        raise _failed(server, cause or Cause.UPSTREAM_LOST) from exc
    except grpc.aio.UsageError as exc:
        raise _failed(server, Cause.UPSTREAM_UNREACHABLE) from exc
    except asyncio.CancelledError as exc:
        # Closing a gRPC channel cancels its calls, although nobody cancelled the task that waits for them.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _failed(server, Cause.UPSTREAM_LOST) from exc
    except TimeoutError as exc:
        raise too_late(server) from exc
    except OSError as exc:
        raise lost(server, exc) from exc


@contextmanager
def probing(server: str) -> Iterator[None]:
    """For questions that no client waits for: silence, however it came about, is UPSTREAM_UNREACHABLE."""
    try:
        yield
    except GatewayError as exc:
        if exc.cause not in (Cause.DEADLINE, Cause.UPSTREAM_LOST):
            raise
        raise _failed(server, Cause.UPSTREAM_UNREACHABLE) from exc


def rpc_transport_cause(code: grpc.StatusCode, details: str) -> Cause | None:
    """The cause of a gRPC status that the client's own transport made up; None where the server answered.

    UPSTREAM_UNREACHABLE only where certainly nothing was sent, since it is the one that is tried again.
    """
    if code is Code.DEADLINE_EXCEEDED:
        return Cause.DEADLINE
    if code is Code.RESOURCE_EXHAUSTED and _TOO_BIG.search(details):
        return Cause.UPSTREAM_BAD_REPLY if "CLIENT:" in details else Cause.TOO_LARGE
    if (code, details.partition(":")[0]) in _NOT_OURS:
        return Cause.UPSTREAM_BAD_REPLY
    if code is Code.UNAVAILABLE and details.startswith(_BEFORE_CONNECTION):
        return Cause.UPSTREAM_UNREACHABLE
    if code in (Code.UNAVAILABLE, Code.UNKNOWN, Code.INTERNAL) and details.startswith(_BROKEN_STREAM):
        return Cause.UPSTREAM_LOST
    return None


def lost(server: str, exc: BaseException | None = None) -> GatewayError:
    """The connection to `server` ended under a request, which may have been read: also one kept alive too long."""
    error = _failed(server, Cause.UPSTREAM_LOST)
    error.__cause__ = exc
    return error


def too_late(server: str) -> GatewayError:
    """`server` did not answer before the deadline."""
    return _failed(server, Cause.DEADLINE)


def unreachable(server: str) -> GatewayError:
    """There is no connection to `server`, so that certainly nothing was sent."""
    return _failed(server, Cause.UPSTREAM_UNREACHABLE)


def bad_reply(server: str, what: str) -> GatewayError:
    """An answer of `server` that cannot be used, and `what` is wrong with it."""
    return GatewayError(Cause.UPSTREAM_BAD_REPLY, f"{server} sent an unusable answer: {what}")


def with_text(server: str, cause: Cause, text: str) -> GatewayError:
    """An error carrying the server's own text, capped; a sentence of ours where it sent none.

    A lost request's text says what happened to a part of the server ("Worker died."), so the server is named with it.
    """
    if not text:
        return _failed(server, cause)
    return GatewayError(cause, capped(f"{server}: {text}" if cause is Cause.UPSTREAM_LOST else text))


# -- TensorFlow Serving -----------------------------------------------------------------------------------------------

TFSERVING = "TensorFlow Serving"

# util/grpc_status_util.cc and the REST texts (reference: TF Serving wire facts, errors). Fragments, because names
# and numbers stand in between; bound to a code, because a kernel's text may hold anything.
_TFSERVING_TEXTS: tuple[tuple[grpc.StatusCode, str, Cause], ...] = (
    (Code.NOT_FOUND, "Servable not found for request: Specific(", Cause.VERSION_NOT_FOUND),
    (Code.NOT_FOUND, "Could not find version ", Cause.VERSION_NOT_FOUND),
    (Code.NOT_FOUND, "Servable not found for request: ", Cause.MODEL_NOT_FOUND),
    (Code.NOT_FOUND, "Could not find any versions of model ", Cause.MODEL_NOT_FOUND),
    (Code.INVALID_ARGUMENT, "Unrecognized servable version label: ", Cause.LABEL_NOT_FOUND),
    (Code.INVALID_ARGUMENT, "not found in signature def", Cause.SIGNATURE_NOT_FOUND),
    (Code.FAILED_PRECONDITION, "Serving signature key ", Cause.SIGNATURE_NOT_FOUND),
    (Code.INVALID_ARGUMENT, "Failed to write JSON value for tensor type: ", Cause.UNSUPPORTED_DATATYPE),
    (Code.UNIMPLEMENTED, "Conversion of JSON Value: ", Cause.UNSUPPORTED_DATATYPE),
    (Code.UNAVAILABLE, "batch scheduling queue", Cause.OVERLOADED),
    (Code.UNAVAILABLE, "Model labels does not init", Cause.NOT_READY),
    (Code.RESOURCE_EXHAUSTED, "OOM", Cause.UPSTREAM_FAILED),
)
# What the codes mean where the text says no more. Codes left out are the model's failure.
_TFSERVING_CODES: dict[grpc.StatusCode, Cause] = {
    Code.INVALID_ARGUMENT: Cause.UPSTREAM_REJECTED,
    Code.FAILED_PRECONDITION: Cause.UPSTREAM_REJECTED,
    Code.OUT_OF_RANGE: Cause.UPSTREAM_REJECTED,
    Code.RESOURCE_EXHAUSTED: Cause.OVERLOADED,
    Code.DEADLINE_EXCEEDED: Cause.DEADLINE,
    Code.CANCELLED: Cause.UPSTREAM_LOST,
    Code.UNAVAILABLE: Cause.UPSTREAM_LOST,
    Code.UNAUTHENTICATED: Cause.INTERNAL,
    Code.PERMISSION_DENIED: Cause.INTERNAL,
}
# model_servers/http_server.cc, read backwards; 400 and 409 stand for several codes, of which one is enough here.
_TFSERVING_HTTP: dict[int, grpc.StatusCode] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def tfserving_rpc_error(code: grpc.StatusCode, text: str) -> GatewayError:
    """TensorFlow Serving's gRPC status as an error of ours."""
    cause = _tfserving_text_cause(code, text) or _TFSERVING_CODES.get(code, Cause.UPSTREAM_FAILED)
    return _misconfigured(TFSERVING) if cause is Cause.INTERNAL else with_text(TFSERVING, cause, text)


def tfserving_http_error(status: int, text: str) -> GatewayError:
    """TensorFlow Serving's REST status and `error` text as an error of ours."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return with_text(TFSERVING, Cause.TOO_LARGE, text)
    code = _TFSERVING_HTTP.get(status)
    if code is None:
        return bad_reply(TFSERVING, f"HTTP status {status}")
    if code is Code.UNAVAILABLE:
        # A whole answer came, so no connection was lost; a proxy in front says this of a server that is away.
        return with_text(TFSERVING, _tfserving_text_cause(code, text) or Cause.NOT_READY, text)
    return tfserving_rpc_error(code, text)


def _tfserving_text_cause(code: grpc.StatusCode, text: str) -> Cause | None:
    return next((cause for row, part, cause in _TFSERVING_TEXTS if row is code and part in text), None)


# -- TorchServe -------------------------------------------------------------------------------------------------------

TORCHSERVE = "TorchServe"

# Over gRPC unknown models, full queues and dead workers are all INTERNAL, told apart by text only, so the text comes
# before the class name, and that before the status (reference: TorchServe wire facts, sections 3 and 9).
_TORCHSERVE_TEXTS: tuple[tuple[str, Cause], ...] = (
    ("Model not found:", Cause.MODEL_NOT_FOUND),
    ("Model version:", Cause.VERSION_NOT_FOUND),
    ("Worker died.", Cause.UPSTREAM_LOST),
)
_TORCHSERVE_KINDS: dict[str, Cause] = {
    "ModelNotFoundException": Cause.MODEL_NOT_FOUND,
    "ModelVersionNotFoundException": Cause.VERSION_NOT_FOUND,
    "ResourceNotFoundException": Cause.UPSTREAM_BAD_REPLY,
    "MethodNotAllowedException": Cause.UPSTREAM_BAD_REPLY,
}
_TORCHSERVE_STATUSES: dict[int, Cause] = {
    408: Cause.DEADLINE,
    413: Cause.TOO_LARGE,
    429: Cause.OVERLOADED,
    504: Cause.DEADLINE,
}
# util/GRPCUtils.java, read backwards.
_TORCHSERVE_RPC: dict[grpc.StatusCode, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 416,
    Code.FAILED_PRECONDITION: 422,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.DEADLINE_EXCEEDED: 504,
}


def torchserve_http_error(status: int, kind: str, text: str) -> GatewayError:
    """TorchServe's HTTP status, exception class and message as an error of ours.

    `TakesNoWorkError` where only the describe call can tell a full queue from a model without workers;
    `TokenRefusedError` where it wants another access token.
    """
    if "has no worker to serve inference request" in text:
        return TakesNoWorkError(capped(text))
    if kind == "InvalidKeyException" or text.startswith("Token Authorization failed"):
        return TokenRefusedError()
    cause = next((cause for start, cause in _TORCHSERVE_TEXTS if text.startswith(start)), None)
    cause = cause or _TORCHSERVE_KINDS.get(kind) or _TORCHSERVE_STATUSES.get(status)
    if cause is None:
        if status < HTTPStatus.BAD_REQUEST:
            return bad_reply(TORCHSERVE, f"HTTP status {status}")
        rejected = status < HTTPStatus.INTERNAL_SERVER_ERROR
        cause = Cause.UPSTREAM_REJECTED if rejected else Cause.UPSTREAM_FAILED
        if status == HTTPStatus.SERVICE_UNAVAILABLE and not kind:
            # TorchServe always names an exception; this is a proxy in front of a server that is away.
            cause = Cause.NOT_READY
    return with_text(TORCHSERVE, cause, text)


def torchserve_rpc_error(code: grpc.StatusCode, details: str) -> GatewayError:
    """TorchServe's gRPC status as an error of ours; its details end with a line naming a Java class."""
    if code is Code.CANCELLED:
        # Nobody on our side cancelled. TorchServe resets the stream of a request over its max_request_size.
        cause = Cause.TOO_LARGE if "RST_STREAM" in details else Cause.UPSTREAM_LOST
        return _failed(TORCHSERVE, cause)
    text, _, last = details.rpartition("\n")
    kind = last.removesuffix(".()").rpartition(".")[2]
    if not text or not kind.endswith("Exception"):
        text, kind = details, ""
    if code is Code.UNAVAILABLE and not kind:
        return _failed(TORCHSERVE, Cause.UPSTREAM_LOST)
    return torchserve_http_error(_TORCHSERVE_RPC.get(code, 500), kind, text)


# -- Open Inference Protocol ------------------------------------------------------------------------------------------

OIP = "the OIP server"

# The protocol reserves neither statuses nor texts (reference: OIP wire facts, sections 2 and 6). These are MLServer's,
# KServe's and Triton's, for what their codes do not tell; whole texts, because a model's own may hold any words.
_OIP_TEXTS: tuple[tuple[re.Pattern[str], Cause], ...] = (
    (re.compile(r"Model .+ with version .+ not found"), Cause.VERSION_NOT_FOUND),
    (re.compile(r"Model versioning not supported.*"), Cause.VERSION_NOT_FOUND),
    (re.compile(r"Model( with name)? .+ is not ready( yet)?\.?"), Cause.NOT_READY),
    (re.compile(r"Model version not ready"), Cause.NOT_READY),
    (re.compile(r"Request for unknown model: .* (is not at ready state|has no available versions)"), Cause.NOT_READY),
    (re.compile(r"Request for unknown model: '.*' version .* is not found"), Cause.VERSION_NOT_FOUND),
    (re.compile(r"Request for unknown model: .*"), Cause.MODEL_NOT_FOUND),
    (re.compile(r"(?i)(.* )?exceeds maximum queue size.*"), Cause.OVERLOADED),
    (re.compile(r"Request timeout expired"), Cause.DEADLINE),
)
# MLServer fails over a datatype that it does not know, instead of refusing it.
_OIP_NO_DATATYPE = re.compile(r"'\w{1,16}' is not a valid Datatype")
# Codes with which a server refuses; under any other a text is the model's own.
_OIP_REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.UNAVAILABLE})
# What the codes mean where the text says no more. Codes left out are the model's failure.
_OIP_CODES: dict[grpc.StatusCode, Cause] = {
    **_TFSERVING_CODES,
    Code.NOT_FOUND: Cause.MODEL_NOT_FOUND,
    Code.UNIMPLEMENTED: Cause.UPSTREAM_REJECTED,
    Code.ALREADY_EXISTS: Cause.UPSTREAM_REJECTED,
}
_OIP_HTTP: dict[int, grpc.StatusCode] = {
    **_TFSERVING_HTTP,
    408: Code.DEADLINE_EXCEEDED,
    422: Code.INVALID_ARGUMENT,
}


def oip_rpc_error(code: grpc.StatusCode, text: str) -> GatewayError:
    """An OIP server's gRPC status as an error of ours."""
    cause = _oip_text_cause(code, text) or _OIP_CODES.get(code, Cause.UPSTREAM_FAILED)
    return _misconfigured(OIP) if cause is Cause.INTERNAL else with_text(OIP, cause, text)


def oip_http_error(status: int, text: str) -> GatewayError:
    """An OIP server's HTTP status and `error` text as an error of ours."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return with_text(OIP, Cause.TOO_LARGE, text)
    code = _OIP_HTTP.get(status)
    if code is None or (code is Code.NOT_FOUND and text in ("", "Not Found")):
        # An unknown model has a text that names it; this is how Triton and FastAPI answer an unknown path.
        return bad_reply(OIP, f"HTTP status {status}; is this its REST port?")
    if code is Code.UNAVAILABLE:
        # A whole answer came, so no connection was lost; a proxy in front says this of a server that is away.
        return with_text(OIP, _oip_text_cause(code, text) or Cause.NOT_READY, text)
    return oip_rpc_error(code, text)


def _oip_text_cause(code: grpc.StatusCode, text: str) -> Cause | None:
    if code is Code.INTERNAL and _OIP_NO_DATATYPE.fullmatch(text):
        return Cause.UNSUPPORTED_DATATYPE
    if code not in _OIP_REFUSALS:
        return None
    return next((cause for pattern, cause in _OIP_TEXTS if pattern.fullmatch(text)), None)


# -- Texts ------------------------------------------------------------------------------------------------------------

_SENTENCES: dict[Cause, str] = {
    Cause.UPSTREAM_UNREACHABLE: "cannot connect to {server}; nothing was sent",
    Cause.UPSTREAM_LOST: "the connection to {server} was lost before its answer was complete; "
    "the request may have been processed",
    Cause.UPSTREAM_BAD_REPLY: "{server} sent an unusable answer: not its protocol, or over the size limit",
    Cause.UPSTREAM_REJECTED: "{server} refused the request without saying why",
    Cause.UPSTREAM_FAILED: "{server} failed without saying why",
    Cause.DEADLINE: "the deadline passed while waiting for {server}",
    Cause.TOO_LARGE: "the request is larger than {server} accepts",
}


def _failed(server: str, cause: Cause) -> GatewayError:
    return GatewayError(cause, _SENTENCES.get(cause, "{server} cannot answer now").format(server=server))


def _misconfigured(server: str) -> GatewayError:
    return GatewayError(Cause.INTERNAL, f"{server} demands an access token that this endpoint is not configured with")
