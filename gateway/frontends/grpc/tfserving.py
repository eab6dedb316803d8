"""TF Serving over gRPC: services `tensorflow.serving.PredictionService` and `tensorflow.serving.ModelService`.

Offered are Predict, GetModelMetadata and GetModelStatus; every other method is UNIMPLEMENTED and says what to use.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from gateway._generated import tfserving_pb2
from gateway.codecs.tfserving_documents import check_metadata_fields, metadata_message, status_message
from gateway.codecs.tfserving_proto_in import check_wire, decode_request, encode_response, model_spec
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.frontends.edge import Call, Edge, Ticket
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
    request_id,
    selection,
    trailing,
)
from gateway.frontends.grpc.errors import TFSERVING
from gateway.frontends.tfserving import check_servable, chosen_version, described, version_states

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"
PROTOCOL = "tfserving-grpc"

_Asked = tfserving_pb2.PredictRequest | tfserving_pb2.GetModelMetadataRequest | tfserving_pb2.GetModelStatusRequest

_NO_SIGNATURE = 'Serving signature key "{}" not found.'
_EXAMPLES = "works on tf.Example, which the gateway does not take; use Predict"
_NOT_OFFERED = {
    PREDICTION_SERVICE: {
        "Classify": f"Classify {_EXAMPLES}",
        "Regress": f"Regress {_EXAMPLES}",
        "MultiInference": f"MultiInference {_EXAMPLES}",
        "PredictStreamed": "PredictStreamed is not offered; use Predict",
    },
    MODEL_SERVICE: {
        "HandleReloadConfigRequest": "models are not loaded through the gateway; reload them at the model server",
    },
}


class TfServingServicer:
    """Each method takes and returns a serialised message; failures end the call with TF Serving's status for them."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._data_plane = edge.data_plane

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Both services, for a server to add."""
        offered: dict[str, dict[str, Method]] = {
            PREDICTION_SERVICE: {
                "Predict": self.predict,
                "GetModelMetadata": answering(self._model_metadata, TFSERVING),
            },
            MODEL_SERVICE: {"GetModelStatus": answering(self._model_status, TFSERVING)},
        }
        for service, methods in _NOT_OFFERED.items():
            offered[service].update({name: self._refusing(text) for name, text in methods.items()})
        return tuple(
            grpc.method_handlers_generic_handler(
                service, {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
            )
            for service, methods in offered.items()
        )

    async def predict(self, data: bytes, context: Context) -> bytes:
        """Predict: one inference, answered once and reported once."""
        sent = metadata_of(context)
        call = open_call(self._edge, PROTOCOL, context, sent)
        outcome = await self._outcome(call, data, context, sent)
        if isinstance(outcome, GatewayError):
            # gRPC keeps what ends a call, and with it this frame, in a cycle.
            del data
            await abort(context, outcome, trailing(call), TFSERVING)
        context.set_trailing_metadata(trailing(call))
        return outcome

    async def _outcome(self, call: Call, data: bytes, context: Context, sent: Sent) -> bytes | GatewayError:
        with Answering(self._edge, call, data) as outcome:
            ticket = outcome.admit()
            keep_deadline(self._edge, call, context)
            timings = call.context.timings
            with timings.phase("decode"):
                request = self._decoded(call, data, ticket)
            answer = self._edge.ask(call, request, selection(sent))
            response = answer if isinstance(answer, InferenceResponse) else await answer
            with timings.phase("encode"):
                encoded = encode_response(response, request.model.signature_name)
        return outcome.error or encoded

    def _decoded(self, call: Call, data: bytes, ticket: Ticket) -> InferenceRequest:
        check_wire(data)
        message = parsed(tfserving_pb2.PredictRequest(), data)
        spec = self._spec(message)
        call.model = spec.name
        check_servable(self._data_plane, spec, _NO_SIGNATURE)
        request = decode_request(message, spec, self._data_plane.contract(spec.name, spec.signature_name))
        # One value can stand for many: what a few bytes have grown into counts too.
        ticket.take(max(0, sum(tensor.nbytes for tensor in request.inputs) - len(data)))
        return request

    def _model_metadata(self, data: bytes, chosen: Mapping[str, str]) -> bytes:
        message = parsed(tfserving_pb2.GetModelMetadataRequest(), data)
        spec = self._spec(message)
        check_metadata_fields(message.metadata_field)
        return metadata_message(spec.name, *described(self._data_plane, spec, chosen))

    def _model_status(self, data: bytes, chosen: Mapping[str, str]) -> bytes:
        spec = self._spec(parsed(tfserving_pb2.GetModelStatusRequest(), data))
        return status_message(version_states(self._data_plane, spec, chosen))

    def _spec(self, message: _Asked) -> ModelSpec:
        if not message.HasField("model_spec"):
            raise GatewayError(Cause.INVALID_INPUT, "Missing ModelSpec")
        return chosen_version(self._data_plane, model_spec(message.model_spec))

    def _refusing(self, text: str) -> Method:
        async def method(_data: bytes, context: Context) -> bytes:
            identity = request_id(metadata_of(context))
            self._edge.refuse(PROTOCOL, identity, Cause.ROUTE_NOT_FOUND)
            await abort(context, GatewayError(Cause.ROUTE_NOT_FOUND, text), (("x-request-id", identity),), TFSERVING)

        return method
