"""The client's side of the Open Inference Protocol v2 over gRPC (specification/protocol/inference_grpc.md).

Requests carry raw contents, which every datatype has; answers come raw (Triton, always) or typed (KServe, MLServer).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from gateway._generated import oip_pb2
from gateway.codecs.oip_proto import raw_tensor, set_parameter, typed_tensor
from gateway.codecs.oip_server import SERVER, ServedModel, ServerMetadata, listed, served_model, version_of
from gateway.codecs.replies import bad_reply, reading_reply
from gateway.codecs.wire import MAX_FIELDS
from gateway.core.messages import InferenceRequest, InferenceResponse, Parameter, TensorSpec
from gateway.core.tensor import to_raw

M = TypeVar("M", bound=Message)


def encode_request(request: InferenceRequest, version: str) -> bytes:
    """A serialised ModelInferRequest with raw contents, to a version by the server's own spelling, '' for none."""
    message = oip_pb2.ModelInferRequest(model_name=request.model.name, model_version=version, id=request.id)
    for name, value in request.parameters.items():
        set_parameter(message.parameters[name], value)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(bytes(to_raw(tensor)))
    for name in request.wanted:
        message.outputs.add(name=name)
    return message.SerializeToString()


def decode_response(data: bytes) -> InferenceResponse:
    """The response that a serialised ModelInferResponse is; `version` is None where it states no whole number.

    Raises UPSTREAM_BAD_REPLY.
    """
    message = _read(oip_pb2.ModelInferResponse(), data)
    raws = message.raw_output_contents
    if raws and len(raws) != len(message.outputs):
        raise bad_reply(SERVER, f"{len(raws)} raw contents for {len(message.outputs)} outputs")
    names = {tensor.name for tensor in message.outputs}
    # Zero bytes are a valid message; no model answers without an output.
    if not 0 < len(message.outputs) <= MAX_FIELDS or len(names) < len(message.outputs):
        raise bad_reply(SERVER, "it has no outputs, too many, or one of them twice")
    with reading_reply(SERVER):
        outputs = tuple(
            raw_tensor(tensor, raws[index]) if raws else typed_tensor(tensor)
            for index, tensor in enumerate(message.outputs)
        )
    return InferenceResponse(
        model=message.model_name,
        version=version_of(message.model_version),
        outputs=outputs,
        parameters=_parameters(message),
    )


def encode_server_metadata_request() -> bytes:
    """A serialised ServerMetadataRequest."""
    return oip_pb2.ServerMetadataRequest().SerializeToString()


def decode_server_metadata(data: bytes) -> ServerMetadata:
    """The answer to ServerMetadata; raises UPSTREAM_BAD_REPLY."""
    message = _read(oip_pb2.ServerMetadataResponse(), data)
    return ServerMetadata(message.name, message.version, frozenset(message.extensions))


def encode_model_request(model: str) -> bytes:
    """A serialised ModelMetadataRequest."""
    return oip_pb2.ModelMetadataRequest(name=model).SerializeToString()


def decode_model_metadata(data: bytes) -> ServedModel:
    """The answer to ModelMetadata; raises UPSTREAM_BAD_REPLY."""
    message = _read(oip_pb2.ModelMetadataResponse(), data)
    return served_model(
        message.name, message.versions, message.platform, _specs(message.inputs), _specs(message.outputs)
    )


def encode_ready_request(model: str, version: str) -> bytes:
    """A serialised ModelReadyRequest, to a version by the server's own spelling, '' for none."""
    return oip_pb2.ModelReadyRequest(name=model, version=version).SerializeToString()


def decode_ready(data: bytes) -> bool:
    """The answer to ModelReady; raises UPSTREAM_BAD_REPLY."""
    return bool(_read(oip_pb2.ModelReadyResponse(), data).ready)


def encode_index_request() -> bytes:
    """A serialised RepositoryIndexRequest for every model."""
    return oip_pb2.RepositoryIndexRequest().SerializeToString()


def decode_index(data: bytes) -> tuple[str, ...]:
    """The models in the answer to RepositoryIndex; raises UPSTREAM_BAD_REPLY."""
    return listed((entry.name, entry.state) for entry in _read(oip_pb2.RepositoryIndexResponse(), data).models)


def _read(message: M, data: bytes) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise bad_reply(SERVER, f"it is not a {message.DESCRIPTOR.name}") from None
    return message


def _specs(tensors: Iterable[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(tensor.name, tensor.datatype, tuple(max(dim, -1) for dim in tensor.shape)) for tensor in tensors
    )


def _parameters(message: oip_pb2.ModelInferResponse) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, value in message.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(value, kind)
    return found
