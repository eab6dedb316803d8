"""What a campaign's targets mean: each becomes an address, a protocol, and what is known of the server there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from loadtests.addresses import Addresses, Endpoints, server_of
from loadtests.campaign.settings import Campaign, TargetSettings
from loadtests.cell_spec import Protocol, Target
from loadtests.errors import LoadTestError
from loadtests.wires import WIRES

# Exports of each model by name, with the stack that serves each; a stack's first is its own.
Variants = Mapping[str, Mapping[str, str]]

# The gateway's own door for a client's transport.
_DOOR: dict[str, Protocol] = {"rest": "predict", "grpc": "oip-grpc"}
_NATIVE: dict[tuple[str, str], Protocol] = {
    ("torchserve", "rest"): "torchserve-rest",
    ("torchserve", "grpc"): "torchserve-grpc",
    ("tfserving", "rest"): "tfserving-rest",
    ("tfserving", "grpc"): "tfserving-grpc",
}


def needed_stacks(campaign: Campaign) -> tuple[str, ...]:
    """The configured servers that a campaign needs, the gateway among them."""
    stacks = {target.configured for target in campaign.targets if target.configured}
    through = {"gateway" for target in campaign.targets if target.configured and target.path == "gateway"}
    return tuple(sorted({*stacks, *through}))


def beside_default(campaign: Campaign, variants: Variants) -> tuple[str, ...]:
    """The variants that a campaign names and that no stack serves unless it is told to."""
    exports = [Exports.of(variants.get(model, {}), campaign.variants) for model in campaign.models]
    own = {names[0] for each in exports for names in each.by_stack.values()}
    known = {name for each in exports for names in each.by_stack.values() for name in names}
    return tuple(name for name in campaign.variants or () if name in known - own)


def targets_of(
    campaign: Campaign, variants: Variants, addresses: Addresses, servers: Mapping[str, str], *, endpoints: Endpoints
) -> dict[str, tuple[tuple[Target, TargetSettings], ...]]:
    """Each model's targets, in the campaign's order, each with the settings it was made of.

    `servers` names the programs behind the configured stacks. Raises LoadTestError where `variants` of the campaign
    leave a model without any.
    """
    found: dict[str, tuple[tuple[Target, TargetSettings], ...]] = {}
    for model in campaign.models:
        exports = Exports.of(variants.get(model, {}), campaign.variants)
        found[model] = tuple(
            (made, settings)
            for settings in campaign.targets
            if settings.model in (None, model)
            for made in _made(campaign, settings, model, exports, addresses, servers, endpoints)
        )
        if not found[model]:
            raise LoadTestError(
                f"model '{model}' has no target: `variants` names {', '.join(campaign.variants or ('all',))}, "
                f"its own are {exports.told() or 'not known'}; name a variant that a target serves"
            )
    return found


@dataclass(frozen=True, slots=True)
class Exports:
    """A model's variants by stack, each stack's own first; `chosen` are those that the campaign names, None: own."""

    by_stack: Mapping[str, Sequence[str]]
    chosen: Sequence[str] | None

    @classmethod
    def of(cls, variants: Mapping[str, str], chosen: Sequence[str] | None) -> Exports:
        """The exports of a model; `variants` maps each to its stack."""
        stacks = dict.fromkeys(variants.values())
        return cls({stack: [name for name, own in variants.items() if own == stack] for stack in stacks}, chosen)

    def asked(self, stack: str) -> Sequence[str]:
        """Those of a stack that are measured, in the campaign's order."""
        own = self.by_stack.get(stack, ())
        if self.chosen is None:
            return own[:1] or ("",)
        return [name for name in self.chosen if name in own]

    def default(self, stack: str) -> str:
        """The one that a stack serves under the model's own name; empty where none is known."""
        return next(iter(self.by_stack.get(stack, ())), "")

    def served_as(self, model: str, stack: str, variant: str) -> str:
        """The name under which a stack serves a variant; empty where it is the model's own."""
        own = self.by_stack.get(stack, ())
        return f"{model}-{variant}" if variant in own and variant != own[0] else ""

    def stack_of(self, variant: str) -> str:
        """The stack that serves a variant; empty where it is not known."""
        return next((stack for stack, names in self.by_stack.items() if variant in names), "")

    def told(self) -> str:
        """All of them in words."""
        return ", ".join(f"{name} on {stack}" for stack, names in self.by_stack.items() for name in names)


def _made(
    campaign: Campaign,
    settings: TargetSettings,
    model: str,
    exports: Exports,
    addresses: Addresses,
    servers: Mapping[str, str],
    endpoints: Endpoints,
) -> Iterator[Target]:
    parity = campaign.parity if settings.parity is None else settings.parity
    stack = settings.configured
    if stack is None:
        yield from _of_address(campaign, settings, model, parity, exports)
        return
    native = _NATIVE[stack, settings.transport]
    for variant in exports.asked(stack):
        served_as = exports.served_as(model, stack, variant)
        # A stack's own variant is what its name stands for.
        suffix = f" {variant}" if served_as else ""
        direct = Target(
            name=f"{settings.name or native}{suffix}",
            protocol=settings.protocol or native,
            address=addresses.of(server_of(stack, variant), settings.transport),
            model=model,
            variant=variant,
            stack=stack,
            server=servers.get(server_of(stack, variant), ""),
            parity=parity,
            served_as=served_as,
        )
        if settings.path == "direct":
            yield direct
            continue
        protocol = settings.protocol or _DOOR[settings.transport]
        door = "" if protocol in _DOOR.values() else f" by {protocol}"
        free = settings.pin == "stack"
        pins = (
            {"x-stack": stack} if free else {"x-endpoint": endpoints.of(server_of(stack, variant), settings.transport)}
        )
        yield replace(
            direct,
            name=f"{settings.name or f'gateway/{stack if free else native}{door}'}{suffix}",
            protocol=protocol,
            address=addresses.of("gateway", WIRES[protocol].transport),
            path="gateway",
            upstream_protocol="" if free else native,
            pins=pins | ({"x-variant": variant} if served_as else {}),
            # The gateway knows every variant by the model's own name.
            served_as="",
        )


def _of_address(
    campaign: Campaign, settings: TargetSettings, model: str, parity: bool, exports: Exports
) -> Iterator[Target]:
    """What answers there is the stack that the user names, else the server, else a thing of its own.

    The protocol does not tell: many servers speak each, and two of them are what a campaign may be about.
    """
    assert settings.address is not None  # noqa: S101 - so the settings say
    assert settings.protocol is not None  # noqa: S101
    plain = Target(
        name=settings.name or f"{settings.protocol} {settings.address}",
        protocol=settings.protocol,
        address=settings.address,
        model=model,
        stack=settings.stack or settings.server,
        path=settings.path,
        upstream_protocol=settings.upstream or "",
        server=settings.server,
        parity=parity,
        served_as=settings.served_as or "",
    )
    named = [settings.variant] if settings.variant else list(campaign.variants or ())
    if campaign.variants is not None and settings.variant and settings.variant not in campaign.variants:
        return
    stack = settings.stack or ""
    if settings.path == "direct" and settings.stack and not settings.variant:
        # A stack has a name for each of its variants, wherever it runs.
        named = [name for name in named if exports.stack_of(name) in ("", stack)]
        if campaign.variants is not None and not named:
            return
    if (settings.path == "direct" and len(named) > 1 and not settings.stack) or not named:
        # Of several variants it is not known which one a server has.
        yield replace(plain, variant=exports.default(stack))
        return
    for variant in named:
        suffix = "" if len(named) == 1 else f" {variant}"
        found = replace(plain, name=f"{plain.name}{suffix}", variant=variant)
        if settings.path == "direct":
            yield replace(found, served_as=found.served_as or exports.served_as(model, stack, variant))
        else:
            yield replace(found, pins={"x-variant": variant})
