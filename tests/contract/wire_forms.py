"""How the Open Inference Protocol's clients write elements: raw, typed, flat and nested."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from gateway.core.tensor import NUMPY_DTYPE

# Datatype -> field of typed contents; 16-bit floats have none.
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"},
}


def packed(values: list[Any], datatype: str) -> bytes:
    """Elements in the protocol's raw layout."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return np.array(values, NUMPY_DTYPE[datatype]).tobytes()


def unpacked(data: bytes, datatype: str) -> list[Any]:
    """Elements from the protocol's raw layout."""
    if datatype != "BYTES":
        return list(np.frombuffer(data, NUMPY_DTYPE[datatype]).tolist())
    values = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        values.append(data[4 : 4 + size])
        data = data[4 + size :]
    return values


def nested(flat: list[Any], shape: list[int]) -> Any:
    """A flat list as deep as its shape; the value itself where that is []."""
    if not shape:
        (value,) = flat
        return value
    if len(shape) == 1:
        return flat
    size = len(flat) // shape[0] if shape[0] else 0
    return [nested(flat[row * size : (row + 1) * size], shape[1:]) for row in range(shape[0])]


def flattened(value: Any) -> list[Any]:
    """The leaves of nested lists, in order."""
    return [leaf for item in value for leaf in flattened(item)] if isinstance(value, list) else [value]
