"""Requests that were in a batch which may have harmed a server: for some minutes they travel alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.core.clock import Clock
from gateway.core.errors import Cause

# The answer blames a member's data or the model's code: each is asked again alone, so that only the bad one fails.
BLAMES_A_MEMBER = frozenset({Cause.UPSTREAM_REJECTED, Cause.UPSTREAM_FAILED})
# Perhaps a member did it. None is sent again, and none of them travels with others for a while.
MAYBE_A_MEMBER = frozenset({Cause.UPSTREAM_LOST, Cause.UPSTREAM_BAD_REPLY, Cause.DEADLINE})

_SECONDS = 300.0
_KEPT = 4096


class Quarantine:
    """Digests of requests, each for five minutes; the oldest is forgotten where there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, digest: bytes) -> bool:
        self._forget()
        return digest in self._until

    def add(self, digests: Iterable[bytes]) -> None:
        """From now on these travel alone."""
        self._forget()
        for digest in digests:
            self._until.pop(digest, None)
            self._until[digest] = self._clock.now() + _SECONDS
        while len(self._until) > _KEPT:
            self._until.popitem(last=False)

    def _forget(self) -> None:
        now = self._clock.now()
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
