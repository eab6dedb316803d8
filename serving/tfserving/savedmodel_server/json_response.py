"""The body of a REST answer, laid out as RapidJSON's PrettyWriter does: four spaces, row arrays on one line.

Bodies are bytes: a string output is written as the bytes it is, so that one which is not UTF-8 makes the body invalid
JSON, and NaN and Infinity are bare tokens. Both are TensorFlow Serving's (util/json_tensor.cc).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.json_values import decimals
from serving.tfserving.savedmodel_server.tensors import NDArray, word_of

# An output of this ending holds bytes rather than text.
BYTES_SUFFIX = "_bytes"

_FLOATS = frozenset({types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE})
_INTEGERS = frozenset(
    {
        types_pb2.DT_INT32,
        types_pb2.DT_INT16,
        types_pb2.DT_INT8,
        types_pb2.DT_UINT8,
        types_pb2.DT_INT64,
        types_pb2.DT_UINT32,
        types_pb2.DT_UINT64,
    }
)
_ESCAPES = str.maketrans(
    {chr(code): f"\\u{code:04X}" for code in range(0x20)}
    | {"\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}
)


@dataclass(frozen=True, slots=True)
class Output:
    """One output tensor with the dtype that the signature gives it."""

    array: NDArray
    dtype: int


def quoted(text: str) -> str:
    """A string as RapidJSON writes it, whose hexadecimal digits are capitals."""
    written = json.dumps(text, ensure_ascii=False)
    return f'"{text.translate(_ESCAPES)}"' if "\\u" in written else written


def single_line(items: Iterable[str]) -> str:
    """An array on one line."""
    return f"[{', '.join(items)}]"


def error_body(error: ServingError) -> bytes:
    """`{"error": text}`."""
    return f'{{\n    "error": {quoted(error.message)}\n}}'.encode("utf-8", "replace")


def render(outputs: Mapping[str, Output], *, row: bool) -> bytes:
    """The body of a predict answer; raises INVALID_ARGUMENT for what JSON or the row form cannot carry."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    text = _rows(outputs) if row else _columns(outputs)
    return text.encode("utf-8", "surrogateescape")


def _rows(outputs: Mapping[str, Output]) -> str:
    size = _batch_size(outputs)
    named = len(outputs) > 1
    level = 3 if named else 2
    columns = {name: _items(name, output, level) for name, output in outputs.items()}
    if not size:
        return '{\n    "predictions": []\n}'
    if not named:
        (items,) = columns.values()
        return f'{{\n    "predictions": [{", ".join(items)}\n    ]\n}}'
    rows = []
    for index in range(size):
        members = ",\n".join(f"{_pad(3)}{quoted(name)}: {items[index]}" for name, items in columns.items())
        rows.append(f"{_pad(2)}{{\n{members}\n{_pad(2)}}}")
    return '{\n    "predictions": [\n' + ",\n".join(rows) + "\n    ]\n}"


def _columns(outputs: Mapping[str, Output]) -> str:
    if len(outputs) == 1:
        ((name, output),) = outputs.items()
        return f'{{\n    "outputs": {_column(name, output, 1)}\n}}'
    members = ",\n".join(f"{_pad(2)}{quoted(name)}: {_column(name, output, 2)}" for name, output in outputs.items())
    return f'{{\n    "outputs": {{\n{members}\n    }}\n}}'


def _column(name: str, output: Output, level: int) -> str:
    shape = output.array.shape
    return _fold(_tokens(name, output, level + len(shape)), shape, level, single_line=False)[0]


def _items(name: str, output: Output, level: int) -> list[str]:
    """Each row's own value, on one line."""
    shape = output.array.shape
    return _fold(_tokens(name, output, level + len(shape) - 1), shape, level, single_line=True, keep=1)


def _fold(tokens: list[str], shape: tuple[int, ...], level: int, *, single_line: bool, keep: int = 0) -> list[str]:
    """Puts brackets around the tokens, from the innermost dimension outwards, all but the first `keep` of them.

    `level` is how many arrays and objects are open around the outermost dimension.
    """
    for axis in range(len(shape) - 1, keep - 1, -1):
        size, count = shape[axis], math.prod(shape[:axis])
        if not size:
            tokens = ["[]"] * count
            continue
        depth = level + axis + 1
        head, between, tail = ("[", ", ", "]") if single_line else _lines(depth)
        tokens = [head + between.join(tokens[at : at + size]) + tail for at in range(0, count * size, size)]
    return tokens


def _lines(depth: int) -> tuple[str, str, str]:
    return f"[\n{_pad(depth)}", f",\n{_pad(depth)}", f"\n{_pad(depth - 1)}]"


def _batch_size(outputs: Mapping[str, Output]) -> int:
    size: int | None = None
    for name, output in outputs.items():
        if not output.array.shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        own = output.array.shape[0]
        if size is not None and own != size:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {own} expecting: {size}")
        size = own
    return size or 0


def _tokens(name: str, output: Output, depth: int) -> list[str]:
    """The values one by one, as JSON; `depth` arrays and objects are open around each."""
    flat = np.ascontiguousarray(output.array).reshape(-1)
    if output.dtype in _FLOATS:
        return decimals(flat)
    if output.dtype in _INTEGERS:
        return list(map(str, flat.tolist()))
    if output.dtype == types_pb2.DT_BOOL:
        return ["true" if value else "false" for value in flat.tolist()]
    if output.dtype == types_pb2.DT_STRING:
        if name.endswith(BYTES_SUFFIX):
            head, tail = f'{{\n{_pad(depth + 1)}"b64": "', f'"\n{_pad(depth)}}}'
            return [head + base64.b64encode(value).decode() + tail for value in flat.tolist()]
        return [quoted(value.decode("utf-8", "surrogateescape")) for value in flat.tolist()]
    if flat.size:
        raise invalid(f"Failed to write JSON value for tensor type: {word_of(output.dtype)}")
    return []


def _pad(level: int) -> str:
    return "    " * level
