"""Waking up on time. gevent's own timers round up to a millisecond, which is more than many a request takes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Protocol

import gevent
from gevent import get_hub

_MONOTONIC, _ABSOLUTE = 1, 1
# How long before the instant each way wakes up; until then it only lets others run.
_EARLY_KERNEL_S = 0.0001
_EARLY_GEVENT_S = 0.0012


class Alarm(Protocol):
    """Wakes one greenlet at an instant of `time.perf_counter`; other greenlets run meanwhile."""

    def until(self, due: float) -> None:
        """Returns at `due`, at once where that is past."""
        ...

    def close(self) -> None:
        """Gives up what the alarm holds."""
        ...


def alarm() -> Alarm:
    """The best alarm of this machine."""
    return KernelAlarm() if sys.platform == "linux" else YieldingAlarm()


class YieldingAlarm:
    """Wakes more than a millisecond early and yields until the instant: exact, for half a core."""

    def until(self, due: float) -> None:
        """See Alarm."""
        _sleep_and_yield(due, _EARLY_GEVENT_S)

    def close(self) -> None:
        """Holds nothing."""


class KernelAlarm:
    """A Linux timerfd, which the event loop watches like a socket: exact to the kernel's timers at little cost."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._hub = get_hub()
        self._watcher = self._hub.loop.io(self._fd, 1)
        # struct itimerspec: interval, then the instant; seconds and nanoseconds each.
        self._when = (ctypes.c_long * 4)()

    def until(self, due: float) -> None:
        """See Alarm."""
        early = due - _EARLY_KERNEL_S
        if early > time.perf_counter():
            self._when[2] = int(early)
            self._when[3] = int((early - self._when[2]) * 1e9)
            self._libc.timerfd_settime(self._fd, _ABSOLUTE, self._when, None)
            self._hub.wait(self._watcher)
            os.read(self._fd, 8)
        while time.perf_counter() < due:
            gevent.sleep(0)

    def close(self) -> None:
        """Closes the timer."""
        self._watcher.close()
        os.close(self._fd)


def _sleep_and_yield(due: float, early: float) -> None:
    wait = due - time.perf_counter()
    if wait > early:
        gevent.sleep(wait - early)
    while time.perf_counter() < due:
        gevent.sleep(0)
