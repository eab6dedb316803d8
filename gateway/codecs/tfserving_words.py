"""What TF Serving says of JSON that does not make a tensor (util/json_tensor.cc), without repeating a value.

Only asked once conversion has failed: the value is walked in TF Serving's order, to the first thing that is odd.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway.codecs.json_document import MAX_DEPTH
from gateway.core.messages import TensorSpec
from gateway.core.tensor import FLOAT_DATATYPES, NUMPY_DTYPE

# Datatypes for which TF Serving's JSON has no form, by TensorFlow's word.
NOT_IN_JSON = {"FP16": "half", "BF16": "bfloat16", "UINT16": "uint16"}

_WORDS = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP32": "float",
    "FP64": "double",
    "BYTES": "string",
}
# Datatype -> the types of its elements where they are not integers, and the least and the most of numbers.
_TYPES: dict[str, set[type]] = {"BYTES": {str}, "BOOL": {bool}, "FP32": {int, float}, "FP64": {int, float}}
_LIMITS: dict[str, tuple[float, float]] = {
    datatype: (float(limits.min), float(limits.max))
    if datatype in FLOAT_DATATYPES
    else (int(limits.min), int(limits.max))
    for datatype in _WORDS
    if datatype not in ("BOOL", "BYTES")
    for limits in [(np.finfo if datatype in FLOAT_DATATYPES else np.iinfo)(NUMPY_DTYPE[datatype])]
}
_KINDS: dict[type, str] = {type(None): "Null", dict: "Object", list: "Array", str: "String"}


def is_base64(value: object) -> bool:
    """An object of the one key `b64` with a string stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def unlike_value(value: object, spec: TensorSpec) -> str | None:
    """Why `value`, plain Python, is no tensor of `spec`'s datatype; None where nothing is odd about it."""
    shape = _shape(value)
    if len(shape) > MAX_DEPTH:
        return f"Encountered {len(shape)} levels of lists; at most {MAX_DEPTH} are supported (input '{spec.name}')"
    reason = _walk(value, 0, shape, spec.datatype)
    return None if reason is None else f"{reason} (input '{spec.name}' takes {spec.datatype})"


def unlike_values(rows: list[Any], spec: TensorSpec, key: str) -> str | None:
    """The same of one input's rows, called `key` in them, or "" where rows are bare values."""
    first: tuple[int, ...] | None = None
    for index, row in enumerate(rows):
        reason = unlike_value(row, spec)
        shape = _shape(row)
        if reason is None and first is not None and shape != first:
            size, expected = int(np.prod(shape)), int(np.prod(first))
            if size != expected:
                reason = f"Expecting tensor size: {expected} but got: {size} (input '{spec.name}')"
            else:
                reason = f"Expecting shape {_listed(first)} but got: {_listed(shape)} (input '{spec.name}')"
        if reason is not None:
            where = f"{index} key: {key}" if key else str(index)
            return f"Failed to process element: {where} of 'instances' list. Error: INVALID_ARGUMENT: {reason}"
        first = shape if first is None else first
    return None


def _shape(value: object) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _walk(value: object, level: int, shape: tuple[int, ...], datatype: str) -> str | None:
    if not isinstance(value, list):
        if level != len(shape):
            where = f"{level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            return f"JSON Value: ... found at incorrect level: {where}"
        return _leaf(value, datatype)
    if level >= len(shape):
        return f"Encountered list at unexpected level: {level} expected < {len(shape)}"
    if len(value) != shape[level]:
        return f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
    if level + 1 == len(shape) and _all_of_kind(value, datatype):
        return None
    reasons = (_walk(item, level + 1, shape, datatype) for item in value)
    return next((reason for reason in reasons if reason is not None), None)


def _leaf(value: object, datatype: str) -> str | None:
    if _of_kind(value, datatype):
        return None
    if datatype in FLOAT_DATATYPES and isinstance(value, int | float) and not isinstance(value, bool):
        return f"Cannot convert JSON value: ... to {_WORDS[datatype]} without loss of precision."
    if datatype == "BYTES" and isinstance(value, dict):
        return "JSON Value: ... not formatted correctly for base64 data"
    kind = str(value) if isinstance(value, bool) else _KINDS.get(type(value), "Number")
    return f"JSON Value: ... Type: {kind} is not of expected type: {_WORDS[datatype]}"


def _all_of_kind(values: list[Any], datatype: str) -> bool:
    """Whether all are of the kind for sure, found out at once; where they may not be, each is looked at."""
    if set(map(type, values)) - _TYPES.get(datatype, {int}):
        return False
    if datatype in ("BYTES", "BOOL") or not values:
        return True
    # Where NaN is first, no comparison holds.
    least, most = _LIMITS[datatype]
    return bool(least <= min(values) and max(values) <= most)


def _of_kind(value: object, datatype: str) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str) or is_base64(value)
    if datatype == "BOOL" or isinstance(value, bool):
        return datatype == "BOOL" and isinstance(value, bool)
    if datatype in FLOAT_DATATYPES:
        if not isinstance(value, int | float):
            return False
        # NaN compares with nothing; infinities came as tokens of their own.
        return value in (float("inf"), float("-inf")) or not abs(value) > _LIMITS[datatype][1]
    least, most = _LIMITS[datatype]
    return isinstance(value, int) and least <= value <= most


def _listed(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
