"""Which of a route's targets a client's own choice leaves. No I/O: a table test covers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Selection
from gateway.routing.endpoint import Endpoint, Target


def eligible(
    contract: ModelContract, targets: Sequence[Target], endpoints: Mapping[str, Endpoint], selection: Selection
) -> list[Target]:
    """The targets that the client's selection leaves, in listed order; all of them where there is none.

    Raises MODEL_NOT_FOUND where one choice leaves none, INVALID_INPUT where each leaves
    some and all of them together leave none.
    """
    if selection == Selection():
        return list(targets)
    variants = contract.variants or {}
    asked = (
        ("endpoint", selection.endpoint, [target.endpoint for target in targets]),
        ("stack", selection.stack, [endpoints[target.endpoint].stack for target in targets]),
        ("variant", selection.variant, [_variant(target, endpoints, variants) for target in targets]),
    )
    chosen = list(targets)
    for what, value, values in asked:
        if value is None:
            continue
        if value not in values:
            raise _not_there(contract, what, value, values)
        chosen = [target for target, has in zip(targets, values, strict=True) if has == value and target in chosen]
    if not chosen:
        raise GatewayError(
            Cause.INVALID_INPUT,
            "the choices contradict each other: "
            + ", ".join(f"{what} '{value[:64]}'" for what, value, _ in asked if value is not None)
            + f"; no target of model '{contract.name}' is all of them",
        )
    return chosen


def _variant(target: Target, endpoints: Mapping[str, Endpoint], variants: Mapping[str, str]) -> str | None:
    if target.variant is not None:
        return target.variant
    stack = endpoints[target.endpoint].stack
    return next((name for name, served_by in variants.items() if served_by == stack), None)


def _not_there(contract: ModelContract, what: str, asked: str, available: Sequence[str | None]) -> GatewayError:
    listed = ", ".join(f"'{name}'" for name in dict.fromkeys(available) if name) or "none"
    return GatewayError(
        Cause.MODEL_NOT_FOUND, f"model '{contract.name}' is not to be had by {what} '{asked[:64]}'; there: {listed}"
    )
