"""Heads that a peer repeats: on a kept connection most messages begin with the very bytes of the last one.

What a parser made of those bytes it would make of them again (RFC 9112, section 2.2), so that it need not be asked.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
_END = b"\r\n\r\n"
_LENGTH = b"content-length"
# Each connection keeps one, whether or not another message comes.
_MOST = 4096


class Repeated(Generic[T]):
    """The head of a message that came whole, in one piece, with its length; and what was made of it."""

    __slots__ = ("_head", "_size", "made")

    def __init__(self, head: bytes, size: int, made: T) -> None:
        self._head = head
        self._size = size
        self.made = made

    def body(self, data: bytes) -> bytes | None:
        """The body of the message that `data` is, where its head is this one and it is as long; None for all else."""
        if len(data) != self._size or not data.startswith(self._head):
            return None
        return data[len(self._head) :]


def repeatable(data: bytes, headers: list[tuple[bytes, bytes]], body: bytes, made: T) -> Repeated[T] | None:
    """What may come again of a message with this body, which `data` began with; None where that is more or less than
    the message, it did not say its length, or its head is a long one."""
    size = len(data) - len(body)
    if not len(_END) <= size <= _MOST or data.find(_END) != size - len(_END) or not data.endswith(body):
        return None
    lengths = [value for name, value in headers if name.lower() == _LENGTH]
    return Repeated(data[:size], len(data), made) if lengths == [b"%d" % len(body)] else None
