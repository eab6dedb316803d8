"""Each row: one promise of docs/reliability.md, the figure that it should have, and what was measured."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from tests.benchmarks.faults.load import Asked, good, one, p99, steady, until
from tests.benchmarks.faults.world import DRAIN_SECONDS, SLOTS, TENSORFLOW, Bench, Rounds, running
from tests.benchmarks.gateway.table import Goal, Result
from tests.fakes.relay import Answer, BlackHole
from tests.fakes.script import Hang, Takes
from tests.faults.clients import OK, crowd

Row = Callable[[Rounds], Awaitable[list[Result]]]

# A call at a server of the overload rows takes this long, so that it can do so many a second.
CALL_S = 0.04
OVERLOADED = ("overloaded",)
AWAY = ("not_ready", "upstream_unreachable")
TIMEOUT_MS = 600


async def overload(rounds: Rounds) -> list[Result]:
    """Goodput and refusals at 2 and 10 times what the server can do."""
    shares: dict[int, list[float]] = {2: [], 10: []}
    refusals: dict[int, list[float]] = {2: [], 10: []}
    async with running(batching=False) as bench:
        bench.sick.fake.otherwise = Takes(seconds=CALL_S)
        for _ in range(rounds.rounds):
            capacity = await _capacity(bench, rounds.seconds)
            for factor, found in shares.items():
                asked = await steady(bench.asking("double"), factor * capacity, rounds.seconds)
                begin = asked[0].sent
                within = [item for item in good(asked) if item.answered <= begin + rounds.seconds]
                found.append(len(within) / rounds.seconds / capacity)
                refused = [item.seconds * 1e3 for item in asked if item.outcome in OVERLOADED]
                refusals[factor].append(p99(refused))
                rounds.report(
                    f"    {factor} x {capacity:.0f}/s: goodput {found[-1]:.3f}, "
                    f"{len(refused)} of {len(asked)} refused, p99 {refusals[factor][-1]:.1f} ms"
                )
    note = f"The server takes {CALL_S * 1e3:.0f} ms a call, {SLOTS} at once; open loop, batching off."
    return [
        *(
            Result(
                "1",
                f"goodput at {factor} times what the server can do ÷ what it can do",
                values,
                Goal(0.9, 1.0, at_most=False),
                note=note,
            )
            for factor, values in shares.items()
        ),
        *(
            Result(
                "2",
                f"refusal at {factor} times what the server can do, p99",
                values,
                Goal(10, 5, at_most=True),
                unit="ms",
                note=note,
            )
            for factor, values in refusals.items()
        ),
    ]


async def _capacity(bench: Bench, seconds: float) -> float:
    """Requests a second that are answered where callers keep every slot taken."""
    begin, answered = time.perf_counter(), 0

    async def call() -> None:
        nonlocal answered
        while time.perf_counter() < begin + seconds:
            outcome = await bench.asking("double")()
            answered += outcome == OK

    await asyncio.gather(*(call() for _ in range(3 * SLOTS)))
    return answered / (time.perf_counter() - begin)


async def ejection(rounds: Rounds) -> list[Result]:
    """From a server's death, or silence, to the first request that is refused at once; and back."""
    found: dict[str, list[float]] = {"killed": [], "silent": [], "back": [], "silent back": [], "ready": []}
    async with running() as bench:
        ask = bench.asking("double", TIMEOUT_MS)
        for _ in range(rounds.rounds):
            begin = time.perf_counter()
            bench.sick.dies()
            loading = asyncio.create_task(steady(ask, 50, 2.0))
            unready = await until(_readiness(bench), "503".__eq__)
            refused = [item for item in await loading if item.outcome == "not_ready"]
            found["killed"].append(min(item.answered for item in refused) - begin)
            found["ready"].append(unready.answered - begin)
            found["back"].append(await _back(bench, "double"))
            begin = time.perf_counter()
            bench.sick.fake.otherwise = Hang()
            asked = await steady(ask, 50, 3.0)
            found["silent"].append(min(item.answered for item in asked if item.outcome == "not_ready") - begin)
            found["silent back"].append(await _back(bench, "double"))
            rounds.report(f"    {', '.join(f'{name} {values[-1]:.2f} s' for name, values in found.items())}")
    note = "50 requests a second."
    soon, again = Goal(1.0, None, at_most=True), Goal(5.0, None, at_most=True)
    return [
        Result("3", "a killed server is left alone after", found["killed"], soon, unit="s", note=note),
        Result(
            "3",
            f"a server that stops answering is left alone after, with deadlines of {TIMEOUT_MS} ms",
            found["silent"],
            soon,
            unit="s",
            note=note,
        ),
        Result("4", "a killed server that is back is used again after", found["back"], again, unit="s", note=note),
        Result(
            "4",
            "a silent server that answers again is used again after",
            found["silent back"],
            again,
            unit="s",
            note=note,
        ),
        Result(
            "5",
            "the model's readiness tells of a killed server after",
            found["ready"],
            Goal(2.0, None, at_most=True),
            unit="s",
        ),
    ]


def _readiness(bench: Bench) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        return "200" if await bench.gateway.clients.status("/v2/models/double/ready") == 200 else "503"

    return ask


async def _back(bench: Bench, model: str) -> float:
    begin = time.perf_counter()
    await bench.sick.recovers()
    await bench.spare.recovers()
    return (await until(bench.asking(model, TIMEOUT_MS), OK.__eq__)).answered - begin


async def neighbours(rounds: Rounds) -> list[Result]:
    """The latency of another model while one server is a black hole, or slow, ÷ without."""
    results = []
    for name, fall_ill in (
        ("a black hole", lambda bench: bench.sick.falls_under(BlackHole())),
        ("slow", lambda bench: setattr(bench.sick.fake, "otherwise", Takes(seconds=0.5))),
    ):
        ratios, more = [], []
        async with running() as bench:
            bench.well.fake.otherwise = Takes(seconds=0.01)
            for number in range(rounds.rounds):
                measured: dict[bool, list[Asked]] = {}
                # In turns, so that a drift of the machine's hits both alike. The sick model is asked in both.
                for ill in (False, True) if number % 2 else (True, False):
                    if ill:
                        fall_ill(bench)
                    _, measured[ill] = await asyncio.gather(
                        steady(bench.asking("double", TIMEOUT_MS), 20, rounds.seconds),
                        steady(bench.asking("neighbour"), 60, rounds.seconds),
                    )
                    await bench.sick.recovers()
                    await until(bench.asking("double", TIMEOUT_MS), OK.__eq__)
                with_it, without = (p99([item.seconds for item in measured[ill]]) for ill in (True, False))
                ratios.append(with_it / without)
                more.append(
                    (len(measured[True]) - len(good(measured[True])))
                    + (len(measured[False]) - len(good(measured[False])))
                )
                rounds.report(f"    {name}: p99 {with_it * 1e3:.1f} ms, without {without * 1e3:.1f} ms")
        results.append(
            Result(
                "6",
                f"a neighbour's p99 while one server is {name} ÷ without",
                ratios,
                Goal(1.1, 1.0, at_most=True),
                note=f"Of the neighbour's requests {sum(more)} failed.",
            )
        )
    return results


async def drain(rounds: Rounds) -> list[Result]:
    """From SIGTERM under load to the end of the process."""
    took, statuses = [], set()
    for _ in range(rounds.rounds):
        async with running() as bench:
            bench.sick.fake.otherwise = Takes(seconds=0.2)
            asking = asyncio.create_task(crowd(16, 1000, lambda _: _unless_closed(bench)))
            await asyncio.sleep(1.0)
            begin = time.perf_counter()
            bench.gateway.signal(signal.SIGTERM)
            statuses.add(await bench.gateway.ended(DRAIN_SECONDS + 10))
            took.append(time.perf_counter() - begin)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            rounds.report(f"    ended after {took[-1]:.2f} s")
    return [
        Result(
            "7",
            "from SIGTERM under load to the end, where calls take 200 ms",
            took,
            Goal(DRAIN_SECONDS, 1.0, at_most=True),
            unit="s",
            note=f"Exit status {', '.join(map(str, sorted(statuses)))}; drain_seconds is {DRAIN_SECONDS}.",
        )
    ]


async def _unless_closed(bench: Bench) -> None:
    if (await bench.asking("double")()).startswith("unanswered"):
        await asyncio.sleep(60)


async def both_down(rounds: Rounds) -> list[Result]:
    """Refusals while both servers of a model are gone, and the time from their return to the first answer."""
    refusals, back = [], []
    async with running() as bench:
        for _ in range(rounds.rounds):
            bench.sick.dies()
            bench.spare.dies()
            await until(bench.asking("backed"), "not_ready".__eq__)
            asked = await steady(bench.asking("backed"), 50, rounds.seconds)
            refusals.append(p99([item.seconds * 1e3 for item in asked if item.outcome in AWAY]))
            back.append(await _back(bench, "backed"))
            rounds.report(f"    refused within {refusals[-1]:.1f} ms, back after {back[-1]:.2f} s")
    return [
        Result("8", "refusal while both servers are down, p99", refusals, Goal(5, None, at_most=True), unit="ms"),
        Result("9", "both servers are back: the first answer after", back, Goal(5.0, None, at_most=True), unit="s"),
    ]


async def deadlines(rounds: Rounds) -> list[Result]:
    """How much later than its deadline a request is answered whose server is silent."""
    late = []
    async with running(TENSORFLOW) as bench:
        for _ in range(rounds.rounds):
            bench.sick.fake.otherwise = Hang()
            # Of so short a deadline the server is not to blame: the breaker stays closed.
            asked = await asyncio.gather(*(one(bench.asking("double", 300)) for _ in range(SLOTS * 5)))
            late.append(p99([(item.seconds - 0.3) * 1e3 for item in asked if item.outcome == "deadline"]))
            await bench.sick.recovers()
            rounds.report(f"    {late[-1]:.1f} ms late")
    return [Result("10", "answer after the deadline, p99", late, Goal(20, None, at_most=True), unit="ms")]


async def leaving(rounds: Rounds) -> list[Result]:
    """From a client's leaving to the end of its call at the server, where the server can cancel."""
    took = []
    async with running(TENSORFLOW) as bench:
        for _ in range(rounds.rounds):
            bench.sick.fake.otherwise = Hang()
            asked = [asyncio.create_task(bench.asking("double")()) for _ in range(SLOTS)]
            await bench.sick.fake.in_flight.reaches(SLOTS)
            begin = time.perf_counter()
            for task in asked:
                task.cancel()
            await bench.sick.fake.in_flight.reaches(0)
            took.append((time.perf_counter() - begin) * 1e3)
            await bench.sick.recovers()
    return [
        Result(
            "11", "a client leaves: its call at the server ends after", took, Goal(200, None, at_most=True), unit="ms"
        )
    ]


async def large_replies(rounds: Rounds) -> list[Result]:
    """How much the gateway's memory grows by a reply of 1 GB."""
    grown = []
    async with running() as bench:
        for _ in range(rounds.rounds):
            before = bench.gateway.rss
            size = 1 << 30
            bench.sick.falls_under(Answer(b"HTTP/1.1 200 OK\r\n\r\n", size))
            await bench.asking("double", 60_000)()
            grown.append((bench.gateway.rss - before) / 1e6)
            await bench.sick.recovers()
            await until(bench.asking("double"), OK.__eq__)
    return [
        Result(
            "12",
            "resident memory grows by, for a reply of 1 GB",
            grown,
            Goal(192, None, at_most=True),
            unit="MB",
            note="The cap of a reply is 64 MiB, limits.body_bytes; three times that is allowed.",
        )
    ]


ROWS: dict[str, Row] = {
    "overload": overload,
    "ejection": ejection,
    "neighbours": neighbours,
    "drain": drain,
    "both-down": both_down,
    "deadlines": deadlines,
    "leaving": leaving,
    "large-replies": large_replies,
}
