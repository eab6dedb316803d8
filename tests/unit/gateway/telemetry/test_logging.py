"""JSON logs."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.errors import Cause
from gateway.telemetry.logging import (
    ATOMIC_CHARACTERS,
    MAX_WAITING_LINES,
    Access,
    JsonFormatter,
    LogWriter,
    configure,
    log_access,
)


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


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_configured_logs_are_written_from_the_level_on(root: logging.Logger) -> None:
    """Closing the writer writes what is waiting, and may be done twice."""
    stream = io.StringIO()
    writer = configure("info", stream)
    logging.getLogger("gateway.test").debug("too quiet")
    logging.getLogger("gateway.test").warning("loud %d", 1)
    log_access(
        request_id="r", protocol="predict", model="digits", stack="tfserving", endpoint="tf", cause=None, seconds=0.0123
    )
    log_access(request_id="s", protocol="oip-grpc", model="", stack="", endpoint="", cause=Cause.DEADLINE, seconds=1)
    writer.close()
    writer.close()
    lines = lines_of(stream)
    assert [line["message"] for line in lines] == ["loud 1", "request", "request"]
    assert {key: value for key, value in lines[1].items() if key != "time"} == {
        "level": "info",
        "logger": "gateway.access",
        "message": "request",
        "request_id": "r",
        "protocol": "predict",
        "model": "digits",
        "stack": "tfserving",
        "endpoint": "tf",
        "cause": None,
        "ms": 12.3,
    }
    assert lines[2]["cause"] == "deadline"


@pytest.mark.parametrize("always", [{}, {"worker": 3}])
@pytest.mark.parametrize("model", ["digits", 'a"b\n', "\ud800"])
def test_a_requests_line_is_as_any_other_records(always: dict[str, Any], model: str) -> None:
    """It only takes a shorter way, with what every line of a worker bears."""
    access = Access(1.5, "r", "predict", model, "tfserving", "tf", Cause.DEADLINE, 0.0123456)
    whole = record("request", name="gateway.access", created=1.5, fields=access.fields())
    assert access.line(always) == JsonFormatter(always).format(whole)


def test_quiet_logs_have_no_line_for_each_request(root: logging.Logger) -> None:
    """Above info the access log is off."""
    stream = io.StringIO()
    writer = configure("warning", stream)
    log_access(request_id="r", protocol="predict", model="", stack="", endpoint="", cause=None, seconds=0)
    writer.close()
    assert stream.getvalue() == ""


def test_lines_are_written_while_the_process_runs(root: logging.Logger) -> None:
    """Nobody has to close anything to read the log."""
    written = threading.Event()

    class Stream(io.StringIO):
        def flush(self) -> None:
            written.set()

    stream = Stream()
    writer = configure("info", stream)
    logging.getLogger("gateway.test").info("now")
    assert written.wait(5)
    assert lines_of(stream)[0]["message"] == "now"
    writer.close()


def test_a_log_that_is_not_written_drops_lines_and_says_so() -> None:
    """What waits is bounded, and the number lost is told."""
    stream = io.StringIO()
    writer = LogWriter(stream)
    for _ in range(MAX_WAITING_LINES + 3):
        writer.emit(record())
    writer.start()
    writer.close()
    lines = lines_of(stream)
    assert len(lines) == MAX_WAITING_LINES + 1
    assert lines[-1]["message"] == "3 log lines were dropped: the log could not be written in time"


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """A full disk or a closed stream costs the lines, not the gateway."""
    stream = io.StringIO()
    stream.close()
    writer = LogWriter(stream)
    writer.emit(record())
    writer.start()
    writer.close()


def test_the_lines_of_one_of_several_workers_are_written_a_few_at_a_time() -> None:
    """No piece is larger than what a pipe takes whole, unless one line is; every line bears the worker's number."""

    class Pieces(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return super().write(text)

    written: list[str] = []
    stream = Pieces()
    writer = LogWriter(stream, worker=3)
    for size in [100] * 200 + [2 * ATOMIC_CHARACTERS] + [100] * 200:
        writer.emit(record("x" * size))
    writer.start()
    writer.close()
    assert {line["worker"] for line in lines_of(stream)} == {3}
    assert len(lines_of(stream)) == 401
    assert sum(len(piece) > ATOMIC_CHARACTERS for piece in written) == 1
    assert all(piece.endswith("}\n") for piece in written)
