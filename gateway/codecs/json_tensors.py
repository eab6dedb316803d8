"""Nested JSON lists into tensors and back.

JSON knows one kind of number and no datatypes: an element must be of the kind that the tensor's datatype holds, and
inside its range; nothing is rounded into it or wrapped around.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy import frombuffer
from orjson import OPT_SERIALIZE_NUMPY, JSONEncodeError, dumps, loads

from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import MAX_DEPTH, JsonValue, plain, read_value
from gateway.codecs.json_small import LAYOUTS, LETTER, MAX_BYTES, NO_NUMBERS, SmallArray, has_words
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import DATATYPES, FLOAT_DATATYPES, NUMPY_DTYPE, NDArray, Tensor, all_finite, numpy_dtype

# Datatype -> the dtype that its numbers are read as, which holds all of JSON's; BOOL and BYTES have none.
_WIDE: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(DATATYPES - {"BOOL", "BYTES"}, np.dtype(np.int64)),
    **dict.fromkeys(FLOAT_DATATYPES, np.dtype(np.float64)),
    "UINT64": np.dtype(np.uint64),
}
# The first double that rounds to no FP32: half a last place beyond the largest.
_END_OF_FP32 = 2.0**128 - 2.0**103

# A word is found in a text of so many bytes sooner than an array is looked through.
_SHORT_TEXT = 1024
_N = ord("n")
# How a document of one value begins, and how it ends.
Around = tuple[bytes, bytes]

# The floats that JSON text and numpy's own printing have no form for.
SHORT_FLOATS = frozenset({"FP16", "BF16"})

_KINDS: dict[type, str] = {
    bool: "booleans",
    int: "integers",
    float: "numbers with a fraction or exponent",
    str: "strings",
    type(None): "null",
    dict: "objects",
}
# Datatype -> the Python types of its elements, and their name; any other datatype takes integers.
_EXPECTED: dict[str, tuple[set[type], str]] = {
    **dict.fromkeys(FLOAT_DATATYPES, ({int, float}, "numbers")),
    "BOOL": ({bool}, "true and false"),
    "BYTES": ({str}, "strings"),
}


def tensor_from_json(value: JsonValue, spec: TensorSpec) -> Tensor:
    """The tensor that a nested list is, by `spec`'s datatype; dimensions below an empty list are taken from `spec`.

    Whether the shape fits `spec` is the contract's question. Raises INVALID_INPUT naming the input where lists are
    ragged or an element is of the wrong kind or out of range.
    """
    if type(value) is SmallArray:
        packed = value.packed(spec.datatype)
        if packed is not None:
            return Tensor(spec.name, spec.datatype, packed)
    numbers = _numbers(value, spec.name, spec.datatype, finite=True)
    if numbers is not None and numbers.size:
        return Tensor(spec.name, spec.datatype, numbers)
    flat, shape = elements(value, spec.name, spec.datatype)
    if shape and shape[-1] == 0:
        shape += tuple(max(dim, 0) for dim in spec.shape[len(shape) :])
    return Tensor(spec.name, spec.datatype, flat.reshape(shape))


def tensor_from_text(body: bytes, spec: TensorSpec) -> Tensor:
    """The tensor that a body is which is nothing else; raises what `read_value` and `tensor_from_json` raise.

    Of a short text that is one row, of a length seen before, nothing else has to be asked than that all its values are
    packed as numbers: then there is no object or string in it, and no third list.
    """
    if len(body) <= MAX_BYTES:
        row = _row(body, spec)
        if row is not None:
            return row
    return read_value(body, lambda value: tensor_from_json(value, spec))


def only_row(body: bytes, forms: tuple[Around, ...], spec: TensorSpec) -> Tensor | None:
    """The tensor of a short document that is a row, of a length seen before, and what one of `forms` has around it.

    None for everything else. The first form that the body begins with counts. What is left between its ends is one
    value for certain where it is a row at all.
    """
    if len(body) <= MAX_BYTES:
        for begin, end in forms:
            if body.startswith(begin):
                return _row(body[len(begin) : -len(end)], spec) if body.endswith(end) else None
    return None


def _row(text: bytes, spec: TensorSpec) -> Tensor | None:
    """The tensor that a text of one row is; None where that is not certain."""
    if LETTER in text and has_words(text):
        return None
    try:
        rows = loads(text)
        if len(rows) != 1:
            return None
        row = rows[0]
        packer, dtype = LAYOUTS[spec.datatype][len(row)]
        return Tensor(spec.name, spec.datatype, frombuffer(packer(*row), dtype))
    except NO_NUMBERS:
        return None


def elements(value: JsonValue, name: str, datatype: str, *, finite: bool = True) -> tuple[NDArray, tuple[int, ...]]:
    """The elements of a nested list in row-major order, in `datatype`'s dtype, and the list's own shape.

    A bare value has shape (). `finite` refuses infinities, which only numbers beyond a double's range become. Raises
    INVALID_INPUT as `tensor_from_json` does.
    """
    numbers = value.packed(datatype) if type(value) is SmallArray else None
    if numbers is None:
        numbers = _numbers(value, name, datatype, finite=finite)
    if numbers is not None:
        return numbers.reshape(-1), numbers.shape
    dtype = numpy_dtype(datatype, name)
    wide = _WIDE.get(datatype)
    flat, shape = flatten(value, name)
    if datatype == "BYTES":
        return _encoded(flat, name), shape
    _check_kinds(flat, name, datatype)
    if wide is None:
        return np.array(flat, dtype=np.bool_), shape
    try:
        numbers = np.array(flat, dtype=wide)
    except OverflowError:
        raise _out_of_range(name, datatype) from None
    return _in_range(numbers, dtype, name, datatype, finite), shape


def _numbers(value: JsonValue, name: str, datatype: str, *, finite: bool) -> NDArray | None:
    """The numbers that an array holds, in `datatype`'s dtype; None for what is left to the slow way."""
    wide = _WIDE.get(datatype)
    if wide is None or not isinstance(value, JsonArray):
        return None
    numbers = value.numbers(wide)
    return None if numbers is None else _in_range(numbers, NUMPY_DTYPE[datatype], name, datatype, finite)


def flatten(value: JsonValue, name: str) -> tuple[list[Any], tuple[int, ...]]:
    """The leaves of nested lists in order, and the lists' shape.

    Raises INVALID_INPUT where siblings differ in length or kind, UNPARSEABLE where they are nested too deep.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    while True:
        kinds = set(map(type, level))
        if any(issubclass(kind, JsonArray) for kind in kinds):
            level = [plain(item) for item in level]
            kinds = set(map(type, level))
        if list not in kinds:
            return level, tuple(shape)
        if len(shape) == MAX_DEPTH:
            raise GatewayError(Cause.UNPARSEABLE, f"input '{name}' is nested deeper than {MAX_DEPTH} levels")
        if len(kinds) > 1 or len(set(map(len, level))) > 1:
            raise _ragged(name, len(shape))
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))


def to_json_array(tensor: Tensor, *, flat: bool = False) -> object:
    """What orjson writes as the nested list of a tensor, with OPT_SERIALIZE_NUMPY; a 16-bit float as the same FP32.

    `flat` makes it one list of all elements, also of a scalar.
    Raises UNSUPPORTED_DATATYPE for NaN, infinity, and BYTES that are not UTF-8: JSON has no form for them.
    """
    _check_finite(tensor)
    return written(tensor, flat=flat)


def written(tensor: Tensor, *, flat: bool = False) -> object:
    """The same of a tensor that is known to be finite, or looked through by `finite_in` once it is written.

    Raises UNSUPPORTED_DATATYPE for BYTES that are not UTF-8.
    """
    if tensor.datatype == "BYTES":
        texts = _decoded(tensor)
        return (texts.reshape(-1) if flat else texts).tolist()
    array = tensor.array.reshape(-1) if flat else tensor.array
    if tensor.datatype in SHORT_FLOATS:
        # Of a signalling NaN the cast would warn.
        with np.errstate(invalid="ignore"):
            array = array.astype(np.float32)
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    # orjson writes arrays of one dimension and more, and numpy's scalars.
    return array if array.ndim else array[()]


def tensor_to_text(tensor: Tensor) -> bytes:
    """The nested list of a tensor as a text of its own; raises UNSUPPORTED_DATATYPE as `to_json_array` does."""
    try:
        text = dumps(tensor.array, None, OPT_SERIALIZE_NUMPY)
    except JSONEncodeError:
        # BF16, BYTES, a scalar, or in another order.
        return dumped(written(tensor), (tensor,))
    # Without names in it, only null has that letter.
    if _N in text:
        _check_finite(tensor)
    return text


def dumped(document: object, outputs: Iterable[Tensor], nulls: int = 0) -> bytes:
    """The text of a document that holds what `written` makes of `outputs`, and so many nulls of its own.

    Raises UNSUPPORTED_DATATYPE where an output holds NaN or infinity, which JSON has no form for.
    """
    text = dumps(document, None, OPT_SERIALIZE_NUMPY)
    if (len(text) > _SHORT_TEXT or _N in text) and not finite_in(text, outputs, nulls):
        for tensor in outputs:
            _check_finite(tensor)
    return text


def finite_in(text: bytes, outputs: Iterable[Tensor], nulls: int = 0) -> bool:
    """Whether orjson's text of a document, which has so many nulls of its own, holds no NaN or infinity of `outputs`.

    orjson writes null for them. The word may be in a string too; then, and in a long text, the outputs themselves tell.
    """
    return (len(text) <= _SHORT_TEXT and text.count(b"null") <= nulls) or all(map(all_finite, outputs))


def _check_finite(tensor: Tensor) -> None:
    if not all_finite(tensor):
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"output '{tensor.name}' holds NaN or infinity, which JSON cannot carry; ask for it over gRPC",
        )


def _in_range(wide: NDArray, dtype: np.dtype[Any], name: str, datatype: str, finite: bool) -> NDArray:
    # The largest and the smallest bound all of them, and are found at no cost in memory.
    if datatype == "FP32" and wide.size and _bounded(wide):
        return wide.astype(dtype)
    if datatype in FLOAT_DATATYPES:
        with np.errstate(over="ignore"):
            narrow = wide.astype(dtype, copy=False)
        allowed = np.isfinite(wide) if finite else np.True_
        if not (allowed & (np.isinf(narrow) == np.isinf(wide))).all():
            raise _out_of_range(name, datatype)
        return narrow
    if wide.dtype == dtype:
        return wide
    limits = np.iinfo(dtype)
    if wide.size and not (limits.min <= int(wide.min()) and int(wide.max()) <= limits.max):
        raise _out_of_range(name, datatype)
    return wide.astype(dtype, copy=False)


def _bounded(wide: NDArray) -> bool:
    return bool(wide.item(wide.argmax()) < _END_OF_FP32 and wide.item(wide.argmin()) > -_END_OF_FP32)


def _check_kinds(flat: list[Any], name: str, datatype: str) -> None:
    expected, text = _EXPECTED.get(datatype, ({int}, "integers"))
    found = [_KINDS.get(kind, "other values") for kind in dict.fromkeys(map(type, flat)) if kind not in expected]
    if found:
        raise GatewayError(Cause.INVALID_INPUT, f"input '{name}' holds {' and '.join(found)}; {datatype} takes {text}")


def _encoded(flat: list[Any], name: str) -> NDArray:
    _check_kinds(flat, name, "BYTES")
    array = np.empty(len(flat), dtype=object)
    array[:] = [text.encode() for text in flat]
    return array


def _decoded(tensor: Tensor) -> NDArray:
    texts = np.empty(tensor.array.size, dtype=object)
    try:
        texts[:] = [item.decode() for item in tensor.array.flat]
    except UnicodeDecodeError:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"output '{tensor.name}' holds bytes that are not UTF-8, which JSON cannot carry; ask for it over gRPC",
        ) from None
    return texts.reshape(tensor.shape)


def _ragged(name: str, depth: int) -> GatewayError:
    return GatewayError(
        Cause.INVALID_INPUT,
        f"input '{name}' is ragged at dimension {depth}: expected lists of equal length, and no values beside lists",
    )


def _out_of_range(name: str, datatype: str) -> GatewayError:
    return GatewayError(Cause.INVALID_INPUT, f"input '{name}' holds a number out of the range of {datatype}")
