"""The gRPC door: PredictionService and ModelService by the official stubs, every answer with the mark."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.tfserving.savedmodel_server import MARK, MARK_HEADER, status
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.predict import predict
from serving.tfserving.savedmodel_server.versions import Versions

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
Context = grpc.aio.ServicerContext[Any, Any]

# TensorFlow Serving's own limits (server.cc).
MAX_MESSAGE_BYTES = 2**31 - 1
SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two servers on one port would share its calls instead of the second one failing.
    ("grpc.so_reuseport", 0),
)


def add_services(server: grpc.aio.Server, versions: Versions, pool: Executor) -> None:
    """Puts both services on a server, and a marked UNIMPLEMENTED for every other method."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(versions, pool), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(versions), server)
    server.add_generic_rpc_handlers((_EverythingElse(),))


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict runs in the pool; the deadline of the call drops what waits there, and cancels what runs."""

    def __init__(self, versions: Versions, pool: Executor) -> None:
        self._versions = versions
        self._pool = pool

    async def Predict(self, request: predict_pb2.PredictRequest, context: Context) -> predict_pb2.PredictResponse:  # noqa: N802
        """One prediction."""
        left = context.time_remaining()
        work = partial(predict, self._versions, request, None if left is None else time.monotonic() + left)
        return await _answer(context, lambda: asyncio.get_running_loop().run_in_executor(self._pool, work))

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of one version."""
        return await _answer(context, partial(_at_once, partial(status.model_metadata, self._versions, request)))

    async def Classify(self, request: object, context: Context) -> NoReturn:  # noqa: N802
        """UNIMPLEMENTED."""
        await _refuse(context, "Classify")

    async def Regress(self, request: object, context: Context) -> NoReturn:  # noqa: N802
        """UNIMPLEMENTED."""
        await _refuse(context, "Regress")

    async def MultiInference(self, request: object, context: Context) -> NoReturn:  # noqa: N802
        """UNIMPLEMENTED."""
        await _refuse(context, "MultiInference")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """The states of the versions; the configuration cannot be reloaded."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of one version, or of all of a model."""
        return await _answer(context, partial(_at_once, partial(status.model_status, self._versions, request)))

    async def HandleReloadConfigRequest(self, request: object, context: Context) -> NoReturn:  # noqa: N802
        """UNIMPLEMENTED."""
        await _refuse(context, "HandleReloadConfigRequest")


class _EverythingElse(grpc.GenericRpcHandler):
    """UNIMPLEMENTED with the mark, where gRPC's own would come without."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Takes any method, so it must be the last handler of the server."""
        return grpc.unary_unary_rpc_method_handler(partial(_refuse_call, handler_call_details.method))


async def _refuse_call(method: str, request: bytes, context: Context) -> NoReturn:
    await _refuse(context, method)


async def _refuse(context: Context, method: str) -> NoReturn:
    await _send_mark(context)
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented by {MARK}")


async def _answer(context: Context, work: Callable[[], Awaitable[Reply]]) -> Reply:
    """The mark, then the answer; a ServingError becomes the status of the call."""
    await _send_mark(context)
    try:
        return await work()
    except ServingError as exc:
        await context.abort(exc.code, exc.grpc_message)
    except Exception as exc:
        log.exception("a gRPC call failed")
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(exc).__name__}")


async def _send_mark(context: Context) -> None:
    await context.send_initial_metadata(((MARK_HEADER, MARK),))


async def _at_once(work: Callable[[], Reply]) -> Reply:
    return work()
