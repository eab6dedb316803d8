"""Which of a route's targets a request may go to, in order of preference. No I/O: a table test covers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Selection
from gateway.routing.endpoint import Endpoint, Target


def eligible(
    contract: ModelContract, targets: Sequence[Target], endpoints: Mapping[str, Endpoint], selection: Selection
) -> list[Target]:
    """The targets that the client's selection leaves, in listed order.

    Without a selection only the first target's stack is left: another stack answers only where a client or a
    configuration asks for it. Raises MODEL_NOT_FOUND where the selection leaves none.
    """
    chosen = list(targets)
    if selection.endpoint is not None:
        chosen = [target for target in chosen if target.endpoint == selection.endpoint]
        _require(chosen, contract, "endpoint", selection.endpoint, [target.endpoint for target in targets])
    stacks = [endpoints[target.endpoint].stack for target in targets]
    if selection.stack is not None:
        chosen = [target for target in chosen if endpoints[target.endpoint].stack == selection.stack]
        _require(chosen, contract, "stack", selection.stack, stacks)
    if selection.variant is not None:
        variants = contract.variants or {}
        chosen = [target for target in chosen if _variant(target, endpoints, variants) == selection.variant]
        _require(chosen, contract, "variant", selection.variant, list(variants))
    if selection == Selection():
        chosen = [target for target in chosen if endpoints[target.endpoint].stack == stacks[0]]
    return chosen


def _variant(target: Target, endpoints: Mapping[str, Endpoint], variants: Mapping[str, str]) -> str | None:
    if target.variant is not None:
        return target.variant
    stack = endpoints[target.endpoint].stack
    return next((name for name, served_by in variants.items() if served_by == stack), None)


def _require(
    chosen: Sequence[Target], contract: ModelContract, what: str, asked: str, available: Sequence[str]
) -> None:
    if not chosen:
        listed = ", ".join(f"'{name}'" for name in dict.fromkeys(available)) or "none"
        raise GatewayError(
            Cause.MODEL_NOT_FOUND,
            f"model '{contract.name}' is not to be had by {what} '{asked[:64]}'; there: {listed}",
        )
