"""What TF Serving's doors tell of a model: its versions' states and its signature, as JSON and as messages.

The JSON is protobuf's own form of the messages (get_model_status.proto, get_model_metadata.proto): names as in the
.proto, 64-bit numbers as strings, and `signature_def` twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway._generated import tfserving_pb2
from gateway.codecs.tfserving_proto import DTYPE_NAME, NUMBER
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ModelMetadata, TensorSpec

SIGNATURES = "signature_def"
_SIGNATURES_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_METHOD = "tensorflow/serving/predict"


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version of a model, and whether it answers now."""

    version: int
    available: bool

    @property
    def state(self) -> str:
        """TF Serving's word: a version that answers is AVAILABLE, any other is over for now."""
        return "AVAILABLE" if self.available else "END"

    @property
    def status(self) -> tuple[str, str]:
        """The error code and message."""
        return ("OK", "") if self.available else ("UNAVAILABLE", "no endpoint can answer for this version now")


def status_json(states: Iterable[VersionState]) -> bytes:
    """The body of `GET /v1/models/{model}`."""
    versions = [
        {
            "version": str(item.version),
            "state": item.state,
            "status": {"error_code": item.status[0], "error_message": item.status[1]},
        }
        for item in states
    ]
    return _pretty({"model_version_status": versions})


def status_message(states: Iterable[VersionState]) -> bytes:
    """A serialised GetModelStatusResponse."""
    message = tfserving_pb2.GetModelStatusResponse()
    for item in states:
        code, text = item.status
        message.model_version_status.add(
            version=item.version,
            state=item.state,
            status=tfserving_pb2.StatusProto(error_code=code, error_message=text),
        )
    return message.SerializeToString()


def metadata_json(model: str, signatures: Mapping[str, ModelMetadata], version: int) -> bytes:
    """The body of `GET /v1/models/{model}/metadata`."""
    described = {
        name: {
            "inputs": {spec.name: _tensor_json(spec) for spec in metadata.inputs},
            "outputs": {spec.name: _tensor_json(spec) for spec in metadata.outputs},
            "method_name": _METHOD,
            "defaults": {},
        }
        for name, metadata in signatures.items()
    }
    return _pretty(
        {
            "model_spec": {"name": model, "signature_name": "", "version": str(version)},
            "metadata": {SIGNATURES: {SIGNATURES: described}},
        }
    )


def metadata_message(model: str, signatures: Mapping[str, ModelMetadata], version: int) -> bytes:
    """A serialised GetModelMetadataResponse."""
    described = tfserving_pb2.SignatureDefMap()
    for name, metadata in signatures.items():
        signature = described.signature_def[name]
        signature.method_name = _METHOD
        for specs, tensors in ((metadata.inputs, signature.inputs), (metadata.outputs, signature.outputs)):
            for spec in specs:
                info = tensors[spec.name]
                info.name = _graph_name(spec)
                info.dtype = NUMBER[spec.datatype]
                info.tensor_shape.unknown_rank = not spec.ranked
                for size in spec.shape if spec.ranked else ():
                    info.tensor_shape.dim.add(size=size)
                info.tensor_shape.SetInParent()
    message = tfserving_pb2.GetModelMetadataResponse()
    message.model_spec.name = model
    message.model_spec.version.value = version
    # Messages are generated under a package of our own, so the type that the Any names is written out.
    message.metadata[SIGNATURES].type_url = _SIGNATURES_URL
    message.metadata[SIGNATURES].value = described.SerializeToString()
    return message.SerializeToString()


def check_metadata_fields(fields: Sequence[str]) -> None:
    """Raises INVALID_INPUT where metadata is asked for that there is none of."""
    if not fields:
        raise GatewayError(Cause.INVALID_INPUT, "GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != SIGNATURES:
            raise GatewayError(Cause.INVALID_INPUT, f"Metadata field {field[:64]} is not supported")


def _tensor_json(spec: TensorSpec) -> dict[str, object]:
    dims = [{"size": str(size), "name": ""} for size in spec.shape] if spec.ranked else []
    return {
        "dtype": DTYPE_NAME[spec.datatype],
        "tensor_shape": {"dim": dims, "unknown_rank": not spec.ranked},
        "name": _graph_name(spec),
    }


def _graph_name(spec: TensorSpec) -> str:
    # A graph's own names are not known here, and mean nothing without the graph.
    return f"{spec.name}:0"


def _pretty(document: object) -> bytes:
    return json.dumps(document, indent=4, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
