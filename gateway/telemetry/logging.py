"""Logs as JSON lines, written by a thread of their own, so that a slow log never holds the event loop."""

from __future__ import annotations

import atexit
import logging
import queue
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, TextIO

import orjson

from gateway.core.errors import Cause

# A log that nobody reads must not become the gateway's memory.
MAX_WAITING_LINES = 10_000
# How long the end of the process waits for the last lines.
STOP_SECONDS = 2.0

_access = logging.getLogger("gateway.access")


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, the record's own fields, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # A lone surrogate, which a client can put into a name, is the one string that orjson refuses.
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:
            return orjson.dumps({key: ascii(value) for key, value in line.items()}).decode()


class BoundedHandler(QueueHandler):
    """Hands records over to the writing thread as they are; drops them, and counts, where it is far behind."""

    def __init__(self, lines: queue.SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self._lines = lines
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record itself: formatting is the writing thread's work."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queues the record if there is room."""
        if self._lines.qsize() >= MAX_WAITING_LINES:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._lines.put(
                logging.makeLogRecord(
                    {
                        "name": __name__,
                        "levelno": logging.WARNING,
                        "levelname": "WARNING",
                        "msg": "%d log lines were dropped: the log could not be written in time",
                        "args": (dropped,),
                    }
                )
            )
        self._lines.put(record)


class LogWriter(QueueListener):
    """The thread that writes the lines; `stop` may be repeated."""

    def stop(self) -> None:
        """Ends the thread once everything queued is written, after at most `STOP_SECONDS`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self.enqueue_sentinel()
            # A stream that nobody reads must not keep the process from ending.
            thread.join(STOP_SECONDS)


def configure(level: str, stream: TextIO) -> LogWriter:
    """Sends every log of this process, from `level` ('debug' to 'error') on, to `stream` as JSON lines.

    Called once, by whoever owns the process. What is still queued is written at exit, or by the writer's `stop`.
    """
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    output = logging.StreamHandler(stream)
    output.setFormatter(JsonFormatter())
    writer = LogWriter(lines, output)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(BoundedHandler(lines))
    root.setLevel(level.upper())
    writer.start()
    atexit.register(writer.stop)
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
) -> None:
    """One line for one request: who asked for what, who answered, how it ended and how long it took, no payloads."""
    if _access.isEnabledFor(logging.INFO):
        fields = {
            "request_id": request_id,
            "protocol": protocol,
            "model": model,
            "stack": stack,
            "endpoint": endpoint,
            "cause": None if cause is None else cause.value,
            "ms": round(seconds * 1e3, 3),
        }
        _access.info("request", extra={"fields": fields})
