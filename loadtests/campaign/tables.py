"""Tables for the terminal: comparisons of two runs, and the rows of a query."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from loadtests.analysis.regression import Regression


def regression_table(found: Regression) -> Iterator[RenderableType]:
    """The changes from one run to another: a title, a table, and what was left out."""
    yield f"[bold]{escape(found.title)}[/bold]"
    table = _table(("Model", "Scenario", "Target", "Figure", "A", "B", "B/A (95 %)", "Verdict"))
    for change in found.changes:
        verdict = change.verdict
        ratio = "-" if change.a is None or change.b is None or not change.a else f"{change.b / change.a:.3g}"
        word = f"none: {change.why}"
        if verdict is not None:
            word = verdict.word
            if math.isfinite(verdict.ratio.low):
                ratio = f"{verdict.ratio.value:.3g} ({verdict.ratio.low:.3g} to {verdict.ratio.high:.3g})"
            if verdict.rounds_needed is not None:
                word += f"; some {verdict.rounds_needed} rounds would settle it"
        names = (change.model, change.scenario, change.target, change.metric.name)
        table.add_row(*map(escape, names), figure(change.a), figure(change.b), ratio, escape(word))
    yield table
    for text in found.refused:
        yield f"Unlike: {escape(text)}"
    if found.refused:
        yield "Unlike set-ups are not compared; --allow-unlike does, and says so in the title."
    for run, only in (("A", found.only_a), ("B", found.only_b)):
        if only:
            yield f"Only in {run}: {escape('; '.join(only))}"


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Rows of a query under their columns."""
    table = _table(columns)
    for row in rows:
        table.add_row(*(figure(value) for value in row))
    return table


def _table(titles: Sequence[str]) -> Table:
    # Folded rather than cut: what does not fit is still there.
    return Table(*(Column(escape(title), overflow="fold") for title in titles), box=None, padding=(0, 1))


def figure(value: object) -> str:
    """A value for people: three digits of a number, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return escape(str(value))
