"""How the layers report what happened, without knowing what counts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.core.errors import Cause


class Observer(Protocol):
    """Told once about each request and each upstream call. Implementations must not raise or block."""

    def request_finished(
        self, *, model: str, version: int | None, stack: str, protocol: str, cause: Cause | None, seconds: float
    ) -> None:
        """A client's request ended; `cause` is None for a result. Unknown models come as ''."""
        ...

    def phases_finished(self, *, protocol: str, seconds: Mapping[str, float]) -> None:
        """A client's request ended that spent so long in each of the phases of `gateway.core.context.PHASES`."""
        ...

    def attempt_finished(self, *, model: str, endpoint: str, stack: str, cause: Cause | None, seconds: float) -> None:
        """One upstream call ended."""
        ...

    def endpoint_seen(self, *, endpoint: str, stack: str, server: str, stand_in: bool) -> None:
        """An endpoint answered and said what it is."""
        ...

    def endpoint_checked(self, *, endpoint: str, stack: str, verified: bool) -> None:
        """An endpoint was asked how it is: `verified` where it answers and all its models here are ready."""
        ...

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        """The endpoint's taken slots or its queue changed."""
        ...

    def queue_left(self, *, endpoint: str, model: str, seconds: float) -> None:
        """A request got its slot, having waited for it."""
        ...

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        """An upstream call started, for as many requests."""
        ...

    def call_orphaned(self, *, endpoint: str) -> None:
        """Nobody waits any more for a call that its server goes on with."""
        ...

    def breaker_changed(self, *, endpoint: str, model: str, state: str) -> None:
        """A circuit breaker is now `closed`, `open` or `half_open`."""
        ...

    def breaker_gone(self, *, endpoint: str, model: str) -> None:
        """An endpoint is no target of a model any more, and has no circuit breaker for it."""
        ...

    def retried(self, *, model: str, outcome: str) -> None:
        """A failure that may be retried: `sent` to another endpoint, or why not: `budget`, `candidates`."""
        ...

    def routes_changed(self, *, budgets: Mapping[str, Callable[[], float] | None]) -> None:
        """These are the models with a route now, each with its retries left, None where there is nothing to retry."""
        ...

    def mirror_finished(
        self, *, model: str, endpoint: str, outcome: str, seconds: float | None, difference: float | None
    ) -> None:
        """A mirror's request: `ok`, `mismatch`, `skipped`, `same_endpoint` or a cause.

        `seconds` is None where nothing was sent, `difference` where nothing could be compared.
        """
        ...

    def endpoint_gone(self, *, endpoint: str) -> None:
        """An endpoint is no longer part of the configuration, and nothing runs there any more."""
        ...

    def config_reloaded(self, *, outcome: str) -> None:
        """The configuration was read again: `ok`, or `invalid` and so left as it was."""
        ...


class NullObserver:
    """Counts nothing."""

    def request_finished(
        self, *, model: str, version: int | None, stack: str, protocol: str, cause: Cause | None, seconds: float
    ) -> None:
        """Ignored."""

    def phases_finished(self, *, protocol: str, seconds: Mapping[str, float]) -> None:
        """Ignored."""

    def attempt_finished(self, *, model: str, endpoint: str, stack: str, cause: Cause | None, seconds: float) -> None:
        """Ignored."""

    def endpoint_seen(self, *, endpoint: str, stack: str, server: str, stand_in: bool) -> None:
        """Ignored."""

    def endpoint_checked(self, *, endpoint: str, stack: str, verified: bool) -> None:
        """Ignored."""

    def slots_changed(self, *, endpoint: str, busy: int, queued: int) -> None:
        """Ignored."""

    def queue_left(self, *, endpoint: str, model: str, seconds: float) -> None:
        """Ignored."""

    def batch_sent(self, *, endpoint: str, model: str, requests: int) -> None:
        """Ignored."""

    def call_orphaned(self, *, endpoint: str) -> None:
        """Ignored."""

    def breaker_changed(self, *, endpoint: str, model: str, state: str) -> None:
        """Ignored."""

    def breaker_gone(self, *, endpoint: str, model: str) -> None:
        """Ignored."""

    def retried(self, *, model: str, outcome: str) -> None:
        """Ignored."""

    def routes_changed(self, *, budgets: Mapping[str, Callable[[], float] | None]) -> None:
        """Ignored."""

    def mirror_finished(
        self, *, model: str, endpoint: str, outcome: str, seconds: float | None, difference: float | None
    ) -> None:
        """Ignored."""

    def endpoint_gone(self, *, endpoint: str) -> None:
        """Ignored."""

    def config_reloaded(self, *, outcome: str) -> None:
        """Ignored."""
