"""A worker's end of its control socket.

Over the control socket go lines of JSON. From here: `{"ready": warm-up seconds}`, in a closed loop `{"warm": true}`,
at the end `{"done": health, "scheduled": n, "rows": n, "stopped": bool}`, or `{"error": words}`. To here:
`{"begin": t}` (the warm-up may begin), in a closed loop `{"measure": t}`, each a Unix time shortly ahead, and
`{"stop": true}`. Where the other end is gone, the run stops.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import gevent
import orjson
from gevent import socket
from gevent.event import Event

from loadtests.errors import LoadTestError


class Control:
    """Our end of the control socket. `said` maps what was told to an event, `values` has what came with it."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lines = self._socket.makefile("rb")
        self.values: dict[str, Any] = {}
        self.said = {name: Event() for name in ("begin", "measure", "stop")}

    def tell(self, message: Mapping[str, Any]) -> None:
        """Sends a message."""
        self._socket.sendall(orjson.dumps(message) + b"\n")

    def listen(self) -> None:
        """Takes messages until the other end is gone, which is a stop as well; for a greenlet of its own."""
        try:
            # Where it was killed before it had read what was told, that is an error instead of an end.
            with contextlib.suppress(ConnectionResetError):
                for line in self._lines:
                    for name, value in json.loads(line).items():
                        self.values[name] = value
                        self.said[name].set()
        finally:
            self.said["stop"].set()

    def wait(self, name: str) -> float:
        """Waits for an instant; raises LoadTestError where a stop comes first."""
        gevent.wait([self.said[name], self.said["stop"]], count=1)
        if name not in self.values:
            raise LoadTestError("stopped before the run began")
        return float(self.values[name])

    def close(self) -> None:
        """Closes our end; nobody may be listening any more."""
        self._lines.close()
        self._socket.close()
