"""The command line: TensorFlow Serving's flags, as far as the stand-in can honour them, and one of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from serving.tfserving.savedmodel_server import MARK
from serving.tfserving.savedmodel_server.door_flags import DoorFlags, add_door_flags
from serving.tfserving.savedmodel_server.flag_types import natural, spelled_out
from serving.tfserving.savedmodel_server.load_flags import add_load_flags

# model_servers/main.cc, 2.20.0: what a user may have in a script, refused with a word on why.
REFUSED = frozenset(
    {
        "enable_per_model_batching_parameters",
        "enable_profiler",
        "enable_serialization_as_tensor_content",
        "mixed_precision",
        "use_tflite_model",
        "xla_cpu_compilation_enabled",
        "xla_gpu_compilation_enabled",
    }
)
# Turned off, a flag asks for nothing.
TURNED_OFF = frozenset(f"--{name}=false" for name in REFUSED - {"mixed_precision"})
MAX_PORT = 65535
DESCRIPTION = f"""{MARK}: TensorFlow Serving's protocols over TensorFlow's own runtime, for machines
on which TensorFlow Serving cannot run. Its flags are TensorFlow Serving's, but those marked (extension)."""


@dataclass(frozen=True, slots=True)
class Flags(DoorFlags):
    """The parsed command line; a port of 0 is closed."""

    port: int = 8500
    rest_api_port: int = 0
    bind_address: str = "0.0.0.0"
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    file_system_poll_wait_seconds: int = 1


class _Parser(argparse.ArgumentParser):
    """Names a flag of TensorFlow Serving that the stand-in lacks, so that nobody looks for a typing error."""

    def error(self, message: str) -> NoReturn:
        """Prints the reason and exits with 2."""
        for word in message.removeprefix("unrecognized arguments:").split():
            name = word.partition("=")[0].removeprefix("--")
            if name in REFUSED:
                message = f"--{name} is a flag of TensorFlow Serving that {MARK} cannot honour"
                break
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse(arguments: Sequence[str]) -> Flags:
    """The flags of a command line, `--flag=value` or `--flag value`; exits with 2 for any it cannot honour."""
    parser = _Parser(prog="savedmodel_server", description=DESCRIPTION, allow_abbrev=False)
    add = parser.add_argument
    add("--version", action="version", version=MARK, help="print the version and exit")
    add("--port", type=_port, default=8500, help="TCP port for gRPC; 0 leaves --grpc_socket_path alone (default 8500)")
    add("--rest_api_port", type=_port, default=0, help="TCP port for REST; 0 turns it off (default 0)")
    add("--bind_address", default="0.0.0.0", help="(extension) address to listen on (default 0.0.0.0)")
    add("--model_name", default="default", help="name of the one model; ignored with --model_config_file")
    add("--model_base_path", default="", help="absolute path of its folder of numbered versions")
    add("--model_config_file", default="", help="text protobuf ModelServerConfig, for several models")
    add(
        "--file_system_poll_wait_seconds",
        type=natural,
        default=1,
        help="seconds between two looks for new versions; 0 looks until every model is there, then never (default 1)",
    )
    add_door_flags(parser)
    add_load_flags(parser)
    words = [word for word in arguments if word not in TURNED_OFF]
    flags = Flags(**vars(parser.parse_args(spelled_out(parser, words))))
    if not flags.port and not flags.grpc_socket_path:
        parser.error("--port is 0 and there is no --grpc_socket_path; like TensorFlow Serving it serves gRPC always")
    if not flags.model_config_file and not flags.model_base_path:
        parser.error("one of --model_base_path and --model_config_file must be given")
    return flags


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is no port")
    return int(text)
