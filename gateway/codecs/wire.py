"""A look at a protobuf message's bytes before it is parsed: how many fields, and how large.

Parsing makes objects of everything that a message holds, up to thirty times its size for millions of empty ones. What
no request can need is refused first, at the cost of a few steps for each field up to the first limit.
Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.core.errors import Cause, GatewayError

# Of one message, however large: a few megabytes hold millions of empty ones.
MAX_FIELDS = 4096

# Field number -> the same of the message that the field is.
Tree = Mapping[int, "Tree"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_MOST_VARINT_BYTES = 10


def check_counts(data: bytes | memoryview, most: int, what: str) -> None:
    """Raises INVALID_INPUT where the message has more than `most` fields, UNPARSEABLE where the bytes are none.

    `what` names the message.
    """
    for count, _ in enumerate(fields(data, what), 1):
        if count > most:
            raise GatewayError(Cause.INVALID_INPUT, f"{what}: more than {most} fields in one message")


def check_tree(data: bytes | memoryview, most: int, what: str, tree: Tree) -> None:
    """The same, counting the fields of the messages below that `tree` leads to as well, all together."""
    _check_tree(data, most, what, tree, most)


def _check_tree(data: bytes | memoryview, most: int, what: str, tree: Tree, left: int) -> int:
    for number, content in fields(data, what):
        left -= 1
        if left < 0:
            raise GatewayError(Cause.INVALID_INPUT, f"{what}: more than {most} fields in one message")
        if number in tree:
            left = _check_tree(content, most, what, tree[number], left)
    return left


def check_sizes(data: memoryview, limits: Mapping[int, int], what: str) -> None:
    """Raises INVALID_INPUT where all the contents of field `number` together exceed `limits[number]` bytes."""
    sizes: dict[int, int] = {}
    for number, content in fields(data, what):
        if number in limits:
            # An element that is not packed costs as much as eight packed ones.
            sizes[number] = sizes.get(number, 0) + max(len(content), 8)
            if sizes[number] > limits[number]:
                raise GatewayError(
                    Cause.INVALID_INPUT,
                    f"{what}: field {number} is larger than {limits[number]} bytes; use raw contents",
                )


def fields(data: bytes | memoryview, what: str) -> Iterator[tuple[int, memoryview]]:
    """Field numbers and contents (empty for a varint), in order; raises UNPARSEABLE where the bytes are no message."""
    view = memoryview(data)
    offset, end = 0, len(view)
    while offset < end:
        tag, offset = _varint(view, offset, what)
        kind = tag & 7
        if kind == _VARINT:
            _, offset = _varint(view, offset, what)
            yield tag >> 3, view[:0]
            continue
        if kind == _BYTES:
            size, offset = _varint(view, offset, what)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise _no_message(what)
        if size > end - offset:
            raise _no_message(what)
        yield tag >> 3, view[offset : offset + size]
        offset += size


def varint(value: int) -> bytes:
    """A number that is not negative, as protobuf writes it."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _varint(view: memoryview, offset: int, what: str) -> tuple[int, int]:
    value = 0
    for place in range(_MOST_VARINT_BYTES):
        if offset >= len(view):
            break
        byte = view[offset]
        offset += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, offset
    raise _no_message(what)


def _no_message(what: str) -> GatewayError:
    return GatewayError(Cause.UNPARSEABLE, f"the message is not a {what}")
