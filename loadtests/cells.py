"""What is measured: one cell is one model, one server, one way to reach it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from loadtests.errors import LoadTestError

Transport = Literal["rest", "grpc"]
Way = Literal["direct", "gateway"]
Upstream = Literal["matched", "default"]

STACKS = ("torchserve", "tfserving")
TRANSPORTS: tuple[Transport, ...] = ("rest", "grpc")
# The mark that the SavedModel server puts into its own name; no verdict is printed from a run that holds it.
STAND_IN = "(stand-in)"
# The gateway's own door for each transport of a client.
_GATEWAY_WIRE: dict[Transport, str] = {"rest": "predict", "grpc": "oip-grpc"}


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
    """The gateway's names of the four upstream connections that the matched cells pin."""

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


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table.

    `server` is the program expected to answer; what the answers themselves name wins over it. A gateway cell pins
    an `endpoint` (matched) or only the stack (default); `transports` then tells, for a default cell, which
    upstream transport the endpoint that answered stands for. `door` is the protocol spoken to the gateway where it is
    not the one that it offers first.
    """

    model: str
    stack: str
    path: Way
    protocol: Transport
    server: str
    address: str
    upstream: Upstream | None = None
    upstream_protocol: Transport | None = None
    endpoint: str | None = None
    transports: Mapping[str, Transport] = field(default_factory=dict)
    door: str = ""

    @property
    def wire(self) -> str:
        """The protocol that the client speaks, in the glossary's words: `predict`, `oip-grpc`, `tfserving-rest`, ..."""
        if self.path == "gateway":
            return self.door or _GATEWAY_WIRE[self.protocol]
        return f"{self.stack}-{self.protocol}"

    @property
    def pins(self) -> dict[str, str]:
        """The headers, or gRPC metadata, that tell the gateway where the request must go."""
        if self.path == "direct":
            return {}
        if self.endpoint:
            return {"x-endpoint": self.endpoint}
        return {"x-stack": self.stack} if self.stack else {}

    @property
    def label(self) -> str:
        """A short name for people and for Locust's own statistics."""
        way = f"{self.path} ({self.upstream})" if self.upstream else self.path
        return " ".join(part for part in (self.model, self.stack, self.protocol, way) if part)

    @property
    def slug(self) -> str:
        """A file name without suffix; distinct for the cells of one run."""
        parts = (self.model, self.stack, self.protocol, self.path, self.upstream or "")
        return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part) for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """The cell as `run_cell` hands it to Locust."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object, source: str = "cell") -> Cell:
        """The cell of `to_json`; raises LoadTestError naming `source` where it is not one."""
        if not isinstance(document, dict):
            raise LoadTestError(f"{source}: expected an object that describes a cell")
        try:
            return cls(**document)
        except TypeError as exc:
            raise LoadTestError(f"{source}: not a cell: {exc}") from exc

    @classmethod
    def from_text(cls, text: str, source: str = "cell") -> Cell:
        """Like `from_json`, from the text of a file."""
        try:
            return cls.from_json(json.loads(text), source)
        except ValueError as exc:
            raise LoadTestError(f"{source}: not JSON: {exc}") from exc


def demo_cells(
    models: Iterable[str],
    *,
    servers: Mapping[str, str],
    addresses: Addresses | None = None,
    endpoints: Endpoints | None = None,
    default_upstream: Mapping[str, Transport] | None = None,
) -> tuple[Cell, ...]:
    """The demo's cells: per model and stack {REST, gRPC} x {direct, gateway}, then the gateway's own default.

    `servers` names the program behind each stack. A gateway cell stands right after the direct one it is compared
    with, so that both meet the machine in the same minute.
    """
    addresses, endpoints = addresses or Addresses(), endpoints or Endpoints()
    default_upstream = default_upstream or {"torchserve": "rest", "tfserving": "grpc"}
    cells: list[Cell] = []
    for model in models:
        for stack in STACKS:
            for transport in TRANSPORTS:
                cells += _matched_pair(
                    model, stack, transport, server=servers[stack], addresses=addresses, endpoints=endpoints
                )
            cells.append(
                Cell(
                    model=model,
                    stack=stack,
                    path="gateway",
                    protocol="rest",
                    server=servers[stack],
                    address=addresses.gateway_rest,
                    upstream="default",
                    upstream_protocol=default_upstream[stack],
                    transports=endpoints.transports(),
                )
            )
    return tuple(cells)


def _matched_pair(
    model: str, stack: str, transport: Transport, *, server: str, addresses: Addresses, endpoints: Endpoints
) -> tuple[Cell, Cell]:
    direct = Cell(
        model=model,
        stack=stack,
        path="direct",
        protocol=transport,
        server=server,
        address=addresses.of(stack, transport),
    )
    through = Cell(
        model=model,
        stack=stack,
        path="gateway",
        protocol=transport,
        server=server,
        address=addresses.of("gateway", transport),
        upstream="matched",
        upstream_protocol=transport,
        endpoint=endpoints.of(stack, transport),
    )
    return direct, through
