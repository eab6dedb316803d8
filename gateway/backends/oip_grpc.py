"""Any server of the Open Inference Protocol v2 over gRPC: GRPCInferenceService (its inference_grpc.md)."""

from __future__ import annotations

from gateway.backends.channel import CONTROL_TIMEOUT_S, MAX_LISTED, MAX_REPLY_BYTES, GrpcChannel, time_left
from gateway.backends.errors import OIP, oip_rpc_error, probing
from gateway.backends.oip_models import OipModels, server_name
from gateway.codecs import oip_proto_client
from gateway.codecs.oip_server import ServedModel
from gateway.core.backend import ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse

_SERVICE = "/inference.GRPCInferenceService/"
MODEL_INFER = _SERVICE + "ModelInfer"
MODEL_METADATA = _SERVICE + "ModelMetadata"
MODEL_READY = _SERVICE + "ModelReady"
SERVER_METADATA = _SERVICE + "ServerMetadata"
REPOSITORY_INDEX = _SERVICE + "RepositoryIndex"

# How servers refuse a method that they do not have: as unknown to gRPC itself, or by a text of their own.
NO_INDEX = frozenset({Cause.UPSTREAM_BAD_REPLY, Cause.UPSTREAM_REJECTED})


class OipGrpc:
    """The backend for one OIP server's gRPC port; `address` is host:port.

    `server` names the program where it does not state its name and version.
    """

    def __init__(
        self,
        address: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._channel = GrpcChannel(address, server=OIP, answered=oip_rpc_error, max_reply_bytes=max_reply_bytes)
        self._configured = server
        self._clock = clock or SystemClock()
        self._models = OipModels(self._describe, self._ready)

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One ModelInfer call with raw contents; the first of a model also asks for its metadata."""
        spelling = await self._models.spelling(request.model, time_left(context, self._clock))
        message = oip_proto_client.encode_request(request, spelling)
        reply = await self._channel.call(MODEL_INFER, message, time_left(context, self._clock), context.sent_along)
        return self._models.completed(request, oip_proto_client.decode_response(reply))

    async def server(self) -> str:
        """The name and version in the server's metadata, such as `mlserver 1.7.1`."""
        with probing(OIP):
            message = oip_proto_client.encode_server_metadata_request()
            reply = await self._channel.call(SERVER_METADATA, message, CONTROL_TIMEOUT_S)
        return server_name(oip_proto_client.decode_server_metadata(reply), self._configured)

    async def model_state(self, model: str) -> ModelState:
        """The ready versions among those that the model's metadata lists; version 1 where it lists none."""
        return await self._models.state(model)

    async def models(self) -> tuple[str, ...] | None:
        """The models in the repository index; None of a server without that extension."""
        message = oip_proto_client.encode_index_request()
        try:
            reply = await self._channel.call(REPOSITORY_INDEX, message, CONTROL_TIMEOUT_S)
        except GatewayError as exc:
            if exc.cause not in NO_INDEX:
                raise
            return None
        return oip_proto_client.decode_index(reply)[:MAX_LISTED]

    async def close(self) -> None:
        """Closes the connection; calls in flight fail with UPSTREAM_LOST."""
        await self._channel.close()

    async def _describe(self, model: str, timeout_s: float) -> ServedModel:
        reply = await self._channel.call(MODEL_METADATA, oip_proto_client.encode_model_request(model), timeout_s)
        return oip_proto_client.decode_model_metadata(reply)

    async def _ready(self, model: str, spelling: str, timeout_s: float) -> bool:
        message = oip_proto_client.encode_ready_request(model, spelling)
        try:
            return oip_proto_client.decode_ready(await self._channel.call(MODEL_READY, message, timeout_s))
        except GatewayError as exc:
            # Not ready is an answer; yet some servers end the call with a status for it, or the model has just gone.
            if exc.cause not in (Cause.MODEL_NOT_FOUND, Cause.VERSION_NOT_FOUND, Cause.NOT_READY):
                raise
            return False
