"""What the benchmarks print at the end: ratios with their spread, and how long a body holds the event loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

Table = dict[tuple[str, tuple[int, ...]], dict[str, dict[str, Any]]]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The tables, in Markdown, as docs/benchmarks.md has them."""
    found = getattr(config, "_benchmarksession").benchmarks  # noqa: B009 - the plugin's own, without a public name
    if not found:
        # Loaded for other tests too, which measure nothing.
        return
    write = terminalreporter.write_line
    write("")
    for line in (*_ratios(found), "", *_stalls(found)):
        write(line)


def _ratios(found: Iterable[Any]) -> Iterable[str]:
    table: Table = {}
    for item in found:
        info = item.extra_info
        if "door" in info:
            cell = table.setdefault((info["door"], info["shape"]), {}).setdefault(info["direction"], {})
            cell[info["way"]] = item.stats
    yield "Medians in microseconds of CPU time. Then how many times as long the other way takes; in brackets from its"
    yield "first quartile over our third to its third over our first. In: bytes to tensor. Out: tensor to bytes."
    yield ""
    yield "| door | shape | in | out | both | against | in | out | both |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (door, shape), directions in table.items():
        ours = {direction: ways["ours"] for direction, ways in directions.items()}
        both = sum(stats.median for stats in ours.values())
        times = [_micro(stats.median) for stats in ours.values()]
        for way in list(directions["in"])[1:]:
            theirs = {direction: ways[way] for direction, ways in directions.items()}
            each = [_ratio(theirs[direction], ours[direction]) for direction in ours]
            whole = sum(stats.median for stats in theirs.values()) / both
            cells = [door, "x".join(map(str, shape)), *times, _micro(both), way, *each, f"{whole:.2f}"]
            yield f"| {' | '.join(cells)} |"


def _ratio(theirs: Any, ours: Any) -> str:
    low, high = theirs.q1 / ours.q3, theirs.q3 / ours.q1
    return f"{theirs.median / ours.median:.2f} ({low:.2f} to {high:.2f})"


def _stalls(found: Iterable[Any]) -> Iterable[str]:
    yield "A JSON body of 8 MB holds the event loop, per MB of body:"
    yield ""
    yield "| body | ms per MB (median) | slowest |"
    yield "|---|---|---|"
    for item in found:
        info = item.extra_info
        if "stall" in info:
            median, slowest = (1e3 * value / info["megabytes"] for value in (item.stats.median, item.stats.max))
            yield f"| {info['stall']} | {median:.2f} | {slowest:.2f} |"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"
