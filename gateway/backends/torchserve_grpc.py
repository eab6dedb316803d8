"""TorchServe over gRPC: one frame under the map key `frame` of Predictions (its inference.proto)."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf.message import DecodeError

from gateway._generated import torchserve_pb2
from gateway.backends.channel import MAX_REPLY_BYTES, GrpcChannel, time_left
from gateway.backends.errors import TORCHSERVE, TakesNoWorkError, bad_reply, torchserve_rpc_error
from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve_control import TorchServeControl
from gateway.codecs import torchserve
from gateway.core.backend import ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.messages import InferenceRequest, InferenceResponse

PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
FRAME_KEY = "frame"


class TorchServeGrpc:
    """The backend for one TorchServe's gRPC inference port; `address` is host:port.

    Its version and its models' state are asked over REST, at `base_url` and `management_url`, because gRPC states
    neither.
    """

    def __init__(
        self,
        address: str,
        base_url: str,
        management_url: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._channel = GrpcChannel(
            address, server=TORCHSERVE, answered=torchserve_rpc_error, max_reply_bytes=max_reply_bytes
        )
        self._http = HttpPool(server=TORCHSERVE, max_reply_bytes=max_reply_bytes)
        self._control = TorchServeControl(self._http, base_url, management_url, server=server)
        self._clock = clock or SystemClock()

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One Predictions call; the frame's own error is raised with the cause that the handler gave it."""
        model, left = request.model, time_left(context, self._clock)
        version = "" if model.version is None else await self._control.spelling(model.name, model.version, left)
        message = torchserve_pb2.PredictionsRequest(
            model_name=model.name, model_version=version, input={FRAME_KEY: torchserve.encode_frame(request)}
        ).SerializeToString()
        try:
            data = await self._channel.call(PREDICTIONS, message, time_left(context, self._clock))
        except TakesNoWorkError as exc:
            raise await self._control.refusal(model, exc, time_left(context, self._clock)) from exc
        try:
            reply = torchserve_pb2.PredictionResponse.FromString(data)
        except DecodeError as exc:
            raise bad_reply(TORCHSERVE, "no PredictionResponse message") from exc
        return replace(torchserve.decode_frame(reply.prediction), id=request.id)

    async def server(self) -> str:
        """`TorchServe <version>`."""
        return await self._control.server()

    async def model_state(self, model: str) -> ModelState:
        """The versions with a READY worker, newest first."""
        return await self._control.model_state(model)

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST."""
        await self._channel.close()
        await self._http.close()
