"""Where each model is served: an immutable table, so that a change replaces it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import DEFAULT_SIGNATURE, ModelSpec
from gateway.routing.endpoint import Target

MAX_SHOWN_NAME = 128


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests for one model may be coalesced: rows of a batch, and bytes of its inputs."""

    max_rows: int = 64
    max_bytes: int = 16_777_216


@dataclass(frozen=True, slots=True)
class Mirroring:
    """A `share` (0 to 1) of the requests is sent to `target` too; payloads of mismatches are kept if asked for."""

    target: Target
    share: float
    keep_payloads: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a model's requests are spread over its targets.

    `sticky_header` is what policy `sticky` holds on to, in lower case; None is the request's own digest. `cross_stack`
    lets retry and failover leave the stack that the policy chose. `batching` is None where it is off.
    """

    policy: str = "failover"
    cross_stack: bool = False
    sticky_header: str | None = None
    max_attempts: int = 2
    retry_budget: float = 0.1
    batching: Batching | None = Batching()
    mirror: Mirroring | None = None


DEFAULT_TRAFFIC = Traffic()


@dataclass(frozen=True, slots=True)
class Route:
    """One model: its contracts by signature, where it is served, its labels, numbers for version names, its traffic.

    `source` is the endpoint whose own metadata the contracts were made of, '' where they were written by hand.
    """

    contracts: Mapping[str, ModelContract]
    targets: tuple[Target, ...]
    labels: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    traffic: Traffic = DEFAULT_TRAFFIC
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Variants that no target has, each with the reason."""

    @classmethod
    def of(
        cls,
        contract: ModelContract,
        targets: tuple[Target, ...],
        labels: Mapping[str, int] | None = None,
        versions: Mapping[str, int] | None = None,
        traffic: Traffic = DEFAULT_TRAFFIC,
        unavailable: Mapping[str, str] | None = None,
    ) -> Route:
        """The route of a model with a contract of its own: that of its default signature, and only one."""
        return cls(
            {DEFAULT_SIGNATURE: contract},
            targets,
            labels or {},
            versions or {},
            traffic=traffic,
            unavailable=unavailable or {},
        )

    @property
    def unnamed(self) -> tuple[Target, ...]:
        """The targets that answer requests which name neither a variant nor an endpoint."""
        return tuple(target for target in self.targets if not target.by_name)

    @property
    def watched(self) -> tuple[Target, ...]:
        """The targets whose servers have to be asked how they are: those of the route, and its mirror's."""
        mirror = self.traffic.mirror
        return self.targets if mirror is None else (*self.targets, mirror.target)

    @property
    def main(self) -> ModelContract:
        """The contract that stands for the model where no signature matters: the default one's, else the first."""
        return self.contracts.get(DEFAULT_SIGNATURE) or next(iter(self.contracts.values()))

    def contract(self, signature: str | None) -> ModelContract:
        """The contract under a signature, None or '' for the default; raises SIGNATURE_NOT_FOUND."""
        found = self.contracts.get(signature or DEFAULT_SIGNATURE)
        if found is None:
            known = ", ".join(f"'{name}'" for name in self.contracts)
            raise GatewayError(
                Cause.SIGNATURE_NOT_FOUND,
                f"model '{self.main.name}' has no signature '{(signature or DEFAULT_SIGNATURE)[:64]}'; it has {known}",
            )
        return found

    def resolve(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with its label turned into a version, and without a signature where it is the default one.

        Raises LABEL_NOT_FOUND, SIGNATURE_NOT_FOUND, INVALID_INPUT.
        """
        if spec.label is None and spec.signature_name is None:
            return spec
        if spec.signature_name:
            self.contract(spec.signature_name)
        signature = None if spec.signature_name in ("", DEFAULT_SIGNATURE) else spec.signature_name
        if spec.label is None:
            if signature is spec.signature_name:
                return spec
            return ModelSpec(spec.name, spec.version, None, signature)
        if spec.label not in self.labels:
            known = ", ".join(f"'{label}'" for label in self.labels) or "none"
            raise GatewayError(
                Cause.LABEL_NOT_FOUND, f"model '{spec.name}' has no label '{spec.label[:64]}'; its labels: {known}"
            )
        version = self.labels[spec.label]
        if spec.version not in (None, version):
            raise GatewayError(
                Cause.INVALID_INPUT, f"version {spec.version} and label '{spec.label}' (version {version}) contradict"
            )
        return ModelSpec(spec.name, version, None, signature)


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Every model's route, and of models that are known but have none the reason.

    `awaited` are the endpoints that have not said yet which models they have; `left_out` has, by model, why an endpoint
    that has it too is no target.
    """

    routes: Mapping[str, Route]
    unrouted: Mapping[str, str] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def route(self, model: str) -> Route:
        """The route of a model; raises MODEL_NOT_FOUND, and NOT_READY for one that is known but cannot be routed."""
        found = self.routes.get(model)
        if found is not None:
            return found
        if model in self.unrouted:
            raise GatewayError(Cause.NOT_READY, f"model '{model}' cannot be answered: {self.unrouted[model]}")
        raise GatewayError(Cause.MODEL_NOT_FOUND, f"unknown model '{model[:MAX_SHOWN_NAME]}'")

    def circuits_at(self, endpoint: str) -> set[str]:
        """The names of the circuit breakers that the targets at an endpoint have there."""
        return {
            target.circuit(name)
            for name, route in self.routes.items()
            for target in route.targets
            if target.endpoint == endpoint
        }

    def resolve(self, spec: ModelSpec) -> ModelSpec:
        """What its model's route makes of `spec`; raises what `route` and `Route.resolve` raise."""
        return self.route(spec.name).resolve(spec)
