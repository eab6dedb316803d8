"""The generator's end of the pipe to the recorder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import orjson

from loadtests.engine.rows import Kind, Packer, Row, frame
from loadtests.errors import LoadTestError

_EVERY_S = 0.05
_AT_ONCE = 64 * 1024


class Sink:
    """Takes rows without ever waiting; a greenlet that runs `pump` passes them on.

    `write` takes bytes and returns how many it took; it raises BlockingIOError where it can take none now. Where
    nobody reads any more, `failed` says so and `on_failure` is called once: the run must end.
    """

    def __init__(self, write: Callable[[bytes], int], on_failure: Callable[[], None]) -> None:
        self._write, self._on_failure = write, on_failure
        self._packer = Packer()
        self._pending = bytearray()
        self.failed = False

    def begin(self, metadata: Mapping[str, Any]) -> None:
        """Before the first row: what the file says of itself."""
        self._pending += frame(Kind.BEGIN, orjson.dumps(metadata))

    def add(self, row: Row) -> None:
        """Adds a row."""
        self._packer.add(row)

    def pump(self) -> None:
        """Passes rows on for ever."""
        while not self.failed:
            self._pass_on()
            gevent.sleep(_EVERY_S)

    def drain(self) -> None:
        """Passes on all that is left; raises LoadTestError where nobody took it."""
        while not self.failed and self._pass_on():
            gevent.sleep(0.002)
        if self.failed:
            raise LoadTestError("the recorder ended before the run")

    def _pass_on(self) -> bool:
        """Writes what can be written now; whether something is left."""
        self._pending += self._packer.taken()
        try:
            while self._pending:
                del self._pending[: self._write(bytes(self._pending[:_AT_ONCE]))]
        except BlockingIOError:
            return True
        except OSError:
            self.failed = True
            self._on_failure()
        return False


def pipe_writer(fd: int) -> Callable[[bytes], int]:
    """The `write` of a pipe."""
    os.set_blocking(fd, False)
    return lambda data: os.write(fd, data)
