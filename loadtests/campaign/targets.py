"""What a campaign's targets mean: each becomes an address, a protocol, and what is known of the server there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loadtests.campaign.settings import Campaign, TargetSettings
from loadtests.cell_spec import Protocol, Target
from loadtests.cells import Addresses, Endpoints
from loadtests.errors import LoadTestError
from loadtests.wires import WIRES
from models.variants import VARIANTS

# Variants of a model by name, with the stack that serves each: those of its contract, and the others that are built.
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


def beside_default(campaign: Campaign) -> tuple[str, ...]:
    """The variants that a campaign names and that are not their stacks' default ones; raises LoadTestError.

    The one without Grappler has a server process of its own, which a campaign does not know.
    """
    found = tuple(name for name in campaign.variants or () if name in VARIANTS and not VARIANTS[name].default)
    if "savedmodel-nograppler" in found:
        raise LoadTestError(
            "variants: savedmodel-nograppler is served by a process of its own, which a campaign does not measure; "
            "`make bench-variants` holds it against savedmodel"
        )
    return found


def targets_of(
    campaign: Campaign, variants: Variants, addresses: Addresses, servers: Mapping[str, str], *, endpoints: Endpoints
) -> dict[str, tuple[tuple[Target, TargetSettings], ...]]:
    """Each model's targets, in the campaign's order, each with the settings it was made of.

    `servers` names the programs behind the configured stacks. Raises LoadTestError where `variants` of the campaign
    leave a model without any.
    """
    found: dict[str, tuple[tuple[Target, TargetSettings], ...]] = {}
    for model in campaign.models:
        known = variants.get(model, {})
        of_stack = {stack: variant for variant, stack in known.items() if _default(variant)}
        more = {variant: known[variant] for variant in beside_default(campaign) if variant in known}
        found[model] = tuple(
            (made, settings)
            for settings in campaign.targets
            if settings.model in (None, model)
            for made in _made(campaign, settings, model, of_stack, more, addresses, servers, endpoints)
        )
        if not found[model]:
            raise LoadTestError(
                f"model '{model}' has no target: `variants` names {', '.join(campaign.variants or ('all',))}, "
                "its own are "
                f"{', '.join(f'{variant} on {stack}' for variant, stack in known.items()) or 'not known'}; "
                "name a variant that a target serves"
            )
    return found


def _default(variant: str) -> bool:
    """Whether a variant stands for its stack where none is named."""
    return variant not in VARIANTS or VARIANTS[variant].default


def _made(
    campaign: Campaign,
    settings: TargetSettings,
    model: str,
    of_stack: Mapping[str, str],
    more: Mapping[str, str],
    addresses: Addresses,
    servers: Mapping[str, str],
    endpoints: Endpoints,
) -> Iterator[Target]:
    parity = campaign.parity if settings.parity is None else settings.parity
    stack = settings.configured
    if stack is None:
        yield from _of_address(campaign, settings, model, parity, of_stack)
        return
    native = _NATIVE[stack, settings.transport]
    direct = Target(
        name=settings.name or native,
        protocol=settings.protocol or native,
        address=addresses.of(stack, settings.transport),
        model=model,
        variant=of_stack.get(stack, ""),
        stack=stack,
        server=servers.get(stack, ""),
        parity=parity,
    )
    plain = direct
    if settings.path == "gateway":
        protocol = settings.protocol or _DOOR[settings.transport]
        door = "" if protocol in _DOOR.values() else f" by {protocol}"
        plain = replace(
            direct,
            name=settings.name or f"gateway/{native}{door}",
            protocol=protocol,
            address=addresses.of("gateway", WIRES[protocol].transport),
            path="gateway",
            upstream_protocol=native,
            pins={"x-endpoint": endpoints.of(stack, settings.transport)},
        )
    if campaign.variants is None or plain.variant in campaign.variants:
        yield plain
    for name in (name for name, served_on in more.items() if served_on == stack):
        yield _variant_of(plain, name)


def _variant_of(plain: Target, name: str) -> Target:
    """The same for a variant beside the default one: under its own name on the server, by a header at the gateway.

    One that is held to a quality of its own need not answer within the model's tolerance: its answers are not compared.
    """
    variant = VARIANTS[name]
    made = replace(plain, name=f"{plain.name} {name}", variant=name, parity=plain.parity and variant.exact)
    if plain.path == "gateway":
        return replace(made, pins={**plain.pins, "x-variant": name})
    return replace(made, served=variant.served_name(plain.model))


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
