"""What the codecs of model servers' replies share: whatever does not decode is the server's fault, not the client's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.core.errors import Cause, GatewayError, capped

_BLAMES_THE_CLIENT = frozenset({Cause.UNPARSEABLE, Cause.INVALID_INPUT, Cause.UNSUPPORTED_DATATYPE})


@contextmanager
def reading_reply(server: str) -> Iterator[None]:
    """Turns the errors of decoders that also serve requests into UPSTREAM_BAD_REPLY, in a reply's words."""
    try:
        yield
    except GatewayError as exc:
        if exc.cause not in _BLAMES_THE_CLIENT:
            raise
        raise bad_reply(server, exc.detail.replace("input '", "output '", 1)) from exc


def bad_reply(server: str, what: str) -> GatewayError:
    """The error for a reply of `server` that is not what its protocol says."""
    return GatewayError(Cause.UPSTREAM_BAD_REPLY, capped(f"{server}'s reply cannot be read: {what}"))
