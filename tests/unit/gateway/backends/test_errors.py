"""Tests of gateway.backends.errors: which failure gets which cause."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gateway.backends.errors import (
    TakesNoWorkError,
    oip_http_error,
    oip_rpc_error,
    probing,
    rpc_transport_cause,
    tfserving_http_error,
    tfserving_rpc_error,
    torchserve_http_error,
    torchserve_rpc_error,
    translated,
)
from gateway.core.errors import MAX_UPSTREAM_TEXT, Cause, GatewayError

Code = grpc.StatusCode
Row = tuple[grpc.StatusCode, str, Cause | None]

# Texts as grpcio 1.85 writes them.
FAILED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
RPC_TRANSPORT: tuple[Row, ...] = (
    (Code.UNAVAILABLE, FAILED + "Failed to connect to remote host: Connection refused", Cause.UPSTREAM_UNREACHABLE),
    (Code.UNAVAILABLE, FAILED + "recvmsg:Connection reset by peer (104)", Cause.UPSTREAM_UNREACHABLE),
    (
        Code.UNAVAILABLE,
        FAILED + "connection attempt timed out before receiving SETTINGS frame",
        Cause.UPSTREAM_UNREACHABLE,
    ),
    (Code.UNAVAILABLE, "errors resolving no.such.host:1: [address lookup failed]", Cause.UPSTREAM_UNREACHABLE),
    (Code.UNAVAILABLE, "DNS resolution failed for no.such.host:1", Cause.UPSTREAM_UNREACHABLE),
    (Code.UNAVAILABLE, "Stream removed (Socket closed)", Cause.UPSTREAM_LOST),
    (Code.UNKNOWN, "Stream removed (Connection reset by peer)", Cause.UPSTREAM_LOST),
    (Code.INTERNAL, "Received RST_STREAM with error code 2", Cause.UPSTREAM_LOST),
    (Code.DEADLINE_EXCEEDED, "Stream removed (Deadline Exceeded)", Cause.DEADLINE),
    (
        Code.RESOURCE_EXHAUSTED,
        "Stream removed (CLIENT: Received message larger than max (5000 vs. 1000))",
        Cause.UPSTREAM_BAD_REPLY,
    ),
    (Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5 vs. 4)", Cause.TOO_LARGE),
    (Code.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 4: 5", Cause.TOO_LARGE),
    (Code.UNIMPLEMENTED, "Received http2 header with status: 404", Cause.UPSTREAM_BAD_REPLY),
    (Code.UNIMPLEMENTED, "Method not found!", Cause.UPSTREAM_BAD_REPLY),
    # A server's own words, however they sound, are the server's table's business.
    (Code.UNAVAILABLE, "Prediction failed: Connection refused", None),
    (Code.INTERNAL, "model says: failed to connect to all addresses", None),
    (Code.NOT_FOUND, "nope", None),
    (Code.RESOURCE_EXHAUSTED, "OOM when allocating tensor", None),
    (Code.UNIMPLEMENTED, "Cast string to float is not supported", None),
)


@pytest.mark.parametrize(("code", "details", "cause"), RPC_TRANSPORT)
def test_grpc_transport_failures_are_told_from_answers(
    code: grpc.StatusCode, details: str, cause: Cause | None
) -> None:
    """Only texts that grpcio writes before anything was sent are UNREACHABLE; a server's answer is no failure here."""
    assert rpc_transport_cause(code, details) is cause


@pytest.mark.parametrize(
    ("exc", "cause"),
    [
        (TimeoutError(), Cause.DEADLINE),
        (ConnectionResetError(104, "Connection reset by peer"), Cause.UPSTREAM_LOST),
        (OSError(), Cause.UPSTREAM_LOST),
    ],
)
def test_exceptions_of_sockets_are_late_or_lost(exc: OSError, cause: Cause) -> None:
    """A timeout is an OSError too, and is told apart."""
    with pytest.raises(GatewayError) as caught, translated("the server"):
        raise exc
    assert caught.value.cause is cause


def test_translated_keeps_the_original_and_lets_our_own_errors_pass() -> None:
    """The foreign exception is the cause of ours; a GatewayError is not wrapped again."""
    original = ConnectionResetError()
    with pytest.raises(GatewayError) as caught, translated("TorchServe"):
        raise original
    assert caught.value.__cause__ is original
    assert "TorchServe" in caught.value.detail
    ours = GatewayError(Cause.DEADLINE, "late")
    with pytest.raises(GatewayError) as caught, translated("TorchServe"):
        raise ours
    assert caught.value is ours


async def test_cancelling_the_task_passes_through() -> None:
    """A cancelled task stays cancelled: CancelledError is no failure of the server's."""
    entered = asyncio.Event()

    async def call() -> None:
        with translated("TorchServe"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_nobody_asked_for_is_a_lost_call() -> None:
    """Closing a channel cancels its calls, not the tasks that wait for them: these see UPSTREAM_LOST."""
    with pytest.raises(GatewayError) as caught, translated("TorchServe"):
        raise asyncio.CancelledError
    assert caught.value.cause is Cause.UPSTREAM_LOST


def test_a_silent_server_is_unreachable_to_a_probe() -> None:
    """For a probe, timing out and being cut off are the same as not connecting; other failures stay what they are."""
    for cause in (Cause.DEADLINE, Cause.UPSTREAM_LOST, Cause.UPSTREAM_UNREACHABLE):
        with pytest.raises(GatewayError) as caught, probing("TorchServe"):
            raise GatewayError(cause, "silence")
        assert caught.value.cause is Cause.UPSTREAM_UNREACHABLE
    with pytest.raises(GatewayError) as caught, probing("TorchServe"):
        raise GatewayError(Cause.UPSTREAM_BAD_REPLY, "html")
    assert caught.value.cause is Cause.UPSTREAM_BAD_REPLY


TFSERVING_RPC: tuple[tuple[grpc.StatusCode, str, Cause], ...] = (
    (Code.NOT_FOUND, "Servable not found for request: Latest(m)", Cause.MODEL_NOT_FOUND),
    (Code.NOT_FOUND, "Servable not found for request: Specific(m, 99)", Cause.VERSION_NOT_FOUND),
    (Code.NOT_FOUND, "Could not find any versions of model m", Cause.MODEL_NOT_FOUND),
    (Code.NOT_FOUND, "Could not find version 9 of model m", Cause.VERSION_NOT_FOUND),
    (Code.NOT_FOUND, "Resource localhost/table does not exist", Cause.UPSTREAM_FAILED),
    (Code.INVALID_ARGUMENT, "Unrecognized servable version label: x", Cause.LABEL_NOT_FOUND),
    (Code.FAILED_PRECONDITION, 'Serving signature key "s" not found.', Cause.SIGNATURE_NOT_FOUND),
    (Code.FAILED_PRECONDITION, "Table not initialized.", Cause.UPSTREAM_REJECTED),
    (Code.INVALID_ARGUMENT, "Matrix size-incompatible: In[0]: [1,3]", Cause.UPSTREAM_REJECTED),
    (Code.OUT_OF_RANGE, "read past end", Cause.UPSTREAM_REJECTED),
    (
        Code.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently 10",
        Cause.OVERLOADED,
    ),
    (Code.UNAVAILABLE, "Model labels does not init yet.", Cause.NOT_READY),
    (Code.UNAVAILABLE, "Cancelling all calls", Cause.UPSTREAM_LOST),
    (Code.CANCELLED, "RPC cancelled", Cause.UPSTREAM_LOST),
    (Code.RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[9]", Cause.UPSTREAM_FAILED),
    (Code.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", Cause.OVERLOADED),
    (Code.INTERNAL, "assertion failed", Cause.UPSTREAM_FAILED),
    (Code.UNKNOWN, "Unexpected <class 'RuntimeError'>: boom", Cause.UPSTREAM_FAILED),
    (Code.UNIMPLEMENTED, "Cast string to float is not supported", Cause.UPSTREAM_FAILED),
    (Code.PERMISSION_DENIED, "no", Cause.INTERNAL),
    (Code.UNAUTHENTICATED, "no", Cause.INTERNAL),
)


@pytest.mark.parametrize(("code", "text", "cause"), TFSERVING_RPC)
def test_tfserving_statuses(code: grpc.StatusCode, text: str, cause: Cause) -> None:
    """TensorFlow Serving's gRPC codes and texts, as its wire facts list them."""
    assert tfserving_rpc_error(code, text).cause is cause


TFSERVING_HTTP: tuple[tuple[int, str, Cause], ...] = (
    (404, "Servable not found for request: Latest(m)", Cause.MODEL_NOT_FOUND),
    (404, "Servable not found for request: Specific(m, 99)", Cause.VERSION_NOT_FOUND),
    (404, "Could not find any versions of model m", Cause.MODEL_NOT_FOUND),
    (400, "Unrecognized servable version label: x", Cause.LABEL_NOT_FOUND),
    (400, 'Serving signature name: "s" not found in signature def', Cause.SIGNATURE_NOT_FOUND),
    (400, "Failed to write JSON value for tensor type: half", Cause.UNSUPPORTED_DATATYPE),
    (501, "Conversion of JSON Value: 1 to type: half", Cause.UNSUPPORTED_DATATYPE),
    (400, "Missing named input: b in 'inputs' object.", Cause.UPSTREAM_REJECTED),
    (503, "The batch scheduling queue to which this task was submitted is full", Cause.OVERLOADED),
    (503, "no healthy upstream", Cause.NOT_READY),
    (429, "OOM when allocating tensor", Cause.UPSTREAM_FAILED),
    (429, "slow down", Cause.OVERLOADED),
    (413, "", Cause.TOO_LARGE),
    (500, "assertion failed", Cause.UPSTREAM_FAILED),
    (504, "deadline", Cause.DEADLINE),
    (401, "who are you", Cause.INTERNAL),
    (302, "", Cause.UPSTREAM_BAD_REPLY),
    (204, "", Cause.UPSTREAM_BAD_REPLY),
)


@pytest.mark.parametrize(("status", "text", "cause"), TFSERVING_HTTP)
def test_tfserving_http_statuses(status: int, text: str, cause: Cause) -> None:
    """TensorFlow Serving's REST statuses and texts, and those of proxies in front of it."""
    assert tfserving_http_error(status, text).cause is cause


ISE, HTTP = "InternalServerException", "org.pytorch.serve.http."
TORCHSERVE_HTTP: tuple[tuple[int, str, str, Cause], ...] = (
    (404, "ModelNotFoundException", "Model not found: nope", Cause.MODEL_NOT_FOUND),
    (404, "ModelVersionNotFoundException", "Model version: 9 does not exist for model: m", Cause.VERSION_NOT_FOUND),
    (404, "ResourceNotFoundException", "Requested resource is not found", Cause.UPSTREAM_BAD_REPLY),
    (405, "MethodNotAllowedException", "Requested method is not allowed", Cause.UPSTREAM_BAD_REPLY),
    (400, "InvalidKeyException", "Token Authorization failed. Token either incorrect", Cause.UPSTREAM_BAD_REPLY),
    (503, ISE, "Prediction failed", Cause.UPSTREAM_FAILED),
    (503, ISE, "number of batch response mismatched", Cause.UPSTREAM_FAILED),
    (507, ISE, "Out of resources", Cause.UPSTREAM_FAILED),
    (500, ISE, "Worker died.", Cause.UPSTREAM_LOST),
    (500, ISE, "my own words", Cause.UPSTREAM_FAILED),
    (422, ISE, "my own words", Cause.UPSTREAM_REJECTED),
    (400, "BadRequestException", "Parameter model_name is required.", Cause.UPSTREAM_REJECTED),
    (413, "", "", Cause.TOO_LARGE),
    (408, "RequestTimeoutException", "late", Cause.DEADLINE),
    (503, "", "", Cause.NOT_READY),
    (504, "", "", Cause.DEADLINE),
    (429, "", "", Cause.OVERLOADED),
    (302, "", "", Cause.UPSTREAM_BAD_REPLY),
)


@pytest.mark.parametrize(("status", "kind", "text", "cause"), TORCHSERVE_HTTP)
def test_torchserve_http_statuses(status: int, kind: str, text: str, cause: Cause) -> None:
    """TorchServe's REST statuses, types and messages, as its wire facts list them."""
    error = torchserve_http_error(status, kind, text)
    assert error.cause is cause
    assert error.detail


ARCHIVE = "org.pytorch.serve.archive.model."
TORCHSERVE_RPC: tuple[tuple[grpc.StatusCode, str, Cause], ...] = (
    (
        Code.INTERNAL,
        f"Model not found: m\n{ARCHIVE}ModelNotFoundException",
        Cause.MODEL_NOT_FOUND,
    ),
    (
        Code.INTERNAL,
        f"Model version: 9 does not exist for model: m\n{ARCHIVE}ModelVersionNotFoundException",
        Cause.VERSION_NOT_FOUND,
    ),
    (Code.UNAVAILABLE, f"Prediction failed\n{HTTP}{ISE}", Cause.UPSTREAM_FAILED),
    (Code.INTERNAL, f"Out of resources\n{HTTP}{ISE}", Cause.UPSTREAM_FAILED),
    (Code.INTERNAL, f"Worker died.\n{HTTP}{ISE}", Cause.UPSTREAM_LOST),
    (Code.INVALID_ARGUMENT, f"bad image\n{HTTP}{ISE}", Cause.UPSTREAM_REJECTED),
    (Code.PERMISSION_DENIED, "Token Authorization failed. Token either incorrect", Cause.UPSTREAM_BAD_REPLY),
    (Code.RESOURCE_EXHAUSTED, f"my own words\n{HTTP}{ISE}", Cause.OVERLOADED),
    (Code.CANCELLED, "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))", Cause.TOO_LARGE),
    (Code.CANCELLED, "CANCELLED", Cause.UPSTREAM_LOST),
    (Code.UNAVAILABLE, "Socket closed", Cause.UPSTREAM_LOST),
    (Code.UNKNOWN, "", Cause.UPSTREAM_FAILED),
)


@pytest.mark.parametrize(("code", "details", "cause"), TORCHSERVE_RPC)
def test_torchserve_statuses(code: grpc.StatusCode, details: str, cause: Cause) -> None:
    """TorchServe's gRPC codes say little; its texts and the class name on their last line say the rest."""
    error = torchserve_rpc_error(code, details)
    assert error.cause is cause
    assert "org.pytorch" not in error.detail


def test_torchserve_words_for_no_worker_and_full_queue_stay_open() -> None:
    """The one text that means two things is left to whoever can ask the management port."""
    text = 'Model "m" has no worker to serve inference request. Please use scale workers API to add workers.'
    assert isinstance(torchserve_http_error(503, "ServiceUnavailableException", text), TakesNoWorkError)
    assert isinstance(torchserve_rpc_error(Code.INTERNAL, f"{text}\nInternalServerException.()"), TakesNoWorkError)


OIP_RPC: tuple[tuple[grpc.StatusCode, str, Cause], ...] = (
    (Code.NOT_FOUND, "Model m not found", Cause.MODEL_NOT_FOUND),
    (Code.NOT_FOUND, "Model m with version 9 not found", Cause.VERSION_NOT_FOUND),
    (Code.NOT_FOUND, "Request for unknown model: 'm' is not found", Cause.MODEL_NOT_FOUND),
    (Code.NOT_FOUND, "Request for unknown model: 'm' version 9 is not found", Cause.VERSION_NOT_FOUND),
    (Code.UNAVAILABLE, "Request for unknown model: 'm' version 9 is not at ready state", Cause.NOT_READY),
    (Code.UNAVAILABLE, "Request for unknown model: 'm' has no available versions", Cause.NOT_READY),
    (Code.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size", Cause.OVERLOADED),
    (Code.UNAVAILABLE, "Request timeout expired", Cause.DEADLINE),
    (Code.UNAVAILABLE, "Socket closed", Cause.UPSTREAM_LOST),
    (Code.INVALID_ARGUMENT, "Model m is not ready yet.", Cause.NOT_READY),
    (Code.INVALID_ARGUMENT, "unexpected shape for input 'x'", Cause.UPSTREAM_REJECTED),
    (Code.FAILED_PRECONDITION, "Invalid URI specified for model m", Cause.UPSTREAM_REJECTED),
    (Code.UNIMPLEMENTED, "Model versioning not supported yet.", Cause.VERSION_NOT_FOUND),
    (Code.UNIMPLEMENTED, "sequences are not supported", Cause.UPSTREAM_REJECTED),
    (Code.RESOURCE_EXHAUSTED, "slow down", Cause.OVERLOADED),
    (Code.INTERNAL, "Model m is not ready yet.", Cause.UPSTREAM_FAILED),
    (Code.INTERNAL, "'BF16' is not a valid Datatype", Cause.UNSUPPORTED_DATATYPE),
    (Code.UNKNOWN, "boom", Cause.UPSTREAM_FAILED),
    (Code.CANCELLED, "", Cause.UPSTREAM_LOST),
    (Code.UNAUTHENTICATED, "no", Cause.INTERNAL),
)


@pytest.mark.parametrize(("code", "text", "cause"), OIP_RPC)
def test_oip_statuses(code: grpc.StatusCode, text: str, cause: Cause) -> None:
    """The gRPC codes and texts of MLServer, KServe and Triton; a failure's text is the model's own."""
    assert oip_rpc_error(code, text).cause is cause


OIP_HTTP: tuple[tuple[int, str, Cause], ...] = (
    (404, "Model m not found", Cause.MODEL_NOT_FOUND),
    (404, "Model with name m does not exist.", Cause.MODEL_NOT_FOUND),
    (404, "Model m with version 9 not found", Cause.VERSION_NOT_FOUND),
    (404, "Not Found", Cause.UPSTREAM_BAD_REPLY),
    (404, "", Cause.UPSTREAM_BAD_REPLY),
    (405, "Method Not Allowed", Cause.UPSTREAM_BAD_REPLY),
    (400, "Model m is not ready yet.", Cause.NOT_READY),
    (400, "unexpected shape for input 'x'", Cause.UPSTREAM_REJECTED),
    (422, "body.inputs.0: Field required", Cause.UPSTREAM_REJECTED),
    (501, "Model versioning not supported yet.", Cause.VERSION_NOT_FOUND),
    (501, "sequences are not supported", Cause.UPSTREAM_REJECTED),
    (503, "Model with name m is not ready.", Cause.NOT_READY),
    (503, "Exceeds maximum queue size", Cause.OVERLOADED),
    (503, "no healthy upstream", Cause.NOT_READY),
    (500, "ValueError : boom", Cause.UPSTREAM_FAILED),
    (413, "", Cause.TOO_LARGE),
    (429, "slow down", Cause.OVERLOADED),
    (408, "", Cause.DEADLINE),
    (504, "", Cause.DEADLINE),
    (401, "who are you", Cause.INTERNAL),
    (302, "", Cause.UPSTREAM_BAD_REPLY),
)


@pytest.mark.parametrize(("status", "text", "cause"), OIP_HTTP)
def test_oip_http_statuses(status: int, text: str, cause: Cause) -> None:
    """The REST statuses and texts of MLServer, KServe and Triton, and those of proxies in front of them."""
    assert oip_http_error(status, text).cause is cause


def test_upstream_text_is_capped() -> None:
    """No answer of a server makes an error text longer than the cap."""
    for error in (
        tfserving_rpc_error(Code.INTERNAL, "x" * 5000),
        torchserve_http_error(503, ISE, "x" * 5000),
        torchserve_rpc_error(Code.UNAVAILABLE, "x" * 5000 + f"\n{HTTP}{ISE}"),
    ):
        assert len(error.detail) == MAX_UPSTREAM_TEXT
