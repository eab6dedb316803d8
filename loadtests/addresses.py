"""Where the configured servers listen, and what the gateway calls its connections to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from loadtests.cell_spec import STACKS, TRANSPORTS, Transport


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens: `host:port`, or a base URL for REST."""

    gateway_rest: str = "127.0.0.1:8000"
    gateway_grpc: str = "127.0.0.1:8001"
    torchserve_rest: str = "127.0.0.1:8080"
    torchserve_grpc: str = "127.0.0.1:7070"
    tfserving_rest: str = "127.0.0.1:8501"
    tfserving_grpc: str = "127.0.0.1:8500"

    def of(self, stack: str, transport: Transport) -> str:
        """The address of a stack ("gateway" too) for a transport."""
        return cast(str, getattr(self, f"{stack}_{transport}"))


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The gateway's names of its four upstream connections."""

    torchserve_rest: str = "ts"
    torchserve_grpc: str = "ts-grpc"
    tfserving_rest: str = "tf-rest"
    tfserving_grpc: str = "tf"

    def of(self, stack: str, transport: Transport) -> str:
        """The endpoint's name for a stack and its upstream transport."""
        return cast(str, getattr(self, f"{stack}_{transport}"))

    def transports(self) -> dict[str, Transport]:
        """Each endpoint's name and the transport it speaks upstream."""
        return {self.of(stack, transport): transport for stack in STACKS for transport in TRANSPORTS}
