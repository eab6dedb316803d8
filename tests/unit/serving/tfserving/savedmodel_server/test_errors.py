"""The one exception, and what both doors make of it."""

from __future__ import annotations

from grpc import StatusCode

from serving.tfserving.savedmodel_server.errors import HTTP_STATUS, ServingError, invalid, of_number


def test_every_code_has_an_http_status() -> None:
    """No code is missing from the table."""
    assert set(HTTP_STATUS) == set(StatusCode)


def test_an_error_reads_as_tensorflow_serving_writes_it() -> None:
    """The code's name, then the text."""
    error = invalid("no")
    assert (str(error), error.number, error.http_status) == ("INVALID_ARGUMENT: no", 3, 400)


def test_grpc_messages_are_cut() -> None:
    """1024 bytes and a mark; short ones are whole."""
    assert ServingError(StatusCode.INTERNAL, "x" * 1024).grpc_message == "x" * 1024
    assert ServingError(StatusCode.INTERNAL, "x" * 1025).grpc_message == "x" * 1024 + "...TRUNCATED"
    assert ServingError(StatusCode.INTERNAL, "ä" * 513).grpc_message == "ä" * 512 + "...TRUNCATED"


def test_numbers_that_are_no_code_are_unknown() -> None:
    """TensorFlow's codes are the canonical ones."""
    assert of_number(5, "").code is StatusCode.NOT_FOUND
    assert of_number(99, "").code is StatusCode.UNKNOWN
