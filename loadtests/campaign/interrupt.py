"""Ctrl-C once finishes the round, twice stops; SIGTERM stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Self

from serving.interrupts import SAME_SIGNAL_S, handled


class StoppedError(Exception):
    """Raised where a run was told to stop in the middle of a cell; the cell does not count."""


class TwoStage:
    """Inside the block, signals raise nothing: the first Ctrl-C sets `finish`, another one, or SIGTERM, sets `stop`.

    With `at_once` already the first one sets `stop`. `number` is the last
    signal; `tell` is given a line for the user. Does nothing outside the main thread, where Python handles no signals.
    """

    def __init__(
        self,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        *,
        at_once: bool = False,
    ) -> None:
        self.finish = False
        self.number = signal.SIGINT
        self._at_once = at_once
        self.stop = threading.Event()
        self._tell, self._clock = tell, clock
        self._last = float("-inf")
        self._handled: AbstractContextManager[None] = handled(self._handle)

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handled.__exit__(kind, error, trace)

    def check(self) -> None:
        """Raises StoppedError once `stop` is set."""
        if self.stop.is_set():
            raise StoppedError

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = self._clock()
        if now - self._last < SAME_SIGNAL_S:  # the same signal to the process and to its group
            return
        self._last, self.number = now, signal.Signals(number)
        if number == signal.SIGINT and not self.finish and not self._at_once:
            self.finish = True
            self._tell("Ctrl-C: finishing this round, then the report. Again: stop now.")
        elif not self.stop.is_set():
            self.finish = True
            self.stop.set()
            self._tell("Stopping: the cell under way does not count, everything before it is kept.")
