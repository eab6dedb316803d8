"""The conductor: tells the workers of a cell when to begin, and collects their accounts."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.cell_spec import CellSpec
from loadtests.errors import LoadTestError

HEALTH_SCHEMA = 1
# Each worker imports Locust and prepares its requests; on a busy machine that takes a while.
_START_S = 120.0
# From the word to the instant that it names, so that every worker has heard it.
_AHEAD_S = 0.1
_TICK_S = 0.1
_STOP_S = 10.0
_END_S = 30.0
# A closed loop's warm-up is bounded by the worker, by ten times what was asked for.
_CLOSED_PATIENCE = 11


@dataclass(slots=True, eq=False)
class Player:
    """The near end of one worker's control socket (`control` says what goes over it)."""

    index: int
    socket: socket.socket
    _buffer: bytearray = field(default_factory=bytearray)

    @classmethod
    def pair(cls, index: int) -> tuple[Player, socket.socket]:
        """A player and the far end of its socket, for the worker to inherit."""
        near, far = socket.socketpair()
        return cls(index, near), far

    def tell(self, message: Mapping[str, Any]) -> None:
        """Sends a message; one that is gone hears nothing."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]] | None:
        """The messages that have come, None where the worker is gone. Call it when the socket is readable."""
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return None
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Closes the socket; a worker that still runs stops then."""
        self.socket.close()


class Conductor:
    """Conducts one cell with the workers' players; `recording` says whether the recorder still runs."""

    def __init__(
        self, spec: CellSpec, players: Sequence[Player], stop: threading.Event, recording: Callable[[], bool]
    ) -> None:
        self._spec, self._players, self._stop, self._recording = spec, players, stop, recording
        self._accounts: dict[int, dict[str, Any]] = {}
        self._ready: dict[int, float] = {}
        self._warm: set[int] = set()
        self._gone: set[int] = set()
        self._stopped = False
        self._deadline = time.monotonic() + _START_S
        self._awaited = "get ready"

    def conduct(self) -> None:
        """From the start to the last account; raises LoadTestError where a worker or the recorder fails."""
        with selectors.DefaultSelector() as selector:
            for player in self._players:
                selector.register(player.socket, selectors.EVENT_READ, player)
            while len(self._gone | set(self._accounts)) < len(self._players):
                if self._stop.is_set() and not self._stopped:
                    self._stopped = True
                    self._await("stop", _STOP_S, {"stop": True})
                for key, _ in selector.select(_TICK_S):
                    messages = key.data.heard()
                    if messages is None:
                        selector.unregister(key.fileobj)
                        self._lose(key.data.index)
                    for message in messages or ():
                        self._take(key.data.index, message)
                if not self._recording() and not self._accounts:
                    raise LoadTestError("the recorder ended before the run")
                if time.monotonic() > self._deadline:
                    raise LoadTestError(
                        f"a worker did not {self._awaited} in time; is the machine out of CPU or memory?"
                    )

    def account(self) -> dict[str, Any]:
        """The health file: what all workers say of themselves."""
        accounts = [self._accounts[index] for index in sorted(self._accounts)]
        return {
            "schema": HEALTH_SCHEMA,
            "t0_unix": next((account["t0_unix"] for account in accounts), None),
            "workers": [account["done"] for account in accounts],
            "scheduled": sum(account["scheduled"] for account in accounts),
            "finished": sum(account["rows"] for account in accounts),
            "seconds": self._spec.load.seconds,
            "arrivals": self._spec.load.arrivals,
            "stopped": self._stopped or any(account["stopped"] for account in accounts),
        }

    def _take(self, index: int, message: Mapping[str, Any]) -> None:
        if "error" in message and not self._stopped:
            raise LoadTestError(str(message["error"]))
        if "done" in message:
            self._accounts[index] = dict(message)
        elif "ready" in message:
            self._ready[index] = float(message["ready"])
            if len(self._ready) == len(self._players) and not self._stopped:
                self._begin()
        elif "warm" in message:
            self._warm.add(index)
            if len(self._warm) == len(self._players):
                self._await("finish", self._to_the_end, {"measure": time.time() + _AHEAD_S})

    def _begin(self) -> None:
        load, begins = self._spec.load, {"begin": time.time() + _AHEAD_S}
        if load.arrivals == "closed":
            warm_up = max(load.warm_up_seconds, 1.0) * _CLOSED_PATIENCE
            self._await("end its warm-up", warm_up + load.timeout_seconds, begins)
        else:
            self._await("finish", max(self._ready.values()) + self._to_the_end, begins)

    @property
    def _to_the_end(self) -> float:
        load = self._spec.load
        return _AHEAD_S + load.seconds + 2 * load.timeout_seconds + _END_S

    def _await(self, what: str, seconds: float, message: Mapping[str, Any]) -> None:
        """Tells all workers, and what must have happened when."""
        self._awaited, self._deadline = what, time.monotonic() + seconds
        for player in self._players:
            player.tell(message)

    def _lose(self, index: int) -> None:
        if index not in self._accounts and not self._stopped:
            raise LoadTestError(f"generator {index} ended before its run did")
        self._gone.add(index)
