"""The policies: each puts a route's targets in the order in which one request should try them.

A policy is a strategy over candidates and knows no I/O. What comes first is its choice; the rest is the order of
failover and retry. Chance is given, so that tests can hold it still.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import log
from random import Random
from typing import Protocol

from gateway.core.context import CallContext
from gateway.core.digest import digest
from gateway.core.messages import InferenceRequest
from gateway.routing.endpoint import Target
from gateway.routing.load import Load


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that a request may go to, with what is known of it now."""

    target: Target
    load: Load
    fit: bool = True


class Policy(Protocol):
    """Orders candidates for one request; `key` is what `sticky` holds on to, made only if it is asked for.

    64 bytes of a key count at most.
    """

    def __call__(self, candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
        """The candidates, best first; at least one comes in, and all of them come out."""
        ...


def in_listed_order(candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
    """`failover`, `pinned` and `compare`: as they are listed."""
    return list(candidates)


class Weighted:
    """`weighted`: each target first in proportion to its weight; so are the rest among themselves."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
        """By exponentially distributed distances: Efraimidis and Spirakis' weighted sampling without replacement."""
        return sorted(candidates, key=lambda candidate: _exponential(candidate, 1 - self._random.random()))


class Sticky:
    """`sticky`: the same key goes to the same target while it is fit; only the lost one's keys move elsewhere.

    Rendezvous hashing, weighted: a key's order of targets depends on nothing but their names and weights.
    """

    def __call__(self, candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
        """In the key's own order."""
        held = key()[: blake2b.MAX_KEY_SIZE]

        def distance(candidate: Candidate) -> float:
            name = repr(_identity(candidate.target)).encode()
            drawn = int.from_bytes(blake2b(name, key=held, digest_size=8).digest(), "big")
            return _exponential(candidate, (drawn + 1) / (2**64 + 1))

        return sorted(candidates, key=distance)


class RoundRobin:
    """`round_robin`: each target in turn, one turn a request; the rest follow in the same circle."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
        """The circle, from whose turn it is."""
        begin = self._next % len(candidates)
        self._next = (self._next + 1) % (1 << 30)
        return [*candidates[begin:], *candidates[:begin]]


class LeastRequest:
    """`least_request`: of two targets drawn by chance the one with fewer requests under way.

    The power of two choices: nearly as even as asking all, without every worker running to the same one.
    """

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
        """The winner of the draw, then the others by their load."""
        drawn = self._random.sample(range(len(candidates)), min(2, len(candidates)))
        first = min(drawn, key=lambda index: _busy(candidates[index]))
        rest = [candidate for index, candidate in enumerate(candidates) if index != first]
        return [candidates[first], *sorted(rest, key=_busy)]


def fastest(candidates: Sequence[Candidate], key: Callable[[], bytes]) -> list[Candidate]:
    """`fastest`: by recent latency times the requests under way; what is unknown is tried."""
    return sorted(candidates, key=lambda item: (not item.fit, item.load.cost))


def policy(name: str, random: Random) -> Policy:
    """A route's policy by its name in the configuration; one object per route, since some keep a state."""
    made: dict[str, Callable[[], Policy]] = {
        "failover": lambda: in_listed_order,
        "pinned": lambda: in_listed_order,
        "compare": lambda: in_listed_order,
        "weighted": lambda: Weighted(random),
        "sticky": Sticky,
        "round_robin": RoundRobin,
        "least_request": lambda: LeastRequest(random),
        "fastest": lambda: fastest,
    }
    return made[name]()


def _exponential(candidate: Candidate, uniform: float) -> float:
    """An exponentially distributed distance with the target's weight as its rate; a weight of 0 is infinitely far."""
    return -log(uniform) / candidate.target.weight if candidate.target.weight else float("inf")


def _busy(candidate: Candidate) -> tuple[bool, float]:
    return not candidate.fit, candidate.load.outstanding / max(candidate.target.weight, 1e-9)


def _identity(target: Target) -> tuple[Hashable, ...]:
    return target.endpoint, target.model, target.version


def sticky_key(header: str | None, request: InferenceRequest, context: CallContext) -> bytes:
    """What a `sticky` route holds on to: the value of `header` where the client sent it, else the request's digest."""
    held = context.headers.get(header) if header is not None else None
    return digest(request) if held is None else held.encode()
