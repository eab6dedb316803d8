"""Files in protobuf's text format whose messages `tensorflow-serving-api` leaves out, declared here field by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message
from grpc import StatusCode

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.metrics import DEFAULT_PATH

PACKAGE = "tensorflow.serving"

_Field = descriptor_pb2.FieldDescriptorProto
# A message's fields: of each its number and its type, which is a scalar or the name of another message.
Fields = Mapping[str, tuple[int, int | str]]

# config/monitoring_config.proto and config/ssl_config.proto, 2.20.0.
_MONITORING: Mapping[str, Fields] = {
    "PrometheusConfig": {"enable": (1, _Field.TYPE_BOOL), "path": (2, _Field.TYPE_STRING)},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
}
_SSL: Mapping[str, Fields] = {
    "SSLConfig": {
        "server_key": (1, _Field.TYPE_STRING),
        "server_cert": (2, _Field.TYPE_STRING),
        "custom_ca": (3, _Field.TYPE_STRING),
        "client_verify": (4, _Field.TYPE_BOOL),
    }
}


def declared(messages: Mapping[str, Fields], wanted: str) -> Message:
    """An empty message of type `wanted`, one of the messages declared; fields are optional, none is repeated."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{wanted}.proto", package=PACKAGE, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            entry = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if isinstance(kind, str):
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{wanted}"))()


def read(path: Path, message: Message) -> None:
    """Fills a message from a file; raises NOT_FOUND where there is none, INVALID_ARGUMENT where it cannot be read."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ServingError(StatusCode.NOT_FOUND, f"{path}: {exc}") from exc
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as exc:
        raise invalid(f"Invalid protobuf file: '{path}': {exc}") from exc


def monitoring_path(file: str) -> str | None:
    """Where the Prometheus page is, by `--monitoring_config_file`; None where it is off. Raises as `read`."""
    if not file:
        return None
    message = declared(_MONITORING, "MonitoringConfig")
    read(Path(file), message)
    config = message.prometheus_config
    return (config.path or DEFAULT_PATH) if config.enable else None


def credentials(file: str) -> grpc.ServerCredentials | None:
    """What the gRPC ports are secured with, by `--ssl_config_file`; None without. Raises as `read`."""
    if not file:
        return None
    config = declared(_SSL, "SSLConfig")
    read(Path(file), config)
    if not config.server_key or not config.server_cert:
        raise invalid(f"'{file}': SSLConfig needs the PEM texts server_key and server_cert")
    if config.client_verify and not config.custom_ca:
        raise invalid(f"'{file}': SSLConfig with client_verify needs the PEM text custom_ca")
    return grpc.ssl_server_credentials(
        ((config.server_key.encode(), config.server_cert.encode()),),
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
