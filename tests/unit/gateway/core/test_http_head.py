"""Which messages may be taken for a repetition of the last one."""

from __future__ import annotations

import pytest

from gateway.core.http_head import repeatable

HEAD = b"POST /m HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
LENGTH = [(b"Content-Length", b"5")]


def test_the_same_head_with_as_long_a_body_is_a_repetition() -> None:
    """Whatever the body is."""
    last = repeatable(HEAD + b"12345", LENGTH, b"12345", "made")
    assert last is not None
    assert (last.body(HEAD + b"abcde"), last.made) == (b"abcde", "made")


@pytest.mark.parametrize(
    "data",
    [HEAD, HEAD + b"1234", HEAD + b"123456", HEAD + b"12345" + HEAD, HEAD.replace(b"/m", b"/n") + b"12345", b""],
)
def test_anything_else_is_none(data: bytes) -> None:
    """Parts of a message, more than one, and another one."""
    last = repeatable(HEAD + b"12345", LENGTH, b"12345", "made")
    assert last is not None
    assert last.body(data) is None


@pytest.mark.parametrize(
    ("data", "headers", "body"),
    [
        (HEAD + b"12345" + HEAD + b"12345", LENGTH, b"12345"),
        (HEAD + b"12345\r\n", LENGTH, b"12345"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"12345", LENGTH, b"12345"),
        (b"POST / HTTP/1.1\r\n\r\n5\r\n12345\r\n0\r\n\r\n", [(b"Transfer-Encoding", b"chunked")], b"12345"),
        (HEAD + b"12345", [], b"12345"),
        (HEAD + b"12345", [*LENGTH, *LENGTH], b"12345"),
        (HEAD + b"12345", [(b"content-length", b"05")], b"12345"),
        (HEAD.replace(b"\r\n", b"\n") + b"12345", LENGTH, b"12345"),
        (b"12345", LENGTH, b"12345"),
        (b"45", LENGTH, b"12345"),
    ],
)
def test_what_was_not_one_whole_message_is_not_kept(
    data: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Several, parts, interim replies, chunks, lengths that are not plain."""
    assert repeatable(data, headers, body, None) is None
