"""What a cell asks: the requests of each of its targets, encoded beforehand, their connections, and the judge."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.cell_spec import Load, Target
from loadtests.clients import Client, HttpClient
from loadtests.engine.grpc_client import Http2GrpcClient
from loadtests.engine.rows import NO_TIMINGS
from loadtests.questions import Questions, astray, questions_of
from loadtests.replies import Outcome, Reply, ServedBy
from loadtests.wires import WIRES

_PARTS = ("decode", "queue", "upstream", "encode", "total")
_DURATION = re.compile(r"(\w+)\s*;\s*dur=([0-9.]+)")
# Different origins that are remembered; a reply names one of few.
_MOST_ORIGINS = 256


class Clients:
    """The connections of one target in one worker.

    Over REST every request under way has a connection of its own, and the one used last is used next. Over gRPC
    `shared` channels take turns; in a closed loop each client has its own. Connections are made when they are first
    needed, in the warm-up.
    """

    def __init__(self, make: Callable[[], Client], shared: int | None) -> None:
        self._make = make
        self._all: list[Client] = []
        self._idle: list[Client] = []
        self._turns: Iterator[Client] | None = None
        if shared is not None:
            self._all = [make() for _ in range(shared)]
            self._turns = itertools.cycle(self._all)

    @property
    def opened(self) -> int:
        """How many connections were made so far."""
        return sum(client.opened for client in self._all)

    def prepared(self, body: bytes) -> bytes:
        """The bytes that `send` takes for a body."""
        client = self._taken()
        self._give_back(client)
        return client.prepared(body)

    def send(self, request: bytes) -> Reply:
        """Sends over a connection that is free, a new one where there is none."""
        client = self._taken()
        try:
            return client.send(request)
        except BaseException:
            # Cut off in the middle of a reply; the next request must not read the rest of it.
            if self._turns is None:
                client.close()
            raise
        finally:
            self._give_back(client)

    def close(self) -> None:
        """Closes all of them."""
        for client in self._all:
            client.close()

    def _taken(self) -> Client:
        if self._turns is not None:
            return next(self._turns)
        if self._idle:
            return self._idle.pop()
        self._all.append(self._make())
        return self._all[-1]

    def _give_back(self, client: Client) -> None:
        if self._turns is None:
            self._idle.append(client)


@dataclass(slots=True, eq=False)
class Asked:
    """One target with everything made that asking it needs."""

    target: Target
    clients: Clients
    requests: Sequence[bytes]
    questions: Questions | None
    _origins: dict[str, ServedBy] = field(default_factory=dict)

    def send(self, question: int) -> Reply:
        """Asks a question, one of `requests`."""
        return self.clients.send(self.requests[question])

    def judged(self, question: int, reply: Reply) -> tuple[Outcome, str, ServedBy]:
        """The outcome of a reply, why it failed, and who answered. By status alone where parity is off."""
        origin = self._origin(reply)
        if reply.outcome is Outcome.OK:
            if wrong := astray(self.target, origin):
                return Outcome.WRONG_ANSWER, wrong, origin
            if self.questions is not None:
                return *self.questions.judged(question, reply), origin
        return reply.outcome, reply.detail, origin

    def _origin(self, reply: Reply) -> ServedBy:
        mark = reply.marks.get("x-served-by") or reply.marks.get("x-server", "")
        origin = self._origins.get(mark)
        if origin is None:
            origin = ServedBy.of(dict(reply.marks))
            if len(self._origins) < _MOST_ORIGINS:
                self._origins[mark] = origin
        return origin


def client_for(target: Target, *, timeout: float) -> Client:
    """A client of a target; `timeout` is in seconds and covers one request from connecting to the last byte."""
    path = WIRES[target.protocol].target(target.asked_for)
    make = HttpClient if target.transport == "rest" else Http2GrpcClient
    return make(target.address, path, dict(target.pins), timeout=timeout)


def asked(target: Target, load: Load, artifacts: Path) -> Asked:
    """Prepares a target; connects nothing yet. Raises LoadTestError where its questions cannot be made."""
    questions, bodies = questions_of(target, load.rows, artifacts)
    shared = load.channels if target.transport == "grpc" and load.arrivals != "closed" else None
    clients = Clients(lambda: client_for(target, timeout=load.timeout_seconds), shared)
    return Asked(target, clients, [clients.prepared(body) for body in bodies], questions)


def timings_of(header: str | None) -> Sequence[float]:
    """Milliseconds of decode, queue, upstream, encode and total from a `Server-Timing` header; NaN where missing."""
    if not header:
        return NO_TIMINGS
    found = dict(_DURATION.findall(header))
    try:
        return tuple(float(found[part]) if part in found else float("nan") for part in _PARTS)
    except ValueError:
        return NO_TIMINGS
