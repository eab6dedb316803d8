"""The names that clients ask for of servers that cannot list their models: looked for, within bounds.

Whatever clients send, at most `MAX_PENDING` names are looked for at a time, and a name that was not found is not looked
for again for a while; what is remembered of it is bounded too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.core.clock import Clock

MAX_PENDING = 16
MAX_MISSED = 1024
# How long a name that was not found is unknown without another look, and how long a look may take, in seconds.
MISSED_S = 30.0
LOOK_S = 5.0


class Wanted:
    """Names being looked for, with the endpoints that have yet to say whether they have them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[str, tuple[float, set[str]]] = {}
        self._missed: OrderedDict[str, float] = OrderedDict()

    def want(self, name: str, endpoints: Iterable[str]) -> bool:
        """Has `name` looked for at `endpoints`; returns whether it is: not if missed lately, or if there is no room."""
        now = self._clock.now()
        for late in [late for late, (until, _) in self._pending.items() if until <= now]:
            self._miss(late)
        if name in self._pending:
            return True
        asked = set(endpoints)
        if not asked or self._missed.get(name, now) > now or len(self._pending) >= MAX_PENDING:
            return False
        self._pending[name] = (now + LOOK_S, asked)
        return True

    def names(self, endpoint: str) -> tuple[str, ...]:
        """The names that an endpoint has to be asked about."""
        return tuple(name for name, (_, asked) in self._pending.items() if endpoint in asked)

    def found(self, name: str) -> None:
        """Some endpoint has it."""
        self._pending.pop(name, None)

    def missed(self, name: str, endpoint: str) -> None:
        """An endpoint does not have it; once none has, it is not looked for again for a while."""
        _, asked = self._pending.get(name, (0.0, set[str]()))
        asked.discard(endpoint)
        if not asked:
            self._miss(name)

    def _miss(self, name: str) -> None:
        if self._pending.pop(name, None) is not None:
            self._missed[name] = self._clock.now() + MISSED_S
            self._missed.move_to_end(name)
            if len(self._missed) > MAX_MISSED:
                self._missed.popitem(last=False)
