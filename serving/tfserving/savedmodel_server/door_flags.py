"""The flags on the doors, as model_servers/main.cc names them and server.h defaults them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from serving.tfserving.savedmodel_server.flag_types import boolean, natural
from serving.tfserving.savedmodel_server.load_flags import LoadFlags


@dataclass(frozen=True, slots=True)
class DoorFlags(LoadFlags):
    """How clients reach the server; 0 threads are 4 for every processor."""

    rest_api_timeout_in_ms: int = 30_000
    rest_api_num_threads: int = 0
    rest_api_enable_cors_support: bool = False
    grpc_socket_path: str = ""
    grpc_max_threads: int = 0
    grpc_channel_arguments: str = ""
    ssl_config_file: str = ""
    enable_grpc_healthcheck_service: bool = False
    monitoring_config_file: str = ""
    enable_signature_method_name_check: bool = False

    @property
    def grpc_options(self) -> tuple[tuple[str, int | str], ...]:
        """`grpc_channel_arguments` as gRPC takes them: whole numbers are numbers, everything else is text."""
        pairs = [pair.partition("=") for pair in self.grpc_channel_arguments.split(",") if pair.strip()]
        return tuple((key.strip(), int(value) if _is_int(value) else value) for key, _, value in pairs)


def add_door_flags(parser: argparse.ArgumentParser) -> None:
    """Puts the flags into a parser, each under its own name."""
    group = parser.add_argument_group("doors")

    def add(name: str, kind: object, text: str) -> None:
        group.add_argument(f"--{name}", type=kind, default=getattr(_DEFAULTS, name), help=text)  # type: ignore[arg-type]

    add("rest_api_timeout_in_ms", natural, "limit of a REST call that runs a model; 0 is none (default 30000)")
    add("rest_api_num_threads", natural, "REST calls that run a model at once; 0 is 4 for every processor")
    add("rest_api_enable_cors_support", boolean, "let pages of any origin ask")
    add("grpc_socket_path", str, "a Unix socket for gRPC, beside --port")
    add("grpc_max_threads", natural, "gRPC calls that run a model at once; 0 is 4 for every processor")
    add("grpc_channel_arguments", str, "gRPC server options, as k=v,k=v")
    add("ssl_config_file", str, "text protobuf SSLConfig: PEM texts that secure the gRPC ports")
    add("enable_grpc_healthcheck_service", boolean, "offer grpc.health.v1.Health")
    add("monitoring_config_file", str, "text protobuf MonitoringConfig, for a Prometheus page on the REST port")
    add("enable_signature_method_name_check", boolean, "refuse signatures whose method_name is another API's")


def _is_int(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


_DEFAULTS = DoorFlags()
