"""The gRPC door: PredictionService and ModelService by the official stubs, every answer with the mark."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.tfserving.savedmodel_server import MARK, MARK_HEADER, config, status
from serving.tfserving.savedmodel_server.config import ModelConfig
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.example_calls import classify, multi_inference, regress
from serving.tfserving.savedmodel_server.metrics import microseconds
from serving.tfserving.savedmodel_server.predict import predict
from serving.tfserving.savedmodel_server.runtime import Runtime
from serving.tfserving.savedmodel_server.versions import Versions

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")
Context = grpc.aio.ServicerContext[Any, Any]
Reload = Callable[[Sequence[ModelConfig]], Awaitable[None]]

# TensorFlow Serving's own limits (server.cc).
MAX_MESSAGE_BYTES = 2**31 - 1
SERVER_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two servers on one port would share its calls instead of the second one failing.
    ("grpc.so_reuseport", 0),
)


class _Request(Protocol):
    @property
    def model_spec(self) -> model_pb2.ModelSpec: ...


def add_services(server: grpc.aio.Server, versions: Versions, pool: Executor, runtime: Runtime, reload: Reload) -> None:
    """Puts both services on a server, and a marked UNIMPLEMENTED for every other method, so it must come last.

    `reload` replaces the configuration, and raises ServingError.
    """
    prediction = PredictionService(versions, pool, runtime)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(versions, runtime, reload), server)
    server.add_generic_rpc_handlers((_EverythingElse(),))


@dataclass(frozen=True, slots=True)
class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """What computes runs in the pool; the deadline of the call drops what waits there, and cancels what runs."""

    versions: Versions
    pool: Executor
    runtime: Runtime

    async def Predict(self, request: predict_pb2.PredictRequest, context: Context) -> predict_pb2.PredictResponse:  # noqa: N802
        """One prediction."""
        return await self._counted("Predict", predict, request, context)

    async def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest, context: Context
    ) -> classification_pb2.ClassificationResponse:
        """Classes and scores of examples."""
        return await self._counted("Classify", classify, request, context)

    async def Regress(  # noqa: N802
        self, request: regression_pb2.RegressionRequest, context: Context
    ) -> regression_pb2.RegressionResponse:
        """One value for every example."""
        return await self._counted("Regress", regress, request, context)

    async def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest, context: Context
    ) -> inference_pb2.MultiInferenceResponse:
        """Several classifications and regressions of the same examples; not counted, as in TensorFlow Serving."""
        return await answer(context, partial(self._in_pool, multi_inference, request, context))

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of one version."""
        return await answer(context, partial(_at_once, partial(status.model_metadata, self.versions, request)))

    async def _counted(self, api: str, call: Callable[..., Reply], request: _Request, context: Context) -> Reply:
        """A call whose status is counted, and whose latency too where it is answered, even when nobody waits for it."""
        metrics, model = self.runtime.metrics, request.model_spec.name
        started = time.perf_counter()

        def counted(*arguments: object) -> Reply:
            try:
                reply = call(*arguments)
            except Exception as exc:
                metrics.request_count.add(model, exc.code.name if isinstance(exc, ServingError) else "INTERNAL")
                raise
            metrics.request_latency.record(microseconds(started), model, api, "GRPC")
            metrics.request_count.add(model, "OK")
            return reply

        return await answer(context, partial(self._in_pool, counted, request, context))

    async def _in_pool(self, call: Callable[..., Reply], request: object, context: Context) -> Reply:
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left
        work = partial(call, self.versions, request, deadline, self.runtime)
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


@dataclass(frozen=True, slots=True)
class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """The states of the versions, and the configuration."""

    versions: Versions
    runtime: Runtime
    reload: Reload

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of one version, or of all of a model."""
        return await answer(context, partial(_at_once, partial(status.model_status, self.versions, request)))

    async def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: Context
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the whole configuration, and answers once every new model is available."""
        return await answer(context, partial(self._reload, request))

    async def _reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """A failure is the status of the call; the status in the response then travels nowhere (a unary call)."""
        names = dict.fromkeys(request.metric_names)
        before = {name: self.runtime.metrics.first_value(name) for name in names}
        if not request.config.HasField("model_config_list"):
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        try:
            await self.reload(config.from_message(request.config) or ())
        except ServingError as exc:
            log.error("ReloadConfig failed: %s", exc.message)
            raise
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in names:
            increase = self.runtime.metrics.first_value(name) - before[name]
            response.metric.add(name=name, int64_value_increase=increase)
        return response


class _EverythingElse(grpc.GenericRpcHandler):
    """UNIMPLEMENTED with the mark, where gRPC's own would come without."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Takes any method, so it must be the last handler of the server."""
        return grpc.unary_unary_rpc_method_handler(partial(_refuse_call, handler_call_details.method))


async def _refuse_call(method: str, request: bytes, context: Context) -> NoReturn:
    await send_mark(context)
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented by {MARK}")


async def answer(context: Context, work: Callable[[], Awaitable[Reply]]) -> Reply:
    """The mark, then the answer; a ServingError becomes the status of the call."""
    await send_mark(context)
    try:
        return await work()
    except ServingError as exc:
        await context.abort(exc.code, exc.grpc_message)
    except Exception as exc:
        log.exception("a gRPC call failed")
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(exc).__name__}")


async def send_mark(context: Context) -> None:
    """The mark as initial metadata, which every answer has."""
    await context.send_initial_metadata(((MARK_HEADER, MARK),))


async def _at_once(work: Callable[[], Reply]) -> Reply:
    return work()
