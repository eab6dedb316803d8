"""Which class speaks to which stack over which transport, chosen by plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.backends.channel import MAX_REPLY_BYTES
from gateway.backends.null import Null
from gateway.backends.oip_grpc import OipGrpc
from gateway.backends.oip_rest import OipRest
from gateway.backends.tfserving_grpc import TfServingGrpc
from gateway.backends.tfserving_rest import TfServingRest
from gateway.backends.torchserve import Handlers
from gateway.backends.torchserve_grpc import TorchServeGrpc
from gateway.backends.torchserve_rest import TorchServeRest
from gateway.core.backend import Backend
from gateway.core.clock import Clock, SystemClock
from gateway.core.contract import ModelContract


@dataclass(frozen=True, slots=True)
class _Values:
    """What an endpoint was configured with; addresses are checked when a factory asks for them."""

    where: str
    addresses: Mapping[str, str | None]
    server: str | None
    max_reply_bytes: int
    clock: Clock
    contracts: Mapping[str, ModelContract] = field(default_factory=dict)
    token_file: Path | None = None
    handlers: Handlers | None = None
    versions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    slots: int = 4

    def address(self, name: str) -> str:
        value = self.addresses[name]
        if not value:
            raise ValueError(f"{self.where} needs the address '{name}'")
        return value


def _tfserving_grpc(values: _Values) -> Backend:
    return TfServingGrpc(
        values.address("grpc"), server=values.server, max_reply_bytes=values.max_reply_bytes, clock=values.clock
    )


def _tfserving_rest(values: _Values) -> Backend:
    return TfServingRest(
        values.address("rest"), server=values.server, max_reply_bytes=values.max_reply_bytes, clock=values.clock
    )


def _torchserve_rest(values: _Values) -> Backend:
    return TorchServeRest(
        values.address("rest"),
        values.address("management"),
        server=values.server,
        max_reply_bytes=values.max_reply_bytes,
        clock=values.clock,
        token_file=values.token_file,
        handlers=values.handlers,
        versions=values.versions,
        slots=values.slots,
    )


def _torchserve_grpc(values: _Values) -> Backend:
    return TorchServeGrpc(
        values.address("grpc"),
        values.address("rest"),
        values.address("management"),
        server=values.server,
        max_reply_bytes=values.max_reply_bytes,
        clock=values.clock,
        token_file=values.token_file,
        handlers=values.handlers,
        versions=values.versions,
        slots=values.slots,
    )


def _oip_rest(values: _Values) -> Backend:
    return OipRest(
        values.address("rest"), server=values.server, max_reply_bytes=values.max_reply_bytes, clock=values.clock
    )


def _oip_grpc(values: _Values) -> Backend:
    return OipGrpc(
        values.address("grpc"), server=values.server, max_reply_bytes=values.max_reply_bytes, clock=values.clock
    )


def _null(values: _Values) -> Backend:
    return Null(values.contracts, clock=values.clock)


FACTORIES: dict[tuple[str, str], Callable[[_Values], Backend]] = {
    ("torchserve", "rest"): _torchserve_rest,
    ("torchserve", "grpc"): _torchserve_grpc,
    ("tfserving", "rest"): _tfserving_rest,
    ("tfserving", "grpc"): _tfserving_grpc,
    ("oip", "rest"): _oip_rest,
    ("oip", "grpc"): _oip_grpc,
    # The null backend has no wire; it stands in for either.
    ("noop", "rest"): _null,
    ("noop", "grpc"): _null,
}


def connect(
    *,
    stack: str,
    transport: str,
    grpc: str | None = None,
    rest: str | None = None,
    management: str | None = None,
    server: str | None = None,
    max_reply_bytes: int = MAX_REPLY_BYTES,
    clock: Clock | None = None,
    contracts: Mapping[str, ModelContract] | None = None,
    token_file: Path | None = None,
    handlers: Handlers | None = None,
    versions: Mapping[str, Mapping[str, int]] | None = None,
    slots: int = 4,
) -> Backend:
    """A backend for one endpoint, on the running event loop; nothing is sent yet.

    `grpc` is host:port, `rest` and `management` are URLs; `contracts` are for the null backend. For TorchServe:
    `token_file` with its keys, `handlers` saying how each model's is spoken to (our own frame unless listed),
    `versions` with the numbers of version names by model, `slots` for the requests at once of split batches. Raises
    ValueError for a combination that does not exist, listing those that do, and for a missing address.
    """
    factory = FACTORIES.get((stack, transport))
    if factory is None:
        allowed = ", ".join(f"{stack}/{transport}" for stack, transport in FACTORIES)
        raise ValueError(f"no backend speaks to '{stack}' over '{transport}'; there are {allowed}")
    addresses = {"grpc": grpc, "rest": rest, "management": management}
    values = _Values(
        f"{stack} over {transport}",
        addresses,
        server,
        max_reply_bytes,
        clock or SystemClock(),
        contracts or {},
        token_file,
        handlers,
        {} if versions is None else versions,
        slots,
    )
    return factory(values)
