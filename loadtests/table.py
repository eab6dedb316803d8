"""The table for the terminal: one for each model, a row for each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.summary import invalid_words, stand_ins_of
from loadtests.words import number, transport_word

# Headers in two lines, so that the widest of them sets no column's width: ten columns have to fit.
_LEFT = ("Stack", "Server\nthat answered", "Path", "Protocol", "Upstream\nprotocol")
_RIGHT = ("Requests\n/s", "p50\nms", "p95\nms", "p99\nms", "Fail-\nures")
_FOLDED = {"Server\nthat answered": 10, "Path": 9}
# Before an INVALID cell, and before the line beneath that says why.
_MARK = "*"


def results_table(summary: Mapping[str, Any]) -> Group:
    """`summary.json`'s cells for `rich.print`; where a stand-in took part, every title names it.

    An INVALID cell is marked, and a line beneath its table says why.

    Names are printed as they are: no markup in them is obeyed.
    """
    stand_ins = stand_ins_of(summary)
    parts: list[RenderableType] = []
    for model in summary["models"]:
        cells = [cell for cell in summary["cells"] if cell["model"] == model]
        parts.append(_table(model, cells, stand_ins))
        if words := invalid_words(cells):
            parts.append(Text(f"{_MARK} {words}. These figures are there to look at, not to be used.", style="red"))
        parts.append(Text())
    return Group(*parts)


def _table(model: str, cells: Sequence[Mapping[str, Any]], stand_ins: tuple[str, ...]) -> Table:
    heading = f"{model}, with {' and '.join(stand_ins)}" if stand_ins else model
    table = Table(title=Text(heading, style="bold"), title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
    for column in _LEFT:
        table.add_column(column, overflow="fold", no_wrap=column not in _FOLDED, min_width=_FOLDED.get(column))
    for column in _RIGHT:
        table.add_column(column, justify="right", no_wrap=True)
    for position, cell in enumerate(cells):
        last_of_stack = position + 1 < len(cells) and cells[position + 1]["stack"] != cell["stack"]
        table.add_row(*_row(cell), end_section=last_of_stack)
    return table


def _row(cell: Mapping[str, Any]) -> list[Text]:
    way = f"{cell['path']} ({cell['upstream']})" if cell["upstream"] else cell["path"]
    words = [
        cell["stack"] if cell["valid"] else f"{_MARK}{cell['stack']}",
        cell["server"],
        way,
        transport_word(cell["protocol"]),
        transport_word(cell["upstream_protocol"]),
        *(number(cell[key]) for key in ("rps", "p50_ms", "p95_ms", "p99_ms")),
    ]
    failures = Text(f"{cell['failures']:,}", style="bold red" if cell["failures"] else "")
    return [*(Text(str(word)) for word in words), failures]
