"""What the user sees of a campaign while it runs: a bar with the time left, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


def spoken(seconds: float) -> str:
    """A duration as people say it: `45 s`, `5.5 min`, `51 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 600:
        return f"{round(seconds / 30) / 2:g} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


class Bar:
    """A bar over the planned seconds; the time left follows the pace so far."""

    def __init__(
        self, console: Console, planned_s: float, done_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._planned, self._before, self._done = planned_s, done_s, done_s
        self._began = self._cell_began = clock()
        self._cell_s = 0.0
        # Once a second: drawing takes CPU time from what is measured.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            _Left(self.left_s),
            console=console,
            refresh_per_second=1,
            transient=True,
        )
        self._task = self._progress.add_task("", total=planned_s)
        self._progress.update(self._task, completed=done_s)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def now(self, what: str, planned_s: float = 0.0) -> None:
        """Says what is measured now, and how long that was to take."""
        self._cell_began, self._cell_s = self._clock(), planned_s
        self._progress.update(self._task, description=escape(what))

    def add(self, planned_s: float) -> None:
        """So much of the plan is done."""
        self._done += planned_s
        self._cell_began, self._cell_s = self._clock(), 0.0
        self._progress.update(self._task, completed=self._done)

    def tell(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(escape(text), highlight=False)

    def left_s(self) -> float:
        """Seconds left, by the pace so far."""
        own = self._done - self._before
        pace = (self._cell_began - self._began) / own if own > 0 else 1.0
        of_this_cell = min((self._clock() - self._cell_began) / pace, self._cell_s) if pace > 0 else 0.0
        return max(self._planned - self._done - of_this_cell, 0.0) * pace


class _Left(ProgressColumn):
    """The time left, anew at every drawing."""

    def __init__(self, left_s: Callable[[], float]) -> None:
        super().__init__()
        self._left_s = left_s

    def render(self, task: Task) -> Text:
        """As people say it."""
        del task
        return Text(f"{spoken(self._left_s())} left")
