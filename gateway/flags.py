"""The command line of `gateway` and `gateway check`: servers that a user already runs, as endpoints of a configuration.

An address without a port means the port that the server has by default; the flags add to a file, or stand for one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.settings import Settings, SettingsError, load

DEFAULT_FILE = Path("gateway.yaml")

# TorchServe's ports (frontend's ConfigManager.java), and TensorFlow Serving's by its image.
TORCHSERVE_REST, TORCHSERVE_MANAGEMENT, TORCHSERVE_GRPC = 8080, 8081, 7070
TFSERVING_GRPC, TFSERVING_REST = 8500, 8501

_PORTS = {
    "torchserve": {"http": TORCHSERVE_REST},
    "tfserving": {"grpc": TFSERVING_GRPC, "http": TFSERVING_REST},
    "oip": {},
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; `scheme` is `http`, `https` or `grpc`, and `port` None where none was given."""

    scheme: str
    host: str
    port: int | None

    def url(self, port: int) -> str:
        """The base URL at this host."""
        return f"{self.scheme}://{self._at(port)}"

    def authority(self, port: int) -> str:
        """host:port."""
        return self._at(port)

    def _at(self, port: int) -> str:
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name servers."""
    servers = parser.add_argument_group(
        "servers that already run", "Each adds an endpoint; models, versions and tensors are asked of the servers."
    )
    servers.add_argument(
        "--torchserve",
        metavar="HOST[:PORT]",
        type=_address("torchserve", "http"),
        help=f"TorchServe's inference port, {TORCHSERVE_REST} where none is given; each model needs a contract",
    )
    servers.add_argument(
        "--torchserve-management",
        metavar="HOST:PORT",
        type=_address("torchserve", "http"),
        help=f"its management port, where that is not {TORCHSERVE_MANAGEMENT}, or the port after PORT",
    )
    servers.add_argument(
        "--torchserve-key-file",
        metavar="key_file.json",
        type=Path,
        help="the keys that TorchServe writes where its token authorization is on, as it is by default",
    )
    servers.add_argument(
        "--tfserving",
        metavar="HOST[:PORT]",
        type=_address("tfserving", "grpc"),
        help=f"TensorFlow Serving's gRPC port, {TFSERVING_GRPC} where none is given; http://HOST[:PORT] for REST",
    )
    servers.add_argument(
        "--oip",
        metavar="http://HOST:PORT|grpc://HOST:PORT",
        action="append",
        default=[],
        type=_address("oip", None),
        help="a server of the Open Inference Protocol v2; may be given several times",
    )
    servers.add_argument(
        "--model",
        metavar="NAME",
        action="append",
        default=[],
        help="a model of TensorFlow Serving, which cannot list them; without it, of the servers of --oip; may be "
        "given several times",
    )
    for door in ("rest", "grpc", "admin"):
        parser.add_argument(
            f"--{door}-port", metavar="PORT", type=int, help=f"where to listen, instead of server.{door}_port"
        )
    parser.add_argument(
        "--workers", metavar="COUNT", type=int, help="how many processes serve, instead of server.workers"
    )


def settings_of(options: argparse.Namespace, file: Path | None) -> Settings:
    """The configuration that a file, the flags and the environment amount to; raises SettingsError.

    Without a file and without servers it is `gateway.yaml`.
    """
    endpoints = _endpoints(options)
    file = file_of(options, file)
    if options.model and options.tfserving is None and not options.oip:
        raise SettingsError("--model names models of a server: add --tfserving or --oip")
    for flag in ("torchserve_key_file", "torchserve_management"):
        if getattr(options, flag) and options.torchserve is None:
            raise SettingsError(f"--{flag.replace('_', '-')} is for a TorchServe: add --torchserve")
    own = {name: getattr(options, name) for name in ("rest_port", "grpc_port", "admin_port", "workers")}
    flags: dict[str, dict[str, Any]] = {"server": {name: value for name, value in own.items() if value is not None}}
    flags["endpoints"] = endpoints
    return load(file, {name: section for name, section in flags.items() if section})


def file_of(options: argparse.Namespace, file: Path | None) -> Path | None:
    """The file that is read: the one named, `gateway.yaml` where neither a file nor a server is, else none."""
    return DEFAULT_FILE if file is None and not _endpoints(options) else file


def _endpoints(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    if options.torchserve is not None:
        found["torchserve"] = _torchserve(options)
    if options.tfserving is not None:
        found["tfserving"] = _over("tfserving", options.tfserving)
    for number, address in enumerate(options.oip, start=1):
        found["oip" if number == 1 else f"oip{number}"] = _over("oip", address)
    for name in ["tfserving"] if options.tfserving is not None else [name for name in found if name != "torchserve"]:
        if options.model:
            found[name]["models"] = options.model
    return found


def _torchserve(options: argparse.Namespace) -> dict[str, Any]:
    address: Address = options.torchserve
    manager: Address = options.torchserve_management or address
    own = options.torchserve_management is not None
    beside = TORCHSERVE_MANAGEMENT if address.port is None else address.port + 1
    keys = {} if options.torchserve_key_file is None else {"token_file": str(options.torchserve_key_file)}
    return {
        "stack": "torchserve",
        "rest": address.url(address.port or TORCHSERVE_REST),
        "management": manager.url((manager.port or TORCHSERVE_MANAGEMENT) if own else beside),
        **keys,
    }


def _over(stack: str, address: Address) -> dict[str, Any]:
    transport = "grpc" if address.scheme == "grpc" else "rest"
    defaults: Mapping[str, int] = _PORTS[stack]
    port = address.port or defaults["grpc" if transport == "grpc" else "http"]
    where = address.authority(port) if transport == "grpc" else address.url(port)
    return {"stack": stack, "transport": transport, transport: where}


def _address(stack: str, scheme: str | None) -> Callable[[str], Address]:
    """Reads an address; `scheme` is what one without any means, None where it has to have one."""
    schemes = ("http", "https") if stack == "torchserve" else ("http", "https", "grpc")

    def read(text: str) -> Address:
        try:
            parts = urlsplit(text if "://" in text or scheme is None else f"{scheme}://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        rest = parts.path.rstrip("/") or parts.query or parts.fragment or parts.username
        if not host or rest or parts.scheme not in schemes or (port is None and not _PORTS[stack]):
            prefix = "http:// or grpc://, then HOST:PORT" if stack == "oip" else "HOST or HOST:PORT"
            raise argparse.ArgumentTypeError(f"'{text}': expected {prefix}")
        return Address(parts.scheme, host, port)

    return read
