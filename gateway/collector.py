"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc

# How many more containers may be made than freed before the youngest are looked through (Python's own: 700).
GARBAGE_THRESHOLD = 20_000


def settle_garbage_collector() -> None:
    """Takes what the start left for permanent, and looks for cycles less often.

    What a request leaves is freed by its reference counts; going through all of the modules' objects for the few
    cycles of errors took a fifth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 20)
