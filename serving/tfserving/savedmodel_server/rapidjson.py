"""JSON as TensorFlow Serving's parser reads it (RapidJSON 1.1.0, NaN and Inf allowed, stop after the first value).

`parse` tries Python's own scanner, which is fast; only what that refuses is scanned again here, for the values that
RapidJSON takes besides (`Inf`, `-NaN`, a byte order mark) and for its error texts and byte offsets.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from serving.tfserving.savedmodel_server.errors import ServingError, invalid

# Any value that JSON can hold; an object keeps the first of two members with the same name, as FindMember does.
Json = Any

_WHITESPACE = re.compile(rb"[ \n\r\t]*")
_DIGITS = re.compile(rb"[0-9]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_ESCAPES = {34: '"', 47: "/", 92: "\\", 98: "\b", 102: "\f", 110: "\n", 114: "\r", 116: "\t"}
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_LITERALS = {b"n": (b"null", None), b"t": (b"true", True), b"f": (b"false", False)}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class NonFinite(float):
    """A number from a token such as `NaN` or `Infinity`; an infinity of plain type is a number that was too big."""


def parse(body: bytes) -> Json:
    """The first JSON value of a body; raises INVALID_ARGUMENT with RapidJSON's text and byte offset."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        # RapidJSON does not validate UTF-8: stray bytes of a string reach the model as they are.
        text = body.decode("utf-8", "surrogateescape").lstrip(" \n\r\t")
        return _DECODER.raw_decode(text)[0]
    except ValueError:
        return diagnose(body)
    except RecursionError:
        raise too_deep() from None


def diagnose(body: bytes) -> Json:
    """As `parse`, by our own scanner, which is strict where Python's is not (1e999)."""
    try:
        return _Scanner(body).document()
    except RecursionError:
        raise too_deep() from None


def too_deep() -> ServingError:
    """The refusal of a value that would exhaust the stack; TensorFlow Serving has none, and may crash."""
    return invalid("JSON Parse error: Lists or objects are nested too deeply.")


def to_bytes(text: str) -> bytes:
    """The bytes of a parsed string; a lone surrogate, which UTF-8 has no form for, in the form RapidJSON writes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _first_wins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins, parse_constant=NonFinite)


class _Scanner:
    """A recursive scanner over bytes, in the order in which RapidJSON looks at them."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def document(self) -> Json:
        if self._body.startswith(_BYTE_ORDER_MARK):
            self._at = len(_BYTE_ORDER_MARK)
        self._skip()
        if self._peek() in (b"", b"\0"):
            raise self._error("The document is empty.")
        return self._value()

    def _value(self) -> Json:
        head = self._peek()
        if head in _LITERALS:
            return self._literal(*_LITERALS[head])
        match head:
            case b'"':
                return self._string()
            case b"[":
                return self._array()
            case b"{":
                return self._object()
        return self._number()

    def _literal(self, word: bytes, value: bool | None) -> bool | None:
        for letter in word:
            if self._body[self._at : self._at + 1] != bytes((letter,)):
                raise self._error("Invalid value.")
            self._at += 1
        return value

    def _array(self) -> list[Json]:
        self._at += 1
        self._skip()
        items: list[Json] = []
        if self._take(b"]"):
            return items
        while True:
            items.append(self._value())
            self._skip()
            if self._take(b"]"):
                return items
            if not self._take(b","):
                raise self._error("Missing a comma or ] after an array element.")
            self._skip()

    def _object(self) -> dict[str, Json]:
        self._at += 1
        self._skip()
        members: dict[str, Json] = {}
        if self._take(b"}"):
            return members
        while True:
            if self._peek() != b'"':
                raise self._error("Missing a name for object member.")
            name = self._string()
            self._skip()
            if not self._take(b":"):
                raise self._error("Missing a colon after a name of object member.")
            self._skip()
            members.setdefault(name, self._value())
            self._skip()
            if self._take(b"}"):
                return members
            if not self._take(b","):
                raise self._error("Missing a comma or } after an object member.")
            self._skip()

    def _string(self) -> str:
        self._at += 1
        parts: list[str] = []
        while True:
            parts.append(self._pass(_PLAIN).decode("utf-8", "surrogateescape"))
            head = self._peek()
            if head == b'"':
                self._at += 1
                return "".join(parts)
            if head == b"\\":
                parts.append(self._escape())
            elif head in (b"", b"\0"):
                raise self._error("Missing a closing quotation mark in string.")
            else:
                raise self._error("Invalid escape character in string.")

    def _escape(self) -> str:
        start = self._at
        letter = self._body[start + 1 : start + 2]
        self._at += 2
        if letter != b"u":
            if not letter or letter[0] not in _ESCAPES:
                raise self._error("Invalid escape character in string.", start)
            return _ESCAPES[letter[0]]
        code = self._hex(start)
        if 0xD800 <= code <= 0xDBFF:
            if self._body[self._at : self._at + 2] != b"\\u":
                raise self._error("The surrogate pair in string is invalid.", start)
            self._at += 2
            low = self._hex(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._error("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10 | (low - 0xDC00))
        return chr(code)

    def _hex(self, start: int) -> int:
        digits = _HEX.match(self._body, self._at)
        if digits is None:
            raise self._error("Incorrect hex digit after \\u escape in string.", start)
        self._at += 4
        return int(digits.group(), 16)

    def _number(self) -> int | float:
        start = self._at
        sign = -1.0 if self._take(b"-") else 1.0
        match self._peek():
            case b"N":
                self._literal(b"NaN", None)
                return NonFinite(math.nan)
            case b"I":
                self._literal(b"Inf", None)
                if self._peek() == b"i":
                    self._literal(b"inity", None)
                return NonFinite(sign * math.inf)
        whole = _NUMBER.match(self._body, start)
        if whole is None:
            raise self._error("Invalid value.")
        self._at = whole.end()
        exact = True
        if self._take(b"."):
            exact = False
            self._digits("Miss fraction part in number.")
        if self._take(b"e") or self._take(b"E"):
            exact = False
            if not self._take(b"+"):
                self._take(b"-")
            self._digits("Miss exponent in number.")
        token = self._body[start : self._at]
        # More digits than 64 bits can hold are a double there; Python's int() would be slow on millions of them.
        if exact and len(token) <= 20:
            return int(token)
        number = float(token)
        if math.isinf(number):
            raise self._error("Number too big to be stored in double.", start)
        return number

    def _digits(self, missing: str) -> None:
        if not self._pass(_DIGITS):
            raise self._error(missing)

    def _skip(self) -> None:
        self._pass(_WHITESPACE)

    def _pass(self, pattern: re.Pattern[bytes]) -> bytes:
        """Steps over what a pattern matches here, which may be nothing."""
        matched = pattern.match(self._body, self._at)
        run = matched.group() if matched else b""
        self._at += len(run)
        return run

    def _peek(self) -> bytes:
        return self._body[self._at : self._at + 1]

    def _take(self, byte: bytes) -> bool:
        if self._peek() != byte:
            return False
        self._at += 1
        return True

    def _error(self, text: str, offset: int | None = None) -> ServingError:
        return invalid(f"JSON Parse error: {text} at offset: {self._at if offset is None else offset}")
