"""Ctrl-C, SIGTERM and SIGHUP as exceptions, so that what was started is ended first, and ended completely."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

# `timeout` and some terminals send a signal to a process and again to its group: that is one signal, not two.
SAME_SIGNAL_S = 0.5


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Inside, `handler` is called for SIGINT, SIGTERM and SIGHUP; afterwards whatever was set before is again.

    Does nothing outside the main thread, where Python handles no signals.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # Also where a shell started this process in the background, with SIGINT ignored.
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: the terminal may go
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            with contextlib.suppress(TypeError):  # a handler that was not set from Python
                signal.signal(number, previous)


class Terminated(SystemExit):
    """Raised in the place of dying from SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interrupts:
    """Inside the `with` block a signal raises: SIGINT KeyboardInterrupt, SIGTERM and SIGHUP Terminated.

    After `close`, while things are being ended, a signal raises nothing, for it would cut the ending short: it sets
    `hurry`. Does nothing outside the main thread, where Python handles no signals.
    """

    def __init__(self) -> None:
        self.hurry = False
        self._closing = False
        self._raised_at = -SAME_SIGNAL_S
        self._missed: BaseException | None = None
        self._handled: AbstractContextManager[None] = handled(self._handle)

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handled.__exit__(None, None, None)
        if error is None and self._missed is not None:
            raise self._missed

    def close(self) -> None:
        """From now on signals do not raise, but hurry; the first of them is raised after the block."""
        self._closing = True

    def _handle(self, number: int, _: FrameType | None) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        now = time.monotonic()
        if now - self._raised_at < SAME_SIGNAL_S:
            return
        self._raised_at = now
        if self._closing:
            self.hurry = True
            self._missed = self._missed or error
        else:
            raise error
