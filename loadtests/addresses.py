"""Where the configured servers listen, and what the gateway calls its connections to them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import cast

from loadtests.cell_spec import Transport

# Variants that a server of their own serves beside their stack's.
_OWN_SERVER = {"savedmodel-nograppler": "tfserving-nograppler"}


def server_of(stack: str, variant: str) -> str:
    """The launcher's name of the server that serves a variant of a stack."""
    return _OWN_SERVER.get(variant, stack)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens: `host:port`, or a base URL for REST."""

    gateway_rest: str = "127.0.0.1:8000"
    gateway_grpc: str = "127.0.0.1:8001"
    torchserve_rest: str = "127.0.0.1:8080"
    torchserve_grpc: str = "127.0.0.1:7070"
    tfserving_rest: str = "127.0.0.1:8501"
    tfserving_grpc: str = "127.0.0.1:8500"
    tfserving_nograppler_rest: str = "127.0.0.1:8511"
    tfserving_nograppler_grpc: str = "127.0.0.1:8510"

    def of(self, server: str, transport: Transport) -> str:
        """The address of a server ("gateway" too) for a transport."""
        return cast(str, getattr(self, _field(server, transport)))


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The gateway's names of its upstream connections."""

    torchserve_rest: str = "ts"
    torchserve_grpc: str = "ts-grpc"
    tfserving_rest: str = "tf-rest"
    tfserving_grpc: str = "tf"
    tfserving_nograppler_rest: str = "tf-nograppler-rest"
    tfserving_nograppler_grpc: str = "tf-nograppler"

    def of(self, server: str, transport: Transport) -> str:
        """The endpoint's name for a server and its upstream transport."""
        return cast(str, getattr(self, _field(server, transport)))

    def transports(self) -> dict[str, Transport]:
        """Each endpoint's name and the transport it speaks upstream."""
        return {getattr(self, own.name): "grpc" if own.name.endswith("_grpc") else "rest" for own in fields(self)}


def _field(server: str, transport: Transport) -> str:
    return f"{server.replace('-', '_')}_{transport}"
