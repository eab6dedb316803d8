"""Asks every case through every door of every backend, and the servers themselves, and judges each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import httpx

from gateway.core.tensor import NDArray
from tests.matrix import compare, direct, rules
from tests.matrix.cases import Case
from tests.matrix.doors import WAYS, Way, question
from tests.matrix.rules import Refusal
from tests.matrix.stack import Backend, Running

# All in one process: of more, a slow client would become each that sends a large body, whose time at the gateway ends.
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer: `refused` is the refusal that the rules ask for, where they do; `fault` what is wrong."""

    status: object = None
    refused: Refusal | None = None
    fault: str | None = None


@dataclass(slots=True)
class Results:
    """All answers: by door, backend and case; those of the servers themselves by backend and case.

    `trained` are the latter's outputs for trained models, `refused` what they refused themselves.
    """

    cases: tuple[Case, ...]
    backends: tuple[Backend, ...]
    servers: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str, tuple[str, str]], Cell] = field(default_factory=dict)
    direct: dict[tuple[str, tuple[str, str]], str | None] = field(default_factory=dict)
    trained: dict[tuple[str, tuple[str, str]], dict[str, NDArray]] = field(default_factory=dict)
    refused: set[tuple[str, tuple[str, str]]] = field(default_factory=set)

    def faults(self, door: str, backend: str) -> list[str]:
        """What is wrong on one way, each with its case."""
        found = [(key[2], cell.fault) for key, cell in self.cells.items() if key[:2] == (door, backend)]
        return [f"{section}: {name}: {fault}" for (section, name), fault in found if fault is not None]

    def all_faults(self) -> list[str]:
        """Everything that is wrong."""
        found = [(str(key), cell.fault) for key, cell in self.cells.items()]
        found += [(f"direct: {key}", fault) for key, fault in self.direct.items()]
        return [f"{key}: {fault}" for key, fault in found if fault is not None]

    def direct_faults(self, backend: str) -> list[str]:
        """What is wrong with the server's own answers, each with its case."""
        found = [(key[1], fault) for key, fault in self.direct.items() if key[0] == backend]
        return [f"{section}: {name}: {fault}" for (section, name), fault in found if fault is not None]


async def run(servers: AbstractAsyncContextManager[Running], *, diagonal: bool = False) -> Results:
    """The whole matrix, on servers that are started for it; `diagonal`: see `on_diagonal`."""
    async with servers as stack:
        results = Results(stack.cases, stack.backends)
        asked = list(stack.asked())
        # First the servers themselves: what they say of trained models is what the gateway must say.
        await _together(
            lambda c=case, b=backend: _direct(stack, b, c, results)
            for case, backend in asked
            if not diagonal or case.golden is not None or on_diagonal(results, WAYS[0], backend, case)
        )
        await _together(
            lambda c=case, b=backend, w=way: _ask(stack, w, b, c, results)
            for case, backend in asked
            for way in WAYS
            if way.asks(case) and (not diagonal or on_diagonal(results, way, backend, case))
        )
        return results


def on_diagonal(results: Results, way: Way, backend: Backend, case: Case) -> bool:
    """Whether a question is among those of which each case asks each backend one, each through another door.

    So every door meets every backend, with another few cases each.
    """
    place = WAYS.index(way) + results.backends.index(backend) + results.cases.index(case)
    return place % len(WAYS) == 0


async def _together(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Makes all calls, `AT_ONCE` of them at a time."""
    left = iter(calls)

    async def worker() -> None:
        for call in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


async def _direct(stack: Running, backend: Backend, case: Case, results: Results) -> None:
    server = stack.direct.get(backend.name)
    if server is None or rules.expected("", backend.name, case) is not None:
        return
    outcome = await direct.ask(server, backend.name, case)
    own = rules.servers_own(backend.name, case)
    if own is not None and own.said_by(outcome.text):
        results.refused.add((backend.name, case.key))
        results.direct[backend.name, case.key] = None
        return
    fault = outcome.text or compare.fault(case, outcome.outputs, filtered=False)
    results.direct[backend.name, case.key] = fault
    if case.golden is not None and fault is None:
        arrays = {tensor.name: compare.array_of(outcome.outputs[tensor.name], tensor) for tensor in case.outputs}
        results.trained[backend.name, case.key] = arrays


async def _ask(stack: Running, way: Way, backend: Backend, case: Case, results: Results) -> None:
    door, endpoint = way.door, backend.endpoint(case.contract.name)
    try:
        outcome = await door.send(stack.gateway, question(case, endpoint))
    except (httpx.HTTPError, ValueError, KeyError) as exc:
        # One cell without an answer, or with one that its client cannot read, is told like any other that is wrong.
        results.cells[door.name, backend.name, case.key] = Cell(fault=repr(exc))
        return
    refusal = rules.expected(door.name, backend.name, case)
    own = rules.servers_own(backend.name, case) if refusal is None else None
    if own is not None and (backend.name, case.key) in results.refused:
        refusal = own
    if refusal is not None:
        cell = Cell(outcome.status, refusal, refusal.fault(door, outcome.status, outcome.text))
    elif outcome.status != door.status(None):
        cell = Cell(outcome.status, fault=f"answered {outcome.status}: {outcome.text}")
    elif way.names_server and f"endpoint={endpoint};" not in outcome.served_by:
        cell = Cell(outcome.status, fault=f"was served by {outcome.served_by}")
    else:
        if way.names_server:
            results.servers.setdefault(backend.name, outcome.served_by.partition('server="')[2].partition('"')[0])
        # Behind the second gateway is TorchServe.
        theirs = results.trained.get((backend.name if backend.name in stack.direct else "ts-rest", case.key))
        fault = compare.fault(case, outcome.outputs, filtered=way.filters, direct=theirs)
        # The page is the same for every build of the server: it tells of the refusal, and of who answers instead.
        cell = Cell(outcome.status if own is None else door.status(own.cause), own, fault)
    results.cells[door.name, backend.name, case.key] = cell
