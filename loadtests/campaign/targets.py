"""What a campaign's targets mean: each becomes an address, a protocol, and what is known of the server there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loadtests.campaign.settings import Campaign, TargetSettings
from loadtests.cell_spec import Protocol, Target
from loadtests.cells import Addresses, Endpoints
from loadtests.errors import LoadTestError
from loadtests.wires import WIRES

# Exports of a model by name, with the stack that serves each: `variants` of its contract.
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


def targets_of(
    campaign: Campaign, variants: Variants, addresses: Addresses, servers: Mapping[str, str], *, endpoints: Endpoints
) -> dict[str, tuple[tuple[Target, TargetSettings], ...]]:
    """Each model's targets, in the campaign's order, each with the settings it was made of.

    `servers` names the programs behind the configured stacks. Raises LoadTestError where `variants` of the campaign
    leave a model without any.
    """
    found: dict[str, tuple[tuple[Target, TargetSettings], ...]] = {}
    for model in campaign.models:
        of_stack = {stack: variant for variant, stack in variants.get(model, {}).items()}
        found[model] = tuple(
            (made, settings)
            for settings in campaign.targets
            if settings.model in (None, model)
            for made in _made(campaign, settings, model, of_stack, addresses, servers, endpoints)
        )
        if not found[model]:
            raise LoadTestError(
                f"model '{model}' has no target: `variants` names {', '.join(campaign.variants or ('all',))}, "
                "its own are "
                f"{', '.join(f'{variant} on {stack}' for stack, variant in of_stack.items()) or 'not known'}; "
                "name a variant that a target serves"
            )
    return found


def _made(
    campaign: Campaign,
    settings: TargetSettings,
    model: str,
    of_stack: Mapping[str, str],
    addresses: Addresses,
    servers: Mapping[str, str],
    endpoints: Endpoints,
) -> Iterator[Target]:
    parity = campaign.parity if settings.parity is None else settings.parity
    stack = settings.configured
    if stack is None:
        yield from _of_address(campaign, settings, model, parity, of_stack)
        return
    variant = of_stack.get(stack, "")
    if campaign.variants is not None and variant not in campaign.variants:
        return
    native = _NATIVE[stack, settings.transport]
    direct = Target(
        name=settings.name or native,
        protocol=settings.protocol or native,
        address=addresses.of(stack, settings.transport),
        model=model,
        variant=variant,
        stack=stack,
        server=servers.get(stack, ""),
        parity=parity,
    )
    if settings.path == "direct":
        yield direct
        return
    protocol = settings.protocol or _DOOR[settings.transport]
    door = "" if protocol in _DOOR.values() else f" by {protocol}"
    yield replace(
        direct,
        name=settings.name or f"gateway/{native}{door}",
        protocol=protocol,
        address=addresses.of("gateway", WIRES[protocol].transport),
        path="gateway",
        upstream_protocol=native,
        pins={"x-endpoint": endpoints.of(stack, settings.transport)},
    )


def _of_address(
    campaign: Campaign, settings: TargetSettings, model: str, parity: bool, of_stack: Mapping[str, str]
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
    )
    named = [settings.variant] if settings.variant else list(campaign.variants or ())
    if campaign.variants is not None and settings.variant and settings.variant not in campaign.variants:
        return
    if settings.path == "direct" or not named:
        # Of several variants it is not known which one a server has.
        yield replace(plain, variant=named[0] if len(named) == 1 else of_stack.get(settings.stack or "", ""))
        return
    for variant in named:
        name = plain.name if len(named) == 1 else f"{plain.name} {variant}"
        yield replace(plain, name=name, variant=variant, pins={"x-variant": variant})
