"""Tensor parameters that the Open Inference Protocol's extensions reserve, in either transport's messages."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.codecs.fields import shown
from gateway.core.errors import Cause, GatewayError

# Of the classification and shared memory extensions: whoever sets one expects another answer than without it.
_RESERVED = frozenset({"classification", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"})


def refuse_reserved(what: str, names: Iterable[str]) -> None:
    """Raises INVALID_INPUT where `what` has a parameter of an extension that is not spoken here."""
    reserved = sorted(_RESERVED.intersection(names))
    if reserved:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"{what}: parameter '{shown(reserved[0])}' is of an extension that is not spoken here; leave it out",
        )
