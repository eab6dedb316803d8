"""TorchServe over gRPC: service `org.pytorch.serve.grpc.inference.InferenceAPIsService`, its unary methods.

The input's map holds what a REST client would send as the body, under the key `data` or `body`. Failures have the
status that their cause means, and TorchServe's two lines of details: its text, and the Java class it would have thrown.
"""

from __future__ import annotations

from typing import NoReturn

import grpc

from gateway._generated import torchserve_pb2
from gateway.codecs import torchserve_json
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import InferenceResponse
from gateway.frontends.edge import Call, Edge
from gateway.frontends.grpc.calls import (
    MAX_DETAIL,
    Answering,
    Context,
    Method,
    Sent,
    Trailing,
    keep_deadline,
    metadata_of,
    open_call,
    parsed,
    request_id,
    selection,
    trailing,
)
from gateway.frontends.grpc.errors import TORCHSERVE
from gateway.frontends.torchserve import TYPES, health, message, pretty

SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
PROTOCOL = "torchserve-grpc"

_STREAMING = ("StreamPredictions", "StreamPredictions2")
_ARCHIVE = frozenset({"ModelNotFoundException", "ModelVersionNotFoundException"})


class TorchServeServicer:
    """Each method takes and returns a serialised message; failures end the call with a status and the request's id."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, for a server to add."""
        methods: dict[str, Method] = dict.fromkeys(_STREAMING, self._refuse_stream)
        methods |= {"Ping": self.ping, "Predictions": self.predictions}
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        )

    async def ping(self, _data: bytes, context: Context) -> bytes:
        """Ping: OK in any case; the text says whether every model can answer. Its request has no fields to check."""
        context.set_trailing_metadata((("x-request-id", request_id(metadata_of(context))),))
        text = pretty(health(self._edge.data_plane.ready())).decode().rstrip("\n")
        return torchserve_pb2.TorchServeHealthResponse(health=text).SerializeToString()

    async def predictions(self, data: bytes, context: Context) -> bytes:
        """Predictions: one inference, answered once and reported once."""
        sent = metadata_of(context)
        call = open_call(self._edge, PROTOCOL, context, sent)
        asked = torchserve_pb2.PredictionsRequest()
        outcome = await self._outcome(call, asked, data, context, sent)
        if isinstance(outcome, GatewayError):
            name, version = asked.model_name, asked.model_version
            # gRPC keeps what ends a call, and with it this frame, in a cycle.
            del data, asked
            await _abort(context, outcome, trailing(call), name, version)
        context.set_trailing_metadata(trailing(call))
        return torchserve_pb2.PredictionResponse(prediction=outcome).SerializeToString()

    async def _outcome(
        self, call: Call, asked: torchserve_pb2.PredictionsRequest, data: bytes, context: Context, sent: Sent
    ) -> bytes | GatewayError:
        with Answering(self._edge, call, data) as outcome:
            outcome.admit()
            call.model = parsed(asked, data).model_name
            keep_deadline(self._edge, call, context)
            timings = call.context.timings
            with timings.phase("decode"):
                decoded = self._decoded(asked)
            answer = self._edge.ask(call, decoded.request, selection(sent))
            response = answer if isinstance(answer, InferenceResponse) else await answer
            with timings.phase("encode"):
                encoded = torchserve_json.encode_response(response, decoded).body
        return outcome.error or encoded

    def _decoded(self, asked: torchserve_pb2.PredictionsRequest) -> torchserve_json.Decoded:
        name, version = asked.model_name, asked.model_version
        if not name:
            raise GatewayError(Cause.INVALID_INPUT, "Parameter model_name is required.")
        contract_of = self._edge.data_plane.contract
        contract = contract_of(name)
        # An empty version is protobuf's way to leave it out.
        model = torchserve_json.model_spec(name, version, self._edge.data_plane.version_names(name))
        body = torchserve_json.only_body(asked.input)
        if torchserve_json.takes_raw(contract):
            return torchserve_json.decode_raw(body, model, contract)
        if len(body) > self._edge.limits.json_bytes:
            raise GatewayError(
                Cause.TOO_LARGE, f"the body is larger than {self._edge.limits.json_bytes} bytes, the most taken as JSON"
            )
        return torchserve_json.decode_json(body, model, contract_of)

    async def _refuse_stream(self, _data: bytes, context: Context) -> bytes:
        identity = request_id(metadata_of(context))
        self._edge.refuse(PROTOCOL, identity, Cause.ROUTE_NOT_FOUND)
        await context.abort(
            TORCHSERVE[Cause.ROUTE_NOT_FOUND],
            "predictions are not streamed here; expected a call of Predictions",
            (("x-request-id", identity),),
        )


async def _abort(context: Context, error: GatewayError, metadata: Trailing, model: str, version: str) -> NoReturn:
    """Ends the RPC with the cause's status and TorchServe's details."""
    text = capped(message(error, model, version), MAX_DETAIL).encode("utf-8", "replace").decode()
    await context.abort(TORCHSERVE[error.cause], f"{text}\n{_java_class(error.cause)}", metadata)


def _java_class(cause: Cause) -> str:
    kind = TYPES[cause] or "InternalServerException"
    return f"org.pytorch.serve.{'archive.model' if kind in _ARCHIVE else 'http'}.{kind}"
