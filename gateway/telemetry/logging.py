"""Logs as JSON lines, written by a thread of their own, so that a slow log never holds the event loop."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson

from gateway.core.errors import Cause

# A log that nobody reads must not become the gateway's memory.
MAX_WAITING_LINES = 10_000
# Lines are written together: a thread that woke up for each would cost a request more than its formatting.
WRITE_EVERY_SECONDS = 0.1
# How long the end of the process waits for the last lines: a stream that nobody reads must not keep it.
STOP_SECONDS = 2.0

# POSIX writes this much to a pipe in one piece, whoever else writes to it (PIPE_BUF); orjson's lines are mostly ASCII.
ATOMIC_CHARACTERS = 4096

_ACCESS = "gateway.access"
_access = logging.getLogger(_ACCESS)
_ACCESS_MESSAGE = "request"


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, the record's own fields, and a traceback.

    `always` are fields that every line has.
    """

    def __init__(self, always: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._always = dict(always or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _dumped(line)


@dataclass(slots=True)
class Access:
    """One request that has ended, `at` seconds of Unix time, as its line tells it."""

    at: float
    request_id: str
    protocol: str
    model: str
    stack: str
    endpoint: str
    cause: Cause | None
    seconds: float
    trace: tuple[str, str] | None = None
    """Of a request that is traced, the ids of its trace and of its span, in hexadecimal."""

    def fields(self) -> dict[str, Any]:
        """What the line has beside what every line has."""
        return {
            "request_id": self.request_id,
            **({} if self.trace is None else {"trace_id": self.trace[0], "span_id": self.trace[1]}),
            "protocol": self.protocol,
            "model": self.model,
            "stack": self.stack,
            "endpoint": self.endpoint,
            "cause": None if self.cause is None else self.cause.value,
            "ms": round(self.seconds * 1e3, 3),
        }

    def line(self, always: Mapping[str, Any]) -> str:
        """The line that a JsonFormatter with `always` would make of it, without its end."""
        return _dumped(
            {
                "time": _time(self.at),
                "level": "info",
                "logger": _ACCESS,
                "message": _ACCESS_MESSAGE,
                **always,
                **self.fields(),
            }
        )


class LogWriter(logging.Handler):
    """Takes records at once and writes them soon, from its own thread; drops them, and counts, if that falls behind.

    With a `worker`, every line bears its number, and other processes write to the same stream: lines are written few
    at a time, so that none is torn apart.

    The logging module closes it, and so writes what is left, when the process ends.
    """

    def __init__(self, stream: TextIO, worker: int | None = None) -> None:
        super().__init__()
        self._always = {} if worker is None else {"worker": worker}
        self.setFormatter(JsonFormatter(self._always))
        self._piece = None if worker is None else ATOMIC_CHARACTERS
        self._stream = stream
        self._waiting: deque[logging.LogRecord | Access] = deque()
        self._dropped = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def emit(self, record: logging.LogRecord | Access) -> None:
        """Keeps the record for the thread, if there is room."""
        if len(self._waiting) < MAX_WAITING_LINES:
            self._waiting.append(record)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Ends the thread once everything waiting is written, after at most `STOP_SECONDS`. May be repeated."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        super().close()

    def _run(self) -> None:
        while not self._ending.wait(WRITE_EVERY_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [item.line(self._always) if isinstance(item, Access) else self.format(item) for item in waiting]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(self.format(_own(f"{dropped} log lines were dropped: the log could not be written in time")))
        # A log that cannot be written is no reason to stop serving.
        with suppress(OSError, ValueError):
            for piece in _pieces(lines, self._piece):
                self._stream.write(piece)
                self._stream.flush()


def configure(level: str, stream: TextIO, worker: int | None = None) -> LogWriter:
    """Sends every log of this process, from `level` ('debug' to 'error') on, to `stream` as JSON lines.

    `worker` is this process's number, where several share the stream.

    Called once, by whoever owns the process; the writer is returned for those who close it themselves.
    """
    # What no line shows need not be looked up for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
    writer = LogWriter(stream, worker)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(writer)
    root.setLevel(level.upper())
    # It counts every change near the configuration's file; what came of one is the gateway's to say.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    writer.start()
    return writer


def log_access(
    *,
    request_id: str,
    protocol: str,
    model: str,
    stack: str,
    endpoint: str,
    cause: Cause | None,
    seconds: float,
    trace: tuple[str, str] | None = None,
) -> None:
    """One line for one request: who asked for what, who answered, how it ended and how long it took, no payloads.

    `trace` are the ids of its trace and of its span, where it has any.
    """
    if not _access.isEnabledFor(logging.INFO):
        return
    access = Access(time.time(), request_id, protocol, model, stack, endpoint, cause, seconds, trace)
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], LogWriter):
        # As the gateway's own process is configured: a record and its way through the loggers would cost five times
        # as much as the line.
        handlers[0].emit(access)
        return
    record = logging.LogRecord(_access.name, logging.INFO, __file__, 0, _ACCESS_MESSAGE, (), None)
    record.fields = access.fields()
    _access.handle(record)


def _dumped(line: dict[str, Any]) -> str:
    # A lone surrogate, which a client can put into a name, is the one string that orjson refuses.
    try:
        return orjson.dumps(line, default=str).decode()
    except orjson.JSONEncodeError:
        return orjson.dumps({key: ascii(value) for key, value in line.items()}).decode()


def _time(at: float) -> str:
    return _instant(int(at * 1000))


@lru_cache(maxsize=64)
def _instant(milliseconds: int) -> str:
    """The instant in ISO 8601: several lines share one."""
    seconds = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(tzinfo=None).isoformat()
    return f"{seconds}.{milliseconds % 1000:03}+00:00"


def _pieces(lines: list[str], most: int | None) -> Iterator[str]:
    """The lines with their ends, all together, or where `most` is given in pieces of at most so many characters; a
    longer line is a piece by itself."""
    piece: list[str] = []
    size = 0
    for line in lines:
        if most is not None and piece and size + len(line) + 1 > most:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(f"{line}\n")
        size += len(line) + 1
    if piece:
        yield "".join(piece)


def _own(message: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (), None)
