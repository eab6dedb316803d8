"""JSON logs."""

from __future__ import annotations

import io
import json
import logging
import queue
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.errors import Cause
from gateway.telemetry.logging import MAX_WAITING_LINES, BoundedHandler, JsonFormatter, configure, log_access


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before the test."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(message: str = "hello", **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "gateway.test", "levelno": logging.INFO, "levelname": "INFO", "msg": message, "created": 0.5, **fields}
    )


def test_a_line_is_one_json_object() -> None:
    """Time in UTC, level, logger, message and the record's own fields."""
    line = json.loads(JsonFormatter().format(record(fields={"request_id": "a"})))
    assert line == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "logger": "gateway.test",
        "message": "hello",
        "request_id": "a",
    }


def test_nothing_in_a_message_can_end_the_line() -> None:
    """Line ends, terminal codes and lone surrogates stay inside the JSON string."""
    line = JsonFormatter().format(record("a\nb\x1b[31m \ud800"))
    assert "\n" not in line
    assert "\x1b" not in line
    assert "a" in json.loads(line)["message"]


def test_an_exception_comes_with_its_traceback() -> None:
    """A bug can be found from the log alone."""
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError as exc:
        line = json.loads(JsonFormatter().format(record(exc_info=(type(exc), exc, exc.__traceback__))))
    assert "ZeroDivisionError: no" in line["traceback"]


def test_configured_logs_are_written_from_the_level_on(root: logging.Logger) -> None:
    """Stopping the writer writes what is queued, and may be done twice."""
    stream = io.StringIO()
    writer = configure("info", stream)
    logging.getLogger("gateway.test").debug("too quiet")
    logging.getLogger("gateway.test").warning("loud")
    log_access(
        request_id="r", protocol="predict", model="digits", stack="tfserving", endpoint="tf", cause=None, seconds=0.0123
    )
    log_access(
        request_id="s", protocol="oip-grpc", model="", stack="", endpoint="", cause=Cause.DEADLINE, seconds=1
    )
    writer.stop()
    writer.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["loud", "request", "request"]
    assert {key: lines[1][key] for key in ("request_id", "protocol", "model", "stack", "endpoint", "cause", "ms")} == {
        "request_id": "r",
        "protocol": "predict",
        "model": "digits",
        "stack": "tfserving",
        "endpoint": "tf",
        "cause": None,
        "ms": 12.3,
    }
    assert lines[2]["cause"] == "deadline"


def test_a_log_that_is_not_written_drops_lines_and_says_so() -> None:
    """The queue is bounded; the first line that fits again is preceded by the number lost."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = BoundedHandler(lines)
    for _ in range(MAX_WAITING_LINES + 3):
        handler.emit(record())
    assert lines.qsize() == MAX_WAITING_LINES
    while not lines.empty():
        lines.get()
    handler.emit(record("back"))
    assert lines.get().getMessage() == "3 log lines were dropped: the log could not be written in time"
    assert lines.get().getMessage() == "back"
