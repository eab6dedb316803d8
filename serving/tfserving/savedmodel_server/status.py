"""The answers about models rather than from them: version status and signatures, as messages and as JSON.

The JSON is that of protobuf's C++ printer: fields by their numbers, defaults written out, one space of indentation. The
metadata are two such documents, put together as text (http_rest_api_util.cc).
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from grpc import StatusCode
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.versions import Versions

SIGNATURE_DEF = "signature_def"


def model_status(
    versions: Versions, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of one version, or of all, newest first; a label is ignored, as TensorFlow Serving does.

    Raises INVALID_ARGUMENT without a ModelSpec and NOT_FOUND for what is unknown.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = request.model_spec
    known = versions.of(spec.name)
    if spec.HasField("version"):
        number = spec.version.value
        if number not in known:
            raise ServingError(StatusCode.NOT_FOUND, f"Could not find version {number} of model {spec.name}")
        known = {number: known[number]}
    if not known:
        raise ServingError(StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, version in known.items():
        entry = response.model_version_status.add(version=number, state=int(version.state))
        entry.status.SetInParent()
        if version.error is not None:
            entry.status.error_code = version.error.number
            entry.status.error_message = version.error.message
    return response


def model_metadata(
    versions: Versions, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Every signature of one version, without the defaults (release notes of 2.20.0); raises ServingError."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_DEF:
            raise invalid(f"Metadata field {name} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with versions.using(request.model_spec) as (number, servable):
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = number
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
            signatures.signature_def[name].ClearField("defaults")
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def status_json(versions: Versions, spec: model_pb2.ModelSpec) -> bytes:
    """The body of a REST status call; raises ServingError."""
    if not spec.name:
        raise invalid("Missing model name in request.")
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    return _text(_document(model_status(versions, request)))


def metadata_json(versions: Versions, spec: model_pb2.ModelSpec) -> bytes:
    """The body of a REST metadata call, its signatures under `signature_def` twice; raises ServingError."""
    if not spec.name:
        raise invalid("Missing model name in request.")
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
    response = model_metadata(versions, request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    return b'{\n"model_spec":%b,\n"metadata": {"signature_def": %b}\n}\n' % (
        _text(_document(response.model_spec)),
        _text(_document(signatures)),
    )


def _document(message: Message) -> dict[str, Any]:
    document = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    ordered: dict[str, Any] = _in_order(document, message.DESCRIPTOR)
    return ordered


def _in_order(document: Any, descriptor: Any) -> Any:  # noqa: ANN401 - JSON, and either implementation's descriptor
    """The JSON object of a message with its fields, and those of its messages, by number; a map by its keys."""
    if not isinstance(document, dict):
        # A wrapper such as Int64Value is a bare value.
        return document
    ordered: dict[str, Any] = {}
    for field in sorted(descriptor.fields, key=lambda field: field.number):
        if field.name not in document:
            continue
        value, inner = document[field.name], field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            of_value = inner.fields_by_name["value"].message_type
            value = {key: _in_order(value[key], of_value) if of_value else value[key] for key in sorted(value)}
        elif inner is not None:
            value = [_in_order(item, inner) for item in value] if isinstance(value, list) else _in_order(value, inner)
        ordered[field.name] = value
    return ordered


def _text(document: dict[str, Any]) -> bytes:
    # The printer escapes what would end a script element.
    text = json.dumps(document, indent=1, ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return (text + "\n").encode()
