"""How TensorFlow Serving turns JSON values into tensors, and how it writes numbers (util/json_tensor.cc).

The dtype comes from the signature alone, the shape from the nesting along first elements. A uniform nest of numbers is
converted at once; whatever is odd about a value is found by walking it, in TensorFlow Serving's order and words.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from itertools import chain
from typing import Any

import numpy as np
from grpc import StatusCode
from tensorflow.core.framework import types_pb2

from serving.tfserving.savedmodel_server import rapidjson
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.rapidjson import Json
from serving.tfserving.savedmodel_server.tensors import DATA_TYPES, MAX_RANK, NDArray, word_of

# Values echoed in an error are cut here.
MAX_ECHO = 256

_FLOATS = {types_pb2.DT_FLOAT: (2**24 - 1, float(np.finfo(np.float32).max)), types_pb2.DT_DOUBLE: (2**53 - 1, math.inf)}
# The 8 and 16 bit types travel as int32, and are cast without a look at their own range.
_INT32 = (-(2**31), 2**31 - 1)
_INTEGERS = {
    types_pb2.DT_INT32: _INT32,
    types_pb2.DT_INT16: _INT32,
    types_pb2.DT_INT8: _INT32,
    types_pb2.DT_UINT8: _INT32,
    types_pb2.DT_INT64: (-(2**63), 2**63 - 1),
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, 2**64 - 1),
}
# What RapidJSON holds as an integer; a whole number outside is a double to it.
_WHOLE = (-(2**63), 2**64 - 1)
_WORDS = {type(None): "Null", dict: "Object", list: "Array", str: "String"}


def tensor(value: Json, dtype: int) -> NDArray:
    """The tensor of one JSON value; raises INVALID_ARGUMENT, or UNIMPLEMENTED for a dtype that JSON cannot carry."""
    shape = shape_of(value)
    if len(shape) > MAX_RANK:
        raise invalid(f"Encountered {len(shape)} levels of lists; a tensor has at most {MAX_RANK} dimensions")
    array = uniform(value, shape, dtype)
    if array is not None:
        return array
    leaves: list[Any] = []
    _walk(value, 0, shape, dtype, leaves)
    if dtype in _FLOATS:
        return np.array(leaves, np.float64).astype(DATA_TYPES[dtype].dtype).reshape(shape)
    if dtype in _INTEGERS:
        stored = np.uint64 if dtype == types_pb2.DT_UINT64 else np.int64
        return np.array(leaves, stored).astype(DATA_TYPES[dtype].dtype).reshape(shape)
    flat = np.empty(len(leaves), DATA_TYPES[dtype].dtype if dtype in DATA_TYPES else np.float32)
    flat[:] = leaves
    return flat.reshape(shape)


def shape_of(value: Json) -> tuple[int, ...]:
    """The shape that a value's first elements have."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def uniform(value: Json, shape: tuple[int, ...], dtype: int) -> NDArray | None:
    """The tensor of a regular nest of plain numbers or booleans; None where anything needs a closer look."""
    flat: list[Any] = [value]
    for level, size in enumerate(shape):
        if level == MAX_RANK or set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
            return None
        flat = list(chain.from_iterable(flat))
    if not flat:
        # One array for all: millions of empty rows, each with an array of its own, would cost gigabytes.
        return np.empty(shape, DATA_TYPES[dtype].dtype) if dtype in DATA_TYPES else None
    kinds = set(map(type, flat))
    if dtype in _FLOATS:
        return _uniform_floats(flat, shape, kinds, dtype)
    if dtype in _INTEGERS and kinds == {int}:
        low, high = _INTEGERS[dtype]
        if low <= min(flat) and max(flat) <= high:
            stored = np.uint64 if dtype == types_pb2.DT_UINT64 else np.int64
            return np.array(flat, stored).astype(DATA_TYPES[dtype].dtype).reshape(shape)
    if dtype == types_pb2.DT_BOOL and kinds == {bool}:
        return np.array(flat, np.bool_).reshape(shape)
    return None


def is_base64(value: Json) -> bool:
    """An object of the one key `b64` with a string stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def type_word(value: Json) -> str:
    """RapidJSON's word for the type of a value, such as `Null` or `True`."""
    return str(value) if isinstance(value, bool) else _WORDS.get(type(value), "Number")


def echo(value: Json) -> str:
    """A value as an error text shows it, cut at about 256 characters."""
    if isinstance(value, float):
        return decimal(value, types_pb2.DT_DOUBLE)
    text = ""
    for piece in json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(value):
        text += piece
        if len(text) >= MAX_ECHO:
            break
    return text[:MAX_ECHO].encode("utf-8", "replace").decode()


def decimal(value: float, dtype: int) -> str:
    """A number as TensorFlow Serving writes it: six digits where they are exact, else all that the dtype has."""
    return decimals(np.array([value], DATA_TYPES[dtype].dtype))[0]


def decimals(flat: NDArray) -> list[str]:
    """The numbers of a flat float32 or float64 array, as TensorFlow Serving writes them."""
    values = flat.tolist()
    short = ("%g " * len(values) % tuple(values)).split()
    digits = "%.9g" if flat.dtype == np.float32 else "%.17g"
    exact = np.array(short, np.float64).astype(flat.dtype) == flat
    texts = [text if same else digits % value for text, same, value in zip(short, exact.tolist(), values, strict=True)]
    return [text if "." in text or "e" in text else _finished(text) for text in texts]


def _finished(text: str) -> str:
    match text:
        case "nan" | "-nan":
            return "NaN"
        case "inf":
            return "Infinity"
        case "-inf":
            return "-Infinity"
    return text + ".0"


def _uniform_floats(flat: list[Any], shape: tuple[int, ...], kinds: set[type], dtype: int) -> NDArray | None:
    if not kinds <= {int, float}:
        return None
    try:
        wide = np.array(flat, np.float64)
    except OverflowError:
        return None
    whole, largest = _FLOATS[dtype]
    # A number may be too big even for a double (1e999), a whole number may be inexact: a closer look will tell.
    reach = float(np.abs(wide).max())
    if reach > (whole if int in kinds else largest) or math.isinf(reach):
        return None
    return wide.astype(DATA_TYPES[dtype].dtype).reshape(shape)


def _walk(value: Json, level: int, shape: tuple[int, ...], dtype: int, leaves: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {echo(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for item in value:
        _walk(item, level + 1, shape, dtype, leaves)


def _leaf(value: Json, dtype: int) -> Any:  # noqa: ANN401 - bytes, bool, int or float
    if isinstance(value, dict):
        if dtype != types_pb2.DT_STRING:
            raise _wrong_type(value, dtype)
        return from_base64(value)
    if dtype in _FLOATS:
        return float_leaf(value, dtype)
    if dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        if type(value) is not int or not low <= value <= high:
            raise _wrong_type(value, dtype)
        return value
    if dtype == types_pb2.DT_STRING:
        if not isinstance(value, str):
            raise _wrong_type(value, dtype)
        return rapidjson.to_bytes(value)
    if dtype == types_pb2.DT_BOOL:
        if not isinstance(value, bool):
            raise _wrong_type(value, dtype)
        return value
    raise ServingError(StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {echo(value)} to type: {word_of(dtype)}")


def float_leaf(value: Json, dtype: int) -> float:
    """A JSON number as a float of this dtype; raises INVALID_ARGUMENT for what is none, or would lose precision."""
    if isinstance(value, rapidjson.NonFinite):
        return value
    if type(value) not in (int, float):
        raise _wrong_type(value, dtype)
    whole, largest = _FLOATS[dtype]
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise invalid("JSON Parse error: Number too big to be stored in double.")
    held_as_integer = type(value) is int and _WHOLE[0] <= value <= _WHOLE[1]
    if abs(value) > (whole if held_as_integer else largest):
        raise invalid(f"Cannot convert JSON value: {echo(value)} to {word_of(dtype)} without loss of precision.")
    return number


def _wrong_type(value: Json, dtype: int) -> ServingError:
    return invalid(f"JSON Value: {echo(value)} Type: {type_word(value)} is not of expected type: {word_of(dtype)}")


def from_base64(value: dict[str, Json]) -> bytes:
    """The bytes of a `{"b64": text}`; raises INVALID_ARGUMENT."""
    if not is_base64(value):
        raise invalid(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    # Like absl::Base64Unescape: white space is skipped and padding may be missing.
    digits = "".join(value["b64"].split()).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid("Unable to base64 decode") from exc
