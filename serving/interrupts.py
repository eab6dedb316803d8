"""Ctrl-C, SIGTERM and SIGHUP as exceptions, so that what was started is ended first, and ended completely."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

# `timeout` and some terminals send a signal to a process and again to its group: that is one signal, not two.
SAME_SIGNAL_S = 0.5


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
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Also where a shell started this process in the background, with SIGINT ignored.
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: the terminal may go
                numbers.append(signal.SIGHUP)
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # a handler that was not set from Python
                signal.signal(number, handler)
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
