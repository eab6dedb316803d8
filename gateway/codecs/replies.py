"""What the codecs of model servers' replies share: whatever does not decode is the server's fault, not the client's."""

from __future__ import annotations

from types import TracebackType

from gateway.core.errors import Cause, GatewayError, capped

_BLAMES_THE_CLIENT = frozenset({Cause.UNPARSEABLE, Cause.INVALID_INPUT, Cause.UNSUPPORTED_DATATYPE})


class reading_reply:  # noqa: N801 - used as a function would be, which as a generator costs every reply twice as much
    """Turns the errors of decoders that also serve requests into UPSTREAM_BAD_REPLY, in a reply's words."""

    def __init__(self, server: str) -> None:
        self._server = server

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GatewayError) and error.cause in _BLAMES_THE_CLIENT:
            raise bad_reply(self._server, error.detail.replace("input '", "output '", 1)) from error


def bad_reply(server: str, what: str) -> GatewayError:
    """The error for a reply of `server` that is not what its protocol says."""
    return GatewayError(Cause.UPSTREAM_BAD_REPLY, capped(f"{server}'s reply cannot be read: {what}"))
