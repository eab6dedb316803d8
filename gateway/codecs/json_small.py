"""A short JSON text into the document that `json_document` makes of it, at a fraction of the price.

Most requests are a row or a few, for which the strict reading's own steps cost more than the parsing. orjson reads such
a text in one call, but takes what may not be taken. So a few counts over the text have to prove that nothing of this
kind is in it; where they cannot, or where what was read is refused later, the strict reading decides, and words it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
from numpy import frombuffer
from orjson import JSONDecodeError, loads

from gateway.codecs.json_array import JsonArray
from gateway.core.tensor import NUMPY_DTYPE, NDArray

# Above it the strict reading, which makes no Python object of a number, is the faster one. No limit on the count of
# keys or objects can be reached in so few bytes.
MAX_BYTES = 4096
# Brackets of both kinds: with so few of them nothing is nested deeper than `json_document.MAX_DEPTH`.
_MAX_BRACKETS = 32
# What a value outside arrays may be. Not a float: an integer beyond 64 bits has become one.
_PLAIN = frozenset({str, int, bool, type(None)})
# Datatype -> struct's code. It packs what numpy would cast: the nearest FP32 of a double, ties to even.
_CODES = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
# A model's input has few shapes, or only another count of rows.
_MAX_LAYOUTS = 128
# To look for a byte by its number takes a fifth of the time.
_BACKSLASH, _BRACE, _BRACKET, _COLON = b"\\{[:"
# It is in both true and false, and in few numbers.
LETTER = ord("e")


# Datatype -> shape, or the length of a single row -> what packs that many numbers, and the dtype as which the bytes are
# read back in shape. The packer raises struct.error or OverflowError for what is no number of the datatype, or does not
# fit.
Layout = tuple[Callable[..., bytes], np.dtype[Any]]
LAYOUTS: dict[str, dict[int | tuple[int, ...], Layout]] = {datatype: {} for datatype in _CODES}
# Lists of no or of other lengths, no layout, what is no JSON or no list; and what a packer raises.
NO_NUMBERS = (IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error)


class SmallArray(JsonArray):
    """An array whose elements are Python objects already. With `words` some of them may be true or false."""

    __slots__ = ("_items", "_words")

    def __init__(self, items: list[Any], words: bool) -> None:
        self._items = items
        self._words = words

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the first lists."""
        lengths = []
        first: Any = self._items
        while type(first) is list:
            lengths.append(len(first))
            first = first[0] if first else None
        return tuple(lengths)

    def numbers(self, wide: np.dtype[Any]) -> NDArray | None:
        """As JsonArray has it."""
        # numpy counts booleans as numbers.
        if self._words:
            return None
        try:
            array = np.array(self._items)
        except ValueError:
            # Ragged.
            return None
        # Without a dtype given it finds one that keeps what was written: strings, null and objects are no numbers,
        # and integers beyond 64 bits, which are floats here, no integers. Integers are read as floats where asked.
        if array.dtype is not wide:
            if wide.kind != "f" or array.dtype.kind not in "iu":
                return None
            return array.astype(wide)
        return array

    def packed(self, datatype: str) -> NDArray | None:
        """All numbers as a read-only array of `datatype` in the shape of the lists, each of them in its range.

        None where that is not certain, for what `numbers` refuses too, and for datatypes that struct does not know.
        """
        # struct counts booleans as numbers too.
        if self._words:
            return None
        items = self._items
        key: int | tuple[int, ...]
        try:
            row = items[0]
            if type(row) is not list:
                row, key = items, (len(items),)
            elif len(items) == 1 and type(row[0]) is not list:
                key = len(row)
            else:
                row, key = _flattened(items)
            packer, dtype = LAYOUTS[datatype].get(key) or _layout(datatype, key)
            # Refused are strings, null, lists and objects among the numbers; fractions and exponents for integers; and
            # what is out of range. What is infinite as a double, which would pass, orjson has refused.
            return frombuffer(packer(*row), dtype)
        except NO_NUMBERS:
            return None

    def as_list(self) -> list[Any]:
        """As it was read."""
        return self._items


def small_value(body: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The value that `body` is, arrays that do not begin with an object as SmallArray; None if that is not certain."""
    # An escape may hide a NUL in a key, or half of a surrogate pair.
    if len(body) > MAX_BYTES or _BACKSLASH in body:
        return None
    objects = 0
    # With all of them among the first so many bytes there are no more.
    if _BRACE in body or _BRACKET in body[_MAX_BRACKETS:]:
        objects = body.count(b"{")
        if objects + body.count(b"[") > _MAX_BRACKETS:
            return None
    try:
        value = loads(body)
    except JSONDecodeError:
        return None
    words = LETTER in body and has_words(body)
    if type(value) is list:
        if not objects:
            return None if _COLON in body else SmallArray(value, words)
        holder = {"": value}
        # Neither the holder nor its member is in the text.
        return holder[""] if _counted(holder, words) - 2 == objects + body.count(b":") else None
    # A key given twice leaves one member for two colons. Colons in strings, and what was not looked into, only make
    # the text's count larger: where both are equal, every object was seen with all of its members.
    return value if type(value) is dict and _counted(value, words) == objects + body.count(b":") else None


def has_words(body: bytes) -> bool:
    """Whether true or false is somewhere in a text, be it in a string."""
    return body.find(b"true") >= 0 or body.find(b"false") >= 0


def _layout(datatype: str, key: int | tuple[int, ...]) -> Layout:
    """What LAYOUTS has from now on under a key."""
    shape = (1, key) if isinstance(key, int) else key
    packer = struct.Struct(f"<{math.prod(shape)}{_CODES[datatype]}").pack
    # An array of rows: numpy finds the number of them.
    layout = packer, np.dtype((NUMPY_DTYPE[datatype], shape[1:]))
    known = LAYOUTS[datatype]
    if len(known) >= _MAX_LAYOUTS:
        known.clear()
    known[key] = layout
    return layout


def _flattened(level: list[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The leaves of lists that begin with a list, and their shape; raises IndexError or ValueError where irregular.

    Only lengths are compared: of a string or object beside lists the leaves are strings.
    """
    shape: tuple[int, ...] = (len(level),)
    while type(level[0]) is list:
        (length,) = set(map(len, level))
        shape += (length,)
        level = list(chain.from_iterable(level))
    return level, shape


def _counted(members: dict[str, Any], words: bool) -> int:
    """Objects and members found from here on, of plain values only; lists without objects have become arrays."""
    count = 1 + len(members)
    for key, value in members.items():
        kind = type(value)
        if kind is list:
            if value and type(value[0]) is dict:
                count += _counted_items(value, words)
            else:
                members[key] = SmallArray(value, words)
        elif kind is dict:
            count += _counted(value, words)
        elif kind not in _PLAIN:
            return -1
    return count


def _counted_items(items: list[Any], words: bool) -> int:
    """The same of a list that begins with an object."""
    count = 0
    for item in items:
        if type(item) is not dict:
            # A mixture, whatever it is for.
            return -1
        count += _counted(item, words)
    return count
