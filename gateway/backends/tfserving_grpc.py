"""TensorFlow Serving over gRPC: PredictionService and ModelService (its apis/*.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.backends.channel import CONTROL_TIMEOUT_S, MAX_REPLY_BYTES, GrpcChannel, named, time_left
from gateway.backends.errors import TFSERVING, bad_reply, probing, tfserving_rpc_error
from gateway.codecs import tfserving_proto
from gateway.core.backend import ModelState
from gateway.core.clock import Clock, SystemClock
from gateway.core.context import CallContext
from gateway.core.messages import (
    DEFAULT_SIGNATURE,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelSpec,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

# TensorFlow Serving states its version nowhere on the wire.
UNSTATED = f"{TFSERVING} (version not stated)"
# By this mark the SavedModel server says that it is not TensorFlow Serving.
MARK = "x-server"


class TfServingGrpc:
    """The backend for one TensorFlow Serving gRPC port; `address` is host:port.

    `server` names the program where it bears no mark of its own.
    """

    def __init__(
        self,
        address: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._channel = GrpcChannel(
            address, server=TFSERVING, answered=tfserving_rpc_error, max_reply_bytes=max_reply_bytes
        )
        self._configured = server
        self._clock = clock or SystemClock()

    async def infer(self, request: InferenceRequest, context: CallContext) -> InferenceResponse:
        """One Predict call, its answer decoded; the response states the version that answered."""
        message = tfserving_proto.encode_request(request)
        reply = await self._channel.call(PREDICT, message, time_left(context, self._clock), context.sent_along)
        response = tfserving_proto.decode_response(reply)
        if not response.outputs:
            # Zero bytes are a valid message; no model answers without an output.
            raise bad_reply(TFSERVING, "no outputs")
        return replace(response, id=request.id)

    async def server(self) -> str:
        """The name in the server's mark, which it sends with every answer, an error included."""
        with probing(TFSERVING):
            message = tfserving_proto.encode_status_request(ModelSpec(""))
            answer = await self._channel.ask(GET_MODEL_STATUS, message, CONTROL_TIMEOUT_S)
        return named(answer.metadata.get(MARK), self._configured, UNSTATED)

    async def model_state(self, model: str) -> ModelState:
        """The AVAILABLE versions, newest first, with the newest one's metadata.

        It is asked anew each time: a server that was started again may serve something else under the same version.
        """
        spec = ModelSpec(model)
        status = await self._channel.call(
            GET_MODEL_STATUS, tfserving_proto.encode_status_request(spec), CONTROL_TIMEOUT_S
        )
        versions = tfserving_proto.decode_status(status)
        if not versions:
            return ModelState(())
        message = tfserving_proto.encode_metadata_request(spec)
        reply = await self._channel.call(GET_MODEL_METADATA, message, CONTROL_TIMEOUT_S)
        return described(versions, tfserving_proto.decode_signatures(reply))

    async def models(self) -> None:
        """None: TensorFlow Serving lists no models."""

    async def close(self) -> None:
        """Closes the connection; calls in flight fail with UPSTREAM_LOST."""
        await self._channel.close()


def described(versions: tuple[int, ...], signatures: Mapping[str, ModelMetadata]) -> ModelState:
    """The state of a model with these versions and the newest one's signatures."""
    known = {name: replace(metadata, versions=versions) for name, metadata in signatures.items()}
    return ModelState(versions, known.pop(DEFAULT_SIGNATURE, None), known)
