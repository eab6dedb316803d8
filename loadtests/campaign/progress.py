"""What the user sees of a campaign while it runs: a bar with the time left, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn


def spoken(seconds: float) -> str:
    """A duration as people say it: `45 s`, `7 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


class Bar:
    """A bar over the planned seconds; the time left follows the pace so far."""

    def __init__(
        self, console: Console, planned_s: float, done_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._planned, self._before, self._done = planned_s, done_s, done_s
        self._began = clock()
        # Once a second: drawing takes CPU time from what is measured.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=1,
            transient=True,
        )
        self._task = self._progress.add_task("", total=planned_s, left="")
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

    def now(self, what: str) -> None:
        """Says what is measured now."""
        self._progress.update(self._task, description=escape(what), left=self._left())

    def add(self, planned_s: float) -> None:
        """So much of the plan is done."""
        self._done += planned_s
        self._progress.update(self._task, completed=self._done, left=self._left())

    def tell(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(escape(text), highlight=False)

    def left_s(self) -> float:
        """Seconds left, by the pace so far."""
        own = self._done - self._before
        pace = (self._clock() - self._began) / own if own > 0 else 1.0
        return max(self._planned - self._done, 0.0) * pace

    def _left(self) -> str:
        return f"{spoken(self.left_s())} left"
