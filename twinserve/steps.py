"""Progress of a long command: one line a step, with its time, and a spinner while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

Note = Callable[[str], None]


class Steps:
    """Numbers the steps of one run and times each."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._count = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Note]:
        """Runs the body as the next step; the yielded function says what it is doing now.

        What was noted last is printed beside the finished step.
        """
        self._count += 1
        head = f"[bold]{self._count}/{self._total} {escape(title)}[/bold]"
        begin, last = time.perf_counter(), ""
        with self._console.status(head) as status:

            def note(text: str) -> None:
                nonlocal last
                last = text
                _show(status, f"{head}  {escape(text)}")

            try:
                yield note
            except BaseException:
                self._console.print(f"[red]✗[/red] {head}  {escape(last)}  [dim]{_seconds(begin)}[/dim]")
                raise
        self._console.print(f"[green]✓[/green] {head}  {escape(last)}  [dim]{_seconds(begin)}[/dim]")


def _show(status: Status, text: str) -> None:
    status.update(text)


def _seconds(begin: float) -> str:
    return f"{time.perf_counter() - begin:.1f} s"
