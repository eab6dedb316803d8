"""The Open Inference Protocol over gRPC: service `inference.GRPCInferenceService`.

Requests arrive as bytes and are parsed here, so that garbage is the client's error (INVALID_ARGUMENT), not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import NoReturn

import grpc

from gateway._generated import oip_pb2
from gateway.codecs import oip_proto, oip_repository
from gateway.codecs.oip_proto_raw import RawRequests
from gateway.codecs.selection import addressed, version_number
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceResponse, ModelSpec
from gateway.frontends.edge import EXTENSIONS, SERVER_NAME, Call, Edge
from gateway.frontends.grpc.calls import (
    Answering,
    Context,
    Method,
    Sent,
    abort,
    answering,
    keep_deadline,
    metadata_of,
    open_call,
    parsed,
    selection,
    trailing,
)
from gateway.frontends.grpc.stream import InferenceStream

SERVICE = "inference.GRPCInferenceService"
PROTOCOL = "oip-grpc"


class OipServicer:
    """Each method takes and returns a serialised message; failures end the call with a status and the request's id."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._data_plane = edge.data_plane
        self._requests = RawRequests()
        self._stream = InferenceStream(edge, PROTOCOL, self._outcome)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, for a server to add."""
        simple: dict[str, Callable[[bytes, Mapping[str, str]], bytes]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._refuse_change,
            "RepositoryModelUnload": self._refuse_change,
        }
        methods: dict[str, Method] = {name: answering(answer) for name, answer in simple.items()}
        methods["ModelInfer"] = self.infer
        # Without a deserialiser gRPC hands over the bytes as they came.
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                **{name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()},
                "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream.serve),
            },
        )

    async def infer(self, data: bytes, context: Context) -> bytes:
        """ModelInfer: one inference, answered once and reported once."""
        sent = metadata_of(context)
        call = open_call(self._edge, PROTOCOL, context, sent)
        outcome = await self._outcome(call, data, context, sent)
        if isinstance(outcome, GatewayError):
            # gRPC keeps what ends a call, and with it this frame, in a cycle.
            del data
            await abort(context, outcome, trailing(call))
        context.set_trailing_metadata(trailing(call))
        return outcome

    async def _outcome(self, call: Call, data: bytes, context: Context, sent: Sent) -> bytes | GatewayError:
        with Answering(self._edge, call, data) as outcome:
            outcome.admit()
            keep_deadline(self._edge, call, context)
            seconds = call.context.timings.seconds
            begin = perf_counter()
            try:
                decoded = self._requests.decode(data, self._data_plane.contract)
            finally:
                seconds["decode"] = perf_counter() - begin
            answer = self._edge.ask(call, decoded.request, selection(sent))
            response = answer if isinstance(answer, InferenceResponse) else await answer
            begin = perf_counter()
            encoded = oip_proto.encode_response(response, raw=decoded.raw)
            seconds["encode"] = perf_counter() - begin
        return outcome.error or encoded

    def _server_live(self, data: bytes, _: Mapping[str, str]) -> bytes:
        parsed(oip_pb2.ServerLiveRequest(), data)
        return oip_pb2.ServerLiveResponse(live=True).SerializeToString()

    def _server_ready(self, data: bytes, _: Mapping[str, str]) -> bytes:
        parsed(oip_pb2.ServerReadyRequest(), data)
        return oip_pb2.ServerReadyResponse(ready=self._data_plane.ready()).SerializeToString()

    def _model_ready(self, data: bytes, chosen: Mapping[str, str]) -> bytes:
        asked = parsed(oip_pb2.ModelReadyRequest(), data)
        ready = self._data_plane.model_ready(*addressed(_spec(asked.name, asked.version), chosen))
        return oip_pb2.ModelReadyResponse(ready=ready).SerializeToString()

    def _server_metadata(self, data: bytes, _: Mapping[str, str]) -> bytes:
        parsed(oip_pb2.ServerMetadataRequest(), data)
        answer = oip_pb2.ServerMetadataResponse(
            name=SERVER_NAME, version=self._data_plane.version, extensions=EXTENSIONS
        )
        return answer.SerializeToString()

    def _model_metadata(self, data: bytes, chosen: Mapping[str, str]) -> bytes:
        asked = parsed(oip_pb2.ModelMetadataRequest(), data)
        spec, _ = addressed(_spec(asked.name, asked.version), chosen)
        return oip_proto.encode_model_metadata(self._data_plane.model_metadata(spec))

    def _repository_index(self, data: bytes, _: Mapping[str, str]) -> bytes:
        ready = oip_repository.decode_message(parsed(oip_pb2.RepositoryIndexRequest(), data))
        return oip_repository.encode_message(self._data_plane.index(ready=ready))

    def _refuse_change(self, _data: bytes, _: Mapping[str, str]) -> NoReturn:
        # The request is not read: two servers of this protocol give it different fields.
        raise GatewayError(Cause.ROUTE_NOT_FOUND, oip_repository.READ_ONLY)


def _spec(model: str, version: str) -> ModelSpec:
    # An empty version is protobuf's way to leave it out.
    return ModelSpec(model, version_number(version, model) if version else None)
