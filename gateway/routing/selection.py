"""Which of a route's targets a client's own choice leaves. No I/O: a table test covers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import ANYWHERE, Selection
from gateway.routing.endpoint import Endpoint, Target
from gateway.routing.table import Route


def eligible(route: Route, endpoints: Mapping[str, Endpoint], selection: Selection) -> list[Target]:
    """The targets that the client's selection leaves, in listed order; all but those by name where there is none.

    Raises MODEL_NOT_FOUND where one choice leaves none, or only variants of which none is named; INVALID_INPUT where
    each leaves some and all of them together leave none.
    """
    if selection == ANYWHERE:
        return list(route.unnamed)
    targets, contract = route.targets, route.main
    variants = [variant_of(target, endpoints[target.endpoint].stack, contract) for target in targets]
    asked = (
        ("endpoint", selection.endpoint, [target.endpoint for target in targets]),
        ("stack", selection.stack, [endpoints[target.endpoint].stack for target in targets]),
        ("variant", selection.variant, variants),
    )
    chosen = list(range(len(targets)))
    for what, value, values in asked:
        if value is None:
            continue
        if value not in values:
            raise _not_there(route, what, value, values)
        chosen = [index for index in chosen if values[index] == value]
    if not chosen:
        raise GatewayError(
            Cause.INVALID_INPUT,
            "the choices contradict each other: "
            + ", ".join(f"{what} '{value[:64]}'" for what, value, _ in asked if value is not None)
            + f"; no target of model '{contract.name}' is all of them",
        )
    if selection.variant is None:
        unnamed = [index for index in chosen if not targets[index].by_name]
        # An endpoint that has but one variant is as good as its name.
        if not unnamed and (selection.endpoint is None or len({variants[index] for index in chosen}) > 1):
            where = f"endpoint '{selection.endpoint}'" if selection.endpoint else f"stack '{selection.stack}'"
            raise GatewayError(
                Cause.MODEL_NOT_FOUND,
                f"model '{contract.name}' is to be had by {where} as a variant only; name one of "
                + _listed(variants[index] for index in chosen),
            )
        chosen = unnamed or chosen
    return [targets[index] for index in chosen]


def variant_of(target: Target, stack: str, contract: ModelContract) -> str | None:
    """The export that a target serves: its own word, else what the contract says of its endpoint's stack."""
    if target.variant is not None:
        return target.variant
    return next((name for name, served_by in (contract.variants or {}).items() if served_by == stack), None)


def _not_there(route: Route, what: str, asked: str, available: Sequence[str | None]) -> GatewayError:
    name, there = route.main.name, _listed(available)
    if what == "variant" and asked in route.unavailable:
        reason = route.unavailable[asked]
        return GatewayError(
            Cause.MODEL_NOT_FOUND, f"variant '{asked}' of model '{name}' is not available: {reason}; there: {there}"
        )
    return GatewayError(
        Cause.MODEL_NOT_FOUND, f"model '{name}' is not to be had by {what} '{asked[:64]}'; there: {there}"
    )


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(f"'{name}'" for name in dict.fromkeys(names) if name) or "none"
