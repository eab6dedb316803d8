"""Starving a generator from outside: it is stopped for 95 of every 100 milliseconds."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

WORKER, RECORDER = "loadtests.engine.worker", "loadtests.engine.recorder"
# The generator may start in peace.
_PEACE_S, _RUN_S, _STOP_S = 4.0, 0.005, 0.095


def children(module: str) -> list[psutil.Process]:
    """Our own child processes that run a module."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if module in process.cmdline():
                found.append(process)
    return found


def awaited(module: str, seconds: float = 60.0) -> list[psutil.Process]:
    """Waits for child processes that run a module."""
    deadline = time.monotonic() + seconds
    while not (found := children(module)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {module} in {seconds:g} s")
        time.sleep(0.05)
    return found


@contextmanager
def starved() -> Iterator[None]:
    """Starves the generator that is started within."""
    over = threading.Event()

    def starve() -> None:
        workers = awaited(WORKER)
        over.wait(_PEACE_S)
        while not over.wait(_RUN_S):
            _signal(workers, signal.SIGSTOP)
            over.wait(_STOP_S)
            _signal(workers, signal.SIGCONT)

    thread = threading.Thread(target=starve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
