"""A queue that serves its callers in turn, and hands out together what may travel together. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

from gateway.core.values import value_type


@value_type(frozen=True, slots=True)
class BatchLimits:
    """The most that one batch may hold: rows of dimension 0, and bytes of all inputs."""

    max_rows: int
    max_bytes: int


class Item(Protocol):
    """What the queue must know of an entry. `limits` is None for one that travels alone."""

    @property
    def caller(self) -> str:
        """Who sent it: callers take turns."""
        ...

    @property
    def key(self) -> Hashable:
        """Entries of one key may travel together."""
        ...

    @property
    def rows(self) -> int:
        """Its rows of dimension 0."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs."""
        ...

    @property
    def limits(self) -> BatchLimits | None:
        """What its batch may hold; the same for all entries of a key."""
        ...


T = TypeVar("T", bound=Item)

Lane = OrderedDict[int, T]


class FairQueue(Generic[T]):
    """Entries by caller and key. Pushing, discarding and taking one entry cost the same however many wait.

    One caller's entries keep their order within a key; between callers the next batch starts with whoever has
    waited longest for a turn, and is filled in turn from all callers of its key.
    """

    def __init__(self) -> None:
        self._by_caller: OrderedDict[str, OrderedDict[Hashable, Lane[T]]] = OrderedDict()
        self._by_key: dict[Hashable, OrderedDict[str, Lane[T]]] = {}
        self._count_of: dict[str, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for lanes in self._by_caller.values():
            for lane in lanes.values():
                yield from lane.values()

    def count_of(self, caller: str) -> int:
        """How many entries of a caller wait."""
        return self._count_of.get(caller, 0)

    def push(self, entry: T) -> None:
        """Adds an entry behind its caller's others."""
        caller, key = entry.caller, entry.key
        lanes = self._by_caller.get(caller)
        if lanes is None:
            lanes = self._by_caller[caller] = OrderedDict()
        lane = lanes.get(key)
        if lane is None:
            lane = lanes[key] = OrderedDict()
            self._by_key.setdefault(key, OrderedDict())[caller] = lane
        lane[id(entry)] = entry
        self._count_of[caller] = self._count_of.get(caller, 0) + 1
        self._size += 1

    def discard(self, entry: T) -> bool:
        """Takes an entry out, wherever it stands; False where it is not here any more."""
        lane = self._by_caller.get(entry.caller, OrderedDict()).get(entry.key)
        if lane is None or lane.pop(id(entry), None) is None:
            return False
        self._removed(entry, lane)
        return True

    def take(self) -> list[T]:
        """The next batch, at least one entry; empty only where the queue is. What does not fit stays in front."""
        if not self._by_caller:
            return []
        caller, lanes = next(iter(self._by_caller.items()))
        key = next(iter(lanes))
        # Whoever was served goes to the end of the turns, and the key to the end of its caller's.
        self._by_caller.move_to_end(caller)
        lanes.move_to_end(key)
        self._by_key[key].move_to_end(caller)
        first = self._pop(lanes[key])
        batch = [first]
        if first.limits is not None:
            batch += self._company(first, first.limits)
        return batch

    def giving_way(self, caller: str) -> T | None:
        """The entry whose place a further one of `caller` may take: of whoever has most, where that is still more."""
        if not self._size:
            return None
        longest = max(self._count_of, key=self.count_of)
        if self.count_of(longest) <= self.count_of(caller) + 1:
            return None
        lane = next(reversed(self._by_caller[longest].values()))
        return next(reversed(lane.values()))

    def _company(self, first: T, limits: BatchLimits) -> Iterator[T]:
        rows, nbytes = first.rows, first.nbytes
        sharers = self._by_key.get(first.key)
        while sharers:
            caller, lane = next(iter(sharers.items()))
            entry = next(iter(lane.values()))
            rows, nbytes = rows + entry.rows, nbytes + entry.nbytes
            if rows > limits.max_rows or nbytes > limits.max_bytes:
                return
            if len(sharers) > 1:
                sharers.move_to_end(caller)
            yield self._pop(lane)

    def _pop(self, lane: Lane[T]) -> T:
        _, entry = lane.popitem(last=False)
        self._removed(entry, lane)
        return entry

    def _removed(self, entry: T, lane: Lane[T]) -> None:
        self._size -= 1
        self._count_of[entry.caller] -= 1
        if lane:
            return
        lanes, sharers = self._by_caller[entry.caller], self._by_key[entry.key]
        del lanes[entry.key], sharers[entry.caller]
        if not lanes:
            del self._by_caller[entry.caller], self._count_of[entry.caller]
        if not sharers:
            del self._by_key[entry.key]
