"""Time, as a value that tests can replace."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary, fixed instant; never goes back."""
        ...


class SystemClock:
    """The machine's monotonic clock, the one asyncio's loop uses too."""

    # Without a function of our own around it: a request asks a dozen times.
    now = staticmethod(time.monotonic)
