"""One endpoint at run time, and what is known of each model on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from gateway.core.backend import Asked, Backend, Middleware, ModelState
from gateway.core.contract import ModelContract
from gateway.core.errors import GatewayError
from gateway.core.messages import DEFAULT_SIGNATURE, InferenceRequest, ModelMetadata, ModelSpec, TensorSpec

STAND_IN_MARK = "(stand-in)"

TargetKey = tuple[str, str, int | None, frozenset[tuple[str, str]]]

# (rows, bytes) that a request's batch may hold, None for a request that travels alone.
Coalescing = Callable[[InferenceRequest], tuple[int, int] | None]


class Status(StrEnum):
    """Whether an endpoint may be sent a model's requests."""

    UNVERIFIED = "unverified"
    READY = "ready"
    NOT_READY = "not ready"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the last check said of one model on one endpoint; `versions` newest first."""

    status: Status
    reason: str
    versions: tuple[int, ...] = ()

    def answers(self, spec: ModelSpec) -> bool:
        """Whether the target can answer for `spec`."""
        return self.status is Status.READY and (spec.version is None or spec.version in self.versions)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a route may send: an endpoint, and the model's and tensors' names there.

    `names` maps the contract's tensor names to the server's own, where they differ.
    """

    endpoint: str
    model: str
    version: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    variant: str | None = None
    weight: float = 1.0
    """Its share of a route's requests, against the other targets' weights; 0 keeps it for failover only."""
    label: str | None = None
    """What the configuration calls its version, where it does."""
    by_name: bool = False
    """Whether it answers only requests that name its variant or its endpoint: never by policy, failover or retry."""
    batching: bool = True
    """Whether requests may travel together where its route batches: not where the rows of a run change each other."""

    key: TargetKey = field(init=False, compare=False)
    """What tells it from the other targets of its route: looked up for every request, so made once."""

    def __post_init__(self) -> None:
        key = self.endpoint, self.model, self.version, frozenset(self.names.items())
        object.__setattr__(self, "key", key)

    def circuit(self, model: str) -> str:
        """The name of its circuit breaker at its endpoint: what answers only by name fails for itself alone."""
        return f"{model}/{self.variant or self.model}" if self.by_name else model


class Surroundings(Protocol):
    """What is around the calls to an endpoint: its gates, its slots, its counters."""

    @property
    def idle(self) -> bool:
        """Whether a call would go out at once."""
        ...

    def refusal(self, model: str, caller: str) -> GatewayError | None:
        """What a request of `caller`, its peer's address, would be refused with if it came now; None if it would not.

        It takes nothing, and promises nothing: the request may come later.
        """
        ...

    def around(self, model: str, limits_of: Coalescing, call: Asked) -> Asked:
        """`call`, to one target of a model's route, in what is around it; what that counts outlives the route."""
        ...

    def around_mirror(self, model: str) -> tuple[Middleware, ...]:
        """The same for copies, which touch no gate and no breaker."""
        ...

    def keep(self, models: Collection[str]) -> None:
        """Forgets what was counted for any other model."""
        ...


class Bare:
    """Nothing around an endpoint: no gate, no limit, no counter."""

    idle = True

    def refusal(self, model: str, caller: str) -> GatewayError | None:
        """None: everything is taken."""
        return None

    def around(self, model: str, limits_of: Coalescing, call: Asked) -> Asked:
        """The call as it is."""
        return call

    def around_mirror(self, model: str) -> tuple[Middleware, ...]:
        """None."""
        return ()

    def keep(self, models: Collection[str]) -> None:
        """There is nothing to forget."""


@dataclass(slots=True)
class Endpoint:
    """One address of a model server, and what is around every call to it."""

    name: str
    stack: str
    backend: Backend
    surroundings: Surroundings = field(default_factory=Bare)
    server: str = ""

    @property
    def stand_in(self) -> bool:
        """Whether the server that answered is a stand-in."""
        return STAND_IN_MARK in self.server


UNVERIFIED = Verdict(Status.UNVERIFIED, "has not answered yet")


def judge(contracts: Mapping[str, ModelContract], target: Target, state: ModelState, source: str = "") -> Verdict:
    """Whether what the server says of a model fits the contract of each signature, and the target.

    `source` is the endpoint whose metadata the contracts are, '' where they were written by hand.
    """
    if not state.ready:
        return Verdict(Status.NOT_READY, f"has no version of model '{target.model}' that can answer")
    if target.version is not None and target.version not in state.versions:
        found = ", ".join(map(str, state.versions))
        return Verdict(Status.NOT_READY, f"has versions {found} of model '{target.model}', not {target.version}")
    differences = _differences(contracts, target, state.signatures)
    if differences:
        whose = f"the contract, which is what endpoint '{source}' says" if source else "the contract"
        return Verdict(Status.MISMATCH, f"disagrees with {whose}: " + "; ".join(differences))
    versions = state.versions if target.version is None else (target.version,)
    return Verdict(Status.READY, "", versions)


def _differences(
    contracts: Mapping[str, ModelContract], target: Target, signatures: Mapping[str, ModelMetadata]
) -> list[str]:
    if not signatures:
        # The server describes no tensors: every answer is checked all the same.
        return []
    found = []
    for name, contract in contracts.items():
        metadata = signatures.get(name)
        if metadata is None:
            has = ", ".join(f"'{other}'" for other in signatures)
            found.append(f"signature '{name}': the contract has it, the server has {has}")
            continue
        where = "" if name == DEFAULT_SIGNATURE else f"signature '{name}', "
        found += [where + text for text in contract.differences(in_contract_names(metadata, target.names))]
    return found


def in_contract_names(metadata: ModelMetadata, names: Mapping[str, str]) -> ModelMetadata:
    """Metadata with the contract's names in place of the server's; `names` is the target's."""
    ours = {theirs: own for own, theirs in names.items()}

    def renamed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, name=ours.get(spec.name, spec.name)) for spec in specs)

    return ModelMetadata(
        metadata.name, metadata.versions, metadata.platform, renamed(metadata.inputs), renamed(metadata.outputs)
    )
