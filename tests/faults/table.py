"""What can happen to one model server, and what its clients may then be told: one line for each fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np

from gateway.core.errors import Cause
from tests.fakes.relay import Answer, BlackHole, Delay, Garble, Reset, Trickle, Truncate
from tests.fakes.script import Arrays, Behaviour, Fail, Garbage, Hang, Lose, Oversized, QueueFull, Refuse
from tests.faults.world import BODY_BYTES, EVERY_WAY, HTTP_WAYS, WAYS, Upstream, Way

# The gateway gives a server that fails a rest, and gives up what waits for too long, whatever the fault.
ALWAYS = frozenset({Cause.NOT_READY, Cause.DEADLINE, Cause.OVERLOADED})
LOST = frozenset({Cause.UPSTREAM_LOST, Cause.UPSTREAM_UNREACHABLE})
BAD = frozenset({Cause.UPSTREAM_BAD_REPLY})

Strike = Callable[[Upstream, Random], None]


@dataclass(frozen=True)
class Fault:
    """`strike` makes a server ill; requests may then end as `may` says, beside those that end well.

    `reaches` is how often one request may have come to a model at most: twice only where a batch was taken apart, since
    it says that one of its members is to blame. `harmless` faults cost no request.
    """

    name: str
    strike: Strike
    may: frozenset[Cause] = frozenset()
    ways: tuple[Way, ...] = WAYS
    reaches: int = 1
    harmless: bool = False

    @property
    def attempts(self) -> float:
        """Calls to model servers for each request, at most."""
        return 1.2 if self.reaches == 1 else self.reaches

    @property
    def causes(self) -> frozenset[Cause]:
        """All that requests may fail with."""
        return frozenset() if self.harmless else ALWAYS | self.may


def _behaves(behaviour: Behaviour) -> Strike:
    def strike(server: Upstream, _random: Random) -> None:
        server.fake.otherwise = behaviour

    return strike


def _computes(answer: Callable[[Arrays], Arrays]) -> Strike:
    return lambda server, _: server.computes(answer)


def _unloads(server: Upstream, _random: Random) -> None:
    for name in ("double", "backed"):
        del server.fake.models[name]


def _redirects(server: Upstream, _random: Random) -> None:
    # To the server itself, by its other way in, which would answer.
    there = f"http://127.0.0.1:{server.relay.port}/elsewhere".encode()
    server.falls_under(Answer(b"HTTP/1.1 302 Found\r\nLocation: " + there + b"\r\nContent-Length: 0\r\n\r\n"))


def _answers_without_end(server: Upstream, _random: Random) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    server.falls_under(Answer(head, size=1 << 30))


def _wrong_shape(arrays: Arrays) -> Arrays:
    return {"y": arrays["x"][:, :1], "sum": arrays["x"].sum(axis=1)}


def _wrong_count(arrays: Arrays) -> Arrays:
    return {"y": arrays["x"][:-1], "sum": arrays["x"].sum(axis=1)[:-1]}


def _too_many(arrays: Arrays) -> Arrays:
    doubled = np.concatenate([arrays["x"], arrays["x"]])
    return {"y": doubled, "sum": doubled.sum(axis=1)}


FAULTS = (
    Fault("refuses", lambda server, _: server.dies(), LOST),
    Fault("black hole", lambda server, _: server.falls_under(BlackHole()), LOST),
    Fault("reset", lambda server, _: server.falls_under(Reset()), LOST),
    Fault("killed mid-request", _behaves(Lose()), LOST),
    Fault("never answers", _behaves(Hang())),
    Fault("slow", lambda server, _: server.falls_under(Delay(0.03)), harmless=True),
    Fault("too slow", lambda server, _: server.falls_under(Delay(2.0)), LOST),
    Fault("trickling", lambda server, _: server.falls_under(Trickle(0.05)), LOST),
    Fault("truncated", lambda server, random: server.falls_under(Truncate(random, 500)), LOST | BAD),
    Fault("garbage for bytes", lambda server, random: server.falls_under(Garble(random)), LOST | BAD),
    Fault("garbage for an answer", _behaves(Garbage()), BAD, EVERY_WAY),
    Fault("wrong shape", _computes(_wrong_shape), BAD, EVERY_WAY),
    Fault("too few rows", _computes(_wrong_count), BAD, EVERY_WAY),
    Fault("too many rows", _computes(_too_many), BAD, EVERY_WAY),
    Fault("too large", _behaves(Oversized(4 * BODY_BYTES)), BAD),
    Fault("1 GB", _answers_without_end, BAD | LOST, HTTP_WAYS),
    Fault("redirects", _redirects, BAD | LOST, HTTP_WAYS),
    Fault("model's code fails", _behaves(Fail()), frozenset({Cause.UPSTREAM_FAILED}), reaches=2),
    Fault("refuses the input", _behaves(Refuse()), frozenset({Cause.UPSTREAM_REJECTED}), reaches=2),
    Fault("its queue is full", _behaves(QueueFull())),
    Fault("model unloaded", _unloads, frozenset({Cause.MODEL_NOT_FOUND})),
)
