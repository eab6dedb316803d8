"""One endpoint at run time, and what is known of each model on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.core.backend import Backend, Middleware, ModelState
from gateway.core.contract import ModelContract
from gateway.core.messages import ModelMetadata, TensorSpec

STAND_IN_MARK = "(stand-in)"


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

    @property
    def key(self) -> tuple[str, str, int | None, frozenset[tuple[str, str]]]:
        """What tells it from the other targets of its route."""
        return self.endpoint, self.model, self.version, frozenset(self.names.items())


@dataclass(slots=True)
class Endpoint:
    """One address of a model server, and the middleware around every call to it, outermost first."""

    name: str
    stack: str
    backend: Backend
    middleware: tuple[Middleware, ...] = ()
    server: str = ""

    @property
    def stand_in(self) -> bool:
        """Whether the server that answered is a stand-in."""
        return STAND_IN_MARK in self.server


UNVERIFIED = Verdict(Status.UNVERIFIED, "has not answered yet")


def judge(contract: ModelContract, target: Target, state: ModelState) -> Verdict:
    """Whether what the server says of a model fits the contract and the target."""
    if not state.ready:
        return Verdict(Status.NOT_READY, f"has no version of model '{target.model}' that can answer")
    if target.version is not None and target.version not in state.versions:
        found = ", ".join(map(str, state.versions))
        return Verdict(Status.NOT_READY, f"has versions {found} of model '{target.model}', not {target.version}")
    if state.metadata is not None:
        differences = contract.differences(_in_contract_names(state.metadata, target.names))
        if differences:
            return Verdict(Status.MISMATCH, "disagrees with the contract: " + "; ".join(differences))
    versions = state.versions if target.version is None else (target.version,)
    return Verdict(Status.READY, "", versions)


def _in_contract_names(metadata: ModelMetadata, names: Mapping[str, str]) -> ModelMetadata:
    ours = {theirs: own for own, theirs in names.items()}

    def renamed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(ours.get(spec.name, spec.name), spec.datatype, spec.shape) for spec in specs)

    return ModelMetadata(
        metadata.name, metadata.versions, metadata.platform, renamed(metadata.inputs), renamed(metadata.outputs)
    )
