"""The files that flags on the doors name: where the Prometheus page is, and what secures gRPC."""

from __future__ import annotations

from pathlib import Path

import grpc

from serving.tfserving.savedmodel_server.errors import invalid
from serving.tfserving.savedmodel_server.metrics import DEFAULT_PATH
from serving.tfserving.savedmodel_server.session_bundle_config import read


def monitoring_path(file: str) -> str | None:
    """Where the Prometheus page is, by `--monitoring_config_file`; None where it is off. Raises as `read`."""
    if not file:
        return None
    config = read(Path(file), "MonitoringConfig").prometheus_config
    return (config.path or DEFAULT_PATH) if config.enable else None


def credentials(file: str) -> grpc.ServerCredentials | None:
    """What the gRPC ports are secured with, by `--ssl_config_file`; None without. Raises as `read`."""
    if not file:
        return None
    config = read(Path(file), "SSLConfig")
    if not config.server_key or not config.server_cert:
        raise invalid(f"'{file}': SSLConfig needs the PEM texts server_key and server_cert")
    if config.client_verify and not config.custom_ca:
        raise invalid(f"'{file}': SSLConfig with client_verify needs the PEM text custom_ca")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
