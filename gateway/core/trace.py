"""What the layers tell a tracing system about one request, without knowing which one it is.

A call that nobody traces has no `Trace`, so that asking for it is all that tracing costs there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from gateway.core.errors import Cause


class Attempt(Protocol):
    """One call to a model server, under way. Implementations must not raise or block."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What the server is sent with it, by names in lower case, so that its own spans belong to the same trace."""
        ...

    def finish(self, cause: Cause | None) -> None:
        """The call ended; `cause` is None for a result."""
        ...


class Trace(Protocol):
    """What is done for one client's request. Implementations must not raise or block."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits (W3C Trace Context)."""
        ...

    @property
    def span_id(self) -> str:
        """Of the request's own span, 16 hexadecimal digits."""
        ...

    def queued(self, *, endpoint: str, seconds: float) -> None:
        """The request has waited so long for one of the endpoint's slots, and got it just now."""
        ...

    def attempt(self, company: Sequence[Trace], *, model: str, endpoint: str, stack: str) -> Attempt:
        """A call to a server begins; `company` are the requests that travel together, this one among them, if any."""
        ...

    def copied(self, *, model: str, endpoint: str) -> Copy:
        """A copy of the request goes to a mirror at `endpoint` now; the request itself may have ended."""
        ...

    def finish(self, *, model: str, version: int | None, stack: str, endpoint: str, cause: Cause | None) -> None:
        """The request ended; unknown models come as ''."""
        ...


class Copy(Trace, Protocol):
    """What is done for a copy of a request."""

    def compared(self, outcome: str) -> None:
        """The copy ended, with this outcome of a mirror's: `ok`, `mismatch`, or a cause."""
        ...


class Tracer(Protocol):
    """Begins traces, or goes on with those of the clients."""

    def request(self, *, protocol: str, request_id: str, headers: Iterable[tuple[str, str]]) -> Trace:
        """A client's request begins, with these headers, their names in lower case."""
        ...
