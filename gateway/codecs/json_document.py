"""JSON text into a document: small parts as Python objects, arrays left inside simdjson until a tensor is made of them.

simdjson hands out an array of any depth as one flat buffer of numbers, which hides whether its lists are of equal
length. Few lists are asked for their lengths one by one. For many, what is left of the text without its values, its
skeleton, shows it at the speed of `bytes.translate`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import simdjson

from gateway.codecs.fields import shown
from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_small import small_value
from gateway.core.errors import Cause, GatewayError
from gateway.core.tensor import NDArray

JsonObject = dict[str, Any]
JsonValue = JsonArray | list[Any] | JsonObject | str | int | float | bool | None

T = TypeVar("T")

# Containers inside each other, the outermost object included; no model's tensor comes near it.
MAX_DEPTH = 32
# Names of inputs, parameters and fields: more of them in one object is no inference request.
MAX_KEYS = 1024
# The same for all objects of a body together; a thousand tensors have less.
MAX_DOCUMENT_KEYS = 8192
# Items of all lists that begin with an object, such as rows of inputs by name: each becomes a Python object.
MAX_ITEMS = 8192
# Text that only Python's slower parser can judge holds the event loop: about 0.2 s at this size.
_MAX_SECOND_OPINION = 1 << 20
# A second parser says where a text breaks off, but only for texts that it reads in no time.
_MAX_LOCATED = 65_536
_BOM = b"\xef\xbb\xbf"
# So many lists are looked at one by one in any text, and one more for each so many bytes: from there on the skeleton,
# which costs the same for each byte, is cheaper.
_FEW_LISTS = 8
_BYTES_PER_LIST = 256
# numpy's kind of a wide number -> simdjson's word for it.
_BUFFER_KIND: dict[str, Literal["d", "i", "u"]] = {"f": "d", "i": "i", "u": "u"}
_STRUCTURE = b'[]{},:"'
_REST = bytes(set(range(256)) - set(_STRUCTURE))
# What simdjson refuses although it may be JSON: numbers beyond 64 bits or a double, and halves of surrogate pairs.
_PERHAPS_JSON = ("NUMBER_ERROR", "BIGINT_ERROR", "STRING_ERROR")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class ParsedArray(JsonArray):
    """An array whose elements are not Python objects yet.

    `shape` follows first elements; only where `regular` is true is it the shape of the whole array.
    """

    __slots__ = ("_document", "_proxy", "_shape")

    def __init__(self, document: _Document, proxy: simdjson.Array, shape: tuple[int, ...]) -> None:
        self._document = document
        self._proxy = proxy
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the first lists."""
        return self._shape

    @property
    def regular(self) -> bool:
        """Whether every list is known to be as long as its siblings; false where that could not be told cheaply.

        Lists of no and of one value may look alike here: the count of numbers tells them apart.
        """
        return self._document.regular

    def numbers(self, wide: np.dtype[Any]) -> NDArray | None:
        """As JsonArray has it, copied out of the parser."""
        if not self.regular:
            return None
        try:
            flat = np.frombuffer(self._proxy.as_buffer(of_type=_BUFFER_KIND[wide.kind]), wide)
        except (TypeError, ValueError):
            # One is of another kind, or does not fit.
            return None
        return flat.reshape(self._shape) if flat.size == math.prod(self._shape) else None

    def as_list(self) -> list[Any]:
        """The array as nested Python lists."""
        return self._proxy.as_list()


class _Document:
    """One parse: turns simdjson's proxies into values, noting the lists that the text has if arrays are regular."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        # The text's structure in order: pieces of its skeleton, and shapes in place of arrays.
        self._layout: list[bytes | tuple[int, ...]] = []
        self._arrays: list[tuple[simdjson.Array, tuple[int, ...]]] = []
        self._lists = 0
        self._keys = 0
        self._items_seen = 0
        self._regular: bool | None = None

    @property
    def regular(self) -> bool:
        """Whether all arrays have the shapes of their first elements, found out once, when first asked."""
        if self._regular is None:
            few = self._lists <= max(_FEW_LISTS, len(self._body) // _BYTES_PER_LIST)
            self._regular = self._lists_agree() if few else self._skeleton_agrees()
            self._layout.clear()
            self._arrays.clear()
        return self._regular

    def value(self, value: JsonValue | simdjson.Array | simdjson.Object, depth: int = 1) -> JsonValue:
        """`value` without proxies but those inside a ParsedArray; raises UNPARSEABLE for depth and repeated keys."""
        if isinstance(value, simdjson.Object):
            return self._object(value, depth)
        if isinstance(value, simdjson.Array):
            return self._array(value, depth)
        return value

    def _object(self, proxy: simdjson.Object, depth: int) -> JsonObject:
        _check_depth(depth)
        count = len(proxy)
        _check_keys(count)
        # simdjson finds a key by reading all keys before it: many large objects would cost the square of their keys.
        self._keys += count
        if self._keys > MAX_DOCUMENT_KEYS:
            raise GatewayError(Cause.INVALID_INPUT, f"the body has more than {MAX_DOCUMENT_KEYS} keys")
        members: JsonObject = {}
        layout = self._layout
        separator = b"{:"
        # Not `items()`, which makes Python objects of whole arrays.
        for key in proxy:
            if key in members or "\0" in key:
                _refuse_key(key, members)
            layout.append(separator)
            separator = b",:"
            members[key] = self.value(proxy[key], depth + 1)
        layout.append(b"}" if members else b"{}")
        return members

    def _array(self, proxy: simdjson.Array, depth: int) -> JsonArray | list[Any]:
        lengths: list[int] = []
        lists, siblings = 0, 1
        first: Any = proxy
        while isinstance(first, simdjson.Array):
            _check_depth(depth + len(lengths))
            lengths.append(len(first))
            lists += siblings
            siblings *= lengths[-1]
            first = first[0] if siblings else None
        if isinstance(first, simdjson.Object):
            return self._items(proxy, depth)
        shape = tuple(lengths)
        self._lists += lists
        self._layout.append(shape)
        self._arrays.append((proxy, shape))
        return ParsedArray(self, proxy, shape)

    def _items(self, proxy: simdjson.Array, depth: int) -> list[Any]:
        self._items_seen += len(proxy)
        if self._items_seen > MAX_ITEMS:
            raise too_many_items()
        self._lists += 1
        items = []
        separator = b"["
        for item in proxy:
            self._layout.append(separator)
            separator = b","
            items.append(self.value(item, depth + 1))
        self._layout.append(b"]")
        return items

    def _lists_agree(self) -> bool:
        """Every list is as long as its first sibling, and the text has no others: no more opening brackets."""
        found = -1
        for _ in range(self._lists + 1):
            found = self._body.find(b"[", found + 1)
            if found < 0:
                return all(_alike(proxy, shape) for proxy, shape in self._arrays if len(shape) > 1)
        return False

    def _skeleton_agrees(self) -> bool:
        # First elements may promise more than the text can hold, each array for itself and all of them together:
        # nothing is built for what is not there.
        if sum(map(_layout_size, self._layout)) > len(self._body):
            return False
        return _skeleton(self._body) == b"".join(map(_layout_text, self._layout))


def _alike(proxy: simdjson.Array, shape: tuple[int, ...]) -> bool:
    """Whether the lists in an array are as long as `shape` says; what is in the innermost is not looked at."""
    for item in proxy:
        if not isinstance(item, simdjson.Array) or len(item) != shape[1]:
            return False
        if len(shape) > 2 and not _alike(item, shape[1:]):
            return False
    return True


def _layout_size(part: bytes | tuple[int, ...]) -> int:
    """The length of what `_layout_text` gives."""
    if isinstance(part, bytes):
        return len(part)
    size = 0
    for length in reversed(part):
        size = length * size + max(length - 1, 0) + 2
    return size


def _layout_text(part: bytes | tuple[int, ...]) -> bytes:
    """The skeleton of a piece of text, or of a regular array by its shape."""
    if isinstance(part, bytes):
        return part
    text = b""
    for length in reversed(part):
        text = b"[" + (text + b",") * (length - 1) + text + b"]" if length else b"[]"
    return text


def read_object(body: bytes, take: Callable[[JsonObject], T], *, nan_tokens: bool = False) -> T:
    """What `take` makes of the JSON object that `body` is; raises what `parse_object` and `take` raise.

    `take` may be called twice: short texts are read a faster way first, and whatever that is refused for is for the
    strict reading to say.
    """
    document = small_value(body)
    if type(document) is dict:
        try:
            return take(document)
        except GatewayError:
            pass
    return take(parse_object(body, nan_tokens=nan_tokens))


def read_value(body: bytes, take: Callable[[JsonValue], T]) -> T:
    """The same of a JSON value of any kind."""
    value = small_value(body)
    if value is not None:
        try:
            return take(value)
        except GatewayError:
            pass
    return take(parse_value(body))


def parse_object(body: bytes, *, nan_tokens: bool = False) -> JsonObject:
    """The JSON object that `body` is: members by name, arrays as JsonArray or as lists.

    `nan_tokens` also takes bare NaN, Infinity and -Infinity, as TF Serving writes them. Raises UNPARSEABLE where the
    body is not JSON (RFC 8259, without a byte order mark), nested too deep or repeats a key; INVALID_INPUT where it is
    JSON of another kind.
    """
    document = parse_value(body, nan_tokens=nan_tokens)
    if not isinstance(document, dict):
        raise GatewayError(Cause.INVALID_INPUT, "the body is JSON, but not an object; expected {...}")
    return document


def parse_value(body: bytes, *, nan_tokens: bool = False) -> JsonValue:
    """The JSON value of any kind that `body` is; raises UNPARSEABLE as `parse_object` does."""
    if not body:
        raise GatewayError(Cause.UNPARSEABLE, "the body is empty; expected a JSON object")
    if body.startswith(_BOM):
        raise GatewayError(Cause.UNPARSEABLE, "the body begins with a byte order mark; expected JSON in UTF-8 without")
    try:
        root = simdjson.Parser().parse(body)
    except (ValueError, RuntimeError) as exc:
        return _second_opinion(body, str(exc), nan_tokens)
    return _Document(body).value(root)


def plain(value: JsonValue) -> Any:  # noqa: ANN401 - whatever JSON holds
    """`value` as Python objects throughout."""
    if isinstance(value, JsonArray):
        return value.as_list()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _second_opinion(body: bytes, reason: str, nan_tokens: bool) -> JsonValue:
    """What Python's parser makes of a text that simdjson refused; raises UNPARSEABLE where it agrees."""
    perhaps = reason.startswith(_PERHAPS_JSON) and len(body) <= _MAX_SECOND_OPINION
    if not (nan_tokens or perhaps or len(body) <= _MAX_LOCATED):
        raise _not_json(reason.partition(": ")[2] or reason)
    try:
        text = body.decode()
        document: JsonValue = json.loads(
            text, parse_constant=None if nan_tokens else _refuse_constant, object_pairs_hook=unique_members
        )
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as exc:
        raise _not_json(f"it is not UTF-8 at byte {exc.start}") from None
    except json.JSONDecodeError as exc:
        raise _not_json(str(exc)) from None
    except ValueError:  # Python refuses integers of thousands of digits
        raise _not_json("it holds a number that nothing can represent") from None
    if SURROGATE.search(text):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise GatewayError(
                Cause.INVALID_INPUT, "a string holds half of a surrogate pair; expected whole Unicode characters"
            ) from None
    return document


def _skeleton(body: bytes) -> bytes | None:
    """The text's brackets, braces, commas and colons; None where a string might hold some of them."""
    if b"\\" in body:
        return None
    structure = body.translate(None, _REST)
    # Without escapes, quotes only delimit strings, and a string without structure in it has become `""`. Between two
    # strings there is always a comma, a colon or a bracket, so that no other two quotes can meet.
    if structure.count(b'"') != 2 * structure.count(b'""'):
        return None
    return structure.replace(b'""', b"")


def unique_members(pairs: list[tuple[str, Any]]) -> JsonObject:
    """An object of Python's parser; raises UNPARSEABLE for a key that comes twice, INVALID_INPUT for too many."""
    _check_keys(len(pairs))
    members: JsonObject = {}
    for key, value in pairs:
        if key in members or "\0" in key:
            _refuse_key(key, members)
        members[key] = value
    return members


def _refuse_constant(token: str) -> NoReturn:
    raise _not_json(f"it holds the bare token {token}, which JSON does not have")


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep()


def _check_keys(count: int) -> None:
    if count > MAX_KEYS:
        raise GatewayError(Cause.INVALID_INPUT, f"an object has {count} keys; at most {MAX_KEYS} are supported")


def _refuse_key(key: str, members: JsonObject) -> NoReturn:
    if key in members:
        raise GatewayError(Cause.UNPARSEABLE, f"key '{shown(key)}' is given twice in one object")
    # simdjson looks keys up as C strings, and would give the value of another.
    raise GatewayError(Cause.INVALID_INPUT, "a key holds the character NUL; expected a name")


def too_many_items() -> GatewayError:
    """The error for more objects in lists than are taken."""
    return GatewayError(
        Cause.INVALID_INPUT,
        f"the body has more than {MAX_ITEMS} objects in lists; send rows as nested lists of numbers",
    )


def _too_deep() -> GatewayError:
    return GatewayError(Cause.UNPARSEABLE, f"the body is nested deeper than {MAX_DEPTH} levels")


def _not_json(reason: str) -> GatewayError:
    return GatewayError(Cause.UNPARSEABLE, f"the body is not JSON: {reason}")
