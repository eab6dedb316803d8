"""Fields of a request that several protocols share, checked the same way whichever of them it came through."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import Parameter

MAX_NAME = 256
_MAX_SHOWN = 64
_MAX_LISTED = 4


def choice(name: str, value: object) -> str:
    """The value of a field or parameter that names something; raises INVALID_INPUT for all but a non-empty string."""
    if not isinstance(value, str) or not value:
        raise GatewayError(Cause.INVALID_INPUT, f"'{name}': expected a non-empty string")
    return value


def request_id(value: object) -> str:
    """The id that an answer repeats, '' where none is given; raises INVALID_INPUT for all but strings."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise GatewayError(Cause.INVALID_INPUT, "field 'id': expected a string")
    return value


def input_name(value: object) -> str:
    """The name of an input; raises INVALID_INPUT where it is none, or too long to be repeated in messages."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise GatewayError(
            Cause.INVALID_INPUT, f"an input has no usable name; expected a string of 1 to {MAX_NAME} characters"
        )
    return value


def wanted_outputs(names: Iterable[object]) -> tuple[str, ...]:
    """The outputs asked for, by name; raises INVALID_INPUT where a name is none or comes twice."""
    wanted = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise GatewayError(Cause.INVALID_INPUT, "'outputs': expected the names of outputs")
        wanted.append(name)
    if len(set(wanted)) < len(wanted):
        raise GatewayError(Cause.INVALID_INPUT, "'outputs' names an output twice; expected each once")
    return tuple(wanted)


def parameter(name: str, value: object) -> Parameter:
    """A request parameter's value; raises INVALID_INPUT for all but strings, booleans and finite 64-bit numbers."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise GatewayError(
        Cause.INVALID_INPUT, f"parameter '{shown(name)}': expected a string, a boolean or a finite 64-bit number"
    )


def refuse_unknown(what: str, names: Collection[str], known: frozenset[str]) -> None:
    """Raises INVALID_INPUT where `what` has a field besides the known ones."""
    if known.issuperset(names):
        return
    unknown = [name for name in names if name not in known]
    unknown.sort()
    listed = ", ".join(f"'{shown(name)}'" for name in unknown[:_MAX_LISTED])
    more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
    raise GatewayError(
        Cause.INVALID_INPUT, f"{what}: unknown field {listed}{more}; expected {', '.join(sorted(known))}"
    )


def shown(name: str) -> str:
    """A client's own word as a message may repeat it: cut, and printable."""
    return "".join(char if char.isprintable() else "?" for char in name[:_MAX_SHOWN])
