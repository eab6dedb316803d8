"""Tiny servers for the launcher, and what processes they leave."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from serving import reaper
from serving.probes import ask
from serving.processes import Port, Server

SCRIPT = Path(__file__).with_name("tiny_server.py")


def tiny(name: str, port: int, *options: str, ready: bool = True) -> Server:
    """A tiny server as the launcher knows servers; with `ready` false it is waited for in vain."""

    def waiting_for() -> str | None:
        return None if ready and ask("127.0.0.1", port, "/") is not None else "an answer"

    return Server(
        name=name,
        command=[sys.executable, "-I", "-S", str(SCRIPT), str(port), *options],
        waiting_for=waiting_for,
        describe=lambda: f"{name} 1.0",
        ports=(Port(port, f"{name} over HTTP", f"TWINSERVE_{name.upper()}_PORT or --{name}-port"),),
        url=f"http://127.0.0.1:{port}",
        health="/",
    )


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for a condition; fails where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def left_running(groups: Iterable[int]) -> list[int]:
    """The processes of these groups that still run."""
    return [pid for group in groups for pid in reaper.group_members(group)]
