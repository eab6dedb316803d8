"""When a worker that died is started again, and when no more. Decides, and does nothing."""

from __future__ import annotations

from collections.abc import Sequence

# A worker that took requests for less than this died of its start, or of the first things that it was asked.
QUICK_SECONDS = 10.0
# How long to wait after each death in a row that was quick; after one more the supervisor gives up.
DELAYS = (0.0, 0.25, 0.5, 1.0, 2.0)


class Deaths:
    """The deaths of one worker; `delays` are the waits after quick ones in a row, in seconds."""

    def __init__(self, delays: Sequence[float] = DELAYS) -> None:
        self._delays = delays
        self._quick = 0

    def died(self, served_s: float) -> float | None:
        """In how many seconds to start it again, after it took requests for `served_s`; None to give up."""
        self._quick = self._quick + 1 if served_s < QUICK_SECONDS else 0
        if self._quick > len(self._delays):
            return None
        return self._delays[max(0, self._quick - 1)]

    @property
    def quick(self) -> int:
        """How many quick deaths there were in a row."""
        return self._quick
