"""From the configuration to what it means: contracts, the plan of routes, how handlers are spoken to.

Each problem that only the files it names can show is told here, before anything is connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.codecs.torchserve_payloads import Framed, Payload, payload_of
from gateway.core.contract import ContractError, ModelContract
from gateway.routing.discovery import Listed, Plan
from gateway.routing.endpoint import Target
from gateway.routing.table import Batching, Mirroring, Traffic
from gateway.settings import ModelSettings, Settings, SettingsError
from gateway.traffic_settings import BatchingSettings

HANDLER_HINT = (
    "; a handler that is not twinserve's own also needs a contract, and `payload` on the target: see "
    "docs/torchserve-handlers.md"
)

# The model's name on its server, and a version, or None for all those that are not named.
HandlerKey = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Spoken:
    """How one handler is spoken to; two with equal descriptions are spoken to in the same way."""

    payload: Payload
    description: object


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration whose files are all there and fit each other."""

    settings: Settings
    contracts: Mapping[str, ModelContract]


def configuration_of(settings: Settings) -> Configuration:
    """The configuration with its contracts; raises SettingsError with every problem that shows without a server."""
    contracts = load_contracts(settings)
    problems = []
    for name, spec in settings.endpoints.items():
        if spec.stack == "torchserve":
            try:
                handlers_of(settings, contracts, name)
            except SettingsError as exc:
                problems.append(str(exc))
    if problems:
        raise SettingsError("\n".join(problems))
    return Configuration(settings, contracts)


def load_contracts(settings: Settings) -> dict[str, ModelContract]:
    """The contract of every model that has one; raises SettingsError with every problem that was found."""
    contracts: dict[str, ModelContract] = {}
    problems = []
    for name, model in settings.models.items():
        if model.contract is None:
            if model.cross_stack:
                problems.append(f"models.{name}.cross_stack: needs a contract, whose parity has passed")
            continue
        try:
            contract = ModelContract.load(model.contract)
        except ContractError as exc:
            problems.append(f"models.{name}.contract: {exc}")
            continue
        if contract.name != name:
            problems.append(f"models.{name}.contract: {model.contract} is the contract of '{contract.name}'")
        if model.cross_stack and (contract.parity is None or not contract.parity.passed):
            problems.append(
                f"models.{name}.cross_stack: the variants' parity has not passed by {model.contract}; "
                "`twinserve models verify` compares them, and until then the other stack may answer something else"
            )
        contracts[name] = contract
    if problems:
        raise SettingsError("\n".join(problems))
    return contracts


def plan_of(settings: Settings, contracts: Mapping[str, ModelContract]) -> Plan:
    """What the configuration says of models, in the terms of routing."""
    listed = {
        name: Listed(
            contracts.get(name),
            _targets(name, model),
            model.labels,
            model.versions(),
            traffic_of(name, model),
            model.unavailable,
        )
        for name, model in settings.models.items()
    }
    hints = {name: HANDLER_HINT for name, spec in settings.endpoints.items() if spec.stack == "torchserve"}
    return Plan(listed, {name: spec.models for name, spec in settings.endpoints.items()}, hints)


def handlers_of(settings: Settings, contracts: Mapping[str, ModelContract], endpoint: str) -> dict[HandlerKey, Spoken]:
    """How the handler of each model on a TorchServe endpoint is spoken to, by the server's own names.

    Raises SettingsError where a target's settings do not fit the model's contract, saying what to write, and where two
    targets describe the same handler differently.
    """
    found: dict[HandlerKey, Spoken] = {}
    described: dict[HandlerKey, object] = {}
    versions = settings.versions_on(endpoint)
    for name, target in settings.targets_on(endpoint):
        fields = target.handler_on(settings.endpoints[endpoint]).handler_fields()
        key = (target.model or name, settings.models[name].version_at(target))
        where = f"models.{name}: target '{endpoint}'"
        if name not in contracts:
            if fields.get("payload", "framed") != "framed":
                raise SettingsError(
                    f"{where}: payload {fields['payload']} needs the model's contract; write `contract`"
                )
            found[key] = Spoken(Framed(versions[key[0]]), ("framed", versions[key[0]]))
            continue
        contract = contracts[name].renamed(target.names)
        try:
            payload = payload_of(contract, versions=versions[key[0]], **fields)
        except ValueError as exc:
            raise SettingsError(f"{where}: {exc}") from exc
        # Our own frame names the tensors, so that every target may have names of its own for them.
        meant = (fields, contract.inputs, contract.outputs, contract.batch_cap)
        description = "framed" if isinstance(payload, Framed) else meant
        found[key] = Spoken(payload, (description, versions[key[0]]))
        if described.setdefault(key, description) != description:
            raise SettingsError(f"{where}: another target describes the handler of model '{key[0]}' there differently")
    return found


def _targets(name: str, model: ModelSettings) -> tuple[Target, ...]:
    return tuple(
        Target(
            target.endpoint,
            target.model or name,
            model.version_at(target),
            target.names,
            target.variant,
            target.weight,
            label=target.label,
            by_name=target.by_name,
            batching=target.batching,
        )
        for target in model.targets
    )


def traffic_of(name: str, model: ModelSettings) -> Traffic:
    """How a model's requests are spread, in the terms of routing."""
    mirror = model.mirror
    return Traffic(
        policy=model.policy,
        cross_stack=model.cross_stack,
        sticky_header=None if model.sticky is None else model.sticky.header.lower(),
        max_attempts=model.retry.max_attempts,
        retry_budget=model.retry.budget,
        batching=_batching(model),
        mirror=None
        if mirror is None
        else Mirroring(
            Target(mirror.endpoint, mirror.model or name, model.version_at(mirror), mirror.names, label=mirror.label),
            mirror.share,
            mirror.keep_payloads,
        ),
    )


def _batching(model: ModelSettings) -> Batching | None:
    """Off without a word where there is no contract: of tensors that only a server describes nobody has said that
    dimension 0 is a batch."""
    rules = model.batching
    if rules is None:
        rules = False if model.contract is None else BatchingSettings()
    return None if rules is False or rules.max_size == 1 else Batching(rules.max_size, rules.max_bytes)
