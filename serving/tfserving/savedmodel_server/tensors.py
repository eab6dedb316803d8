"""TensorProto to ndarray and back, by the rules of tensorflow/core/framework/tensor.cc.

Reading takes tensor_content as well as typed values, the last of which is repeated; writing uses typed values, as
TensorFlow Serving does by default. Little-endian machines only, like TensorFlow's own wheels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
from grpc import StatusCode
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid

NDArray = npt.NDArray[Any]
TensorProto: TypeAlias = tensor_pb2.TensorProto
# -1 is any size; None any shape.
PartialShape: TypeAlias = tuple[int, ...] | None

# tensorflow/core/framework/tensor_shape.h; numpy stops at 64 dimensions, which is enough for any kernel.
MAX_RANK = 64
MAX_ELEMENTS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class DataType:
    """One dtype of TensorFlow: `word` is DataTypeString's, `field` the TensorProto field of its typed values.

    `stored` is the dtype of that field's numbers, where it is not the array's own.
    """

    word: str
    dtype: np.dtype[Any]
    field: str
    stored: np.dtype[Any] | None = None


def _of(word: str, dtype: Any, field: str, stored: Any = None) -> DataType:  # noqa: ANN401 - numpy's DTypeLike
    return DataType(word, np.dtype(dtype), field, None if stored is None else np.dtype(stored))


DATA_TYPES: dict[int, DataType] = {
    types_pb2.DT_FLOAT: _of("float", np.float32, "float_val"),
    types_pb2.DT_DOUBLE: _of("double", np.float64, "double_val"),
    types_pb2.DT_INT32: _of("int32", np.int32, "int_val"),
    types_pb2.DT_UINT8: _of("uint8", np.uint8, "int_val", np.int32),
    types_pb2.DT_INT16: _of("int16", np.int16, "int_val", np.int32),
    types_pb2.DT_INT8: _of("int8", np.int8, "int_val", np.int32),
    types_pb2.DT_STRING: _of("string", object, "string_val"),
    types_pb2.DT_COMPLEX64: _of("complex64", np.complex64, "scomplex_val"),
    types_pb2.DT_INT64: _of("int64", np.int64, "int64_val"),
    types_pb2.DT_BOOL: _of("bool", np.bool_, "bool_val"),
    types_pb2.DT_BFLOAT16: _of("bfloat16", ml_dtypes.bfloat16, "half_val", np.int32),
    types_pb2.DT_UINT16: _of("uint16", np.uint16, "int_val", np.int32),
    types_pb2.DT_COMPLEX128: _of("complex128", np.complex128, "dcomplex_val"),
    types_pb2.DT_HALF: _of("half", np.float16, "half_val", np.int32),
    types_pb2.DT_UINT32: _of("uint32", np.uint32, "uint32_val"),
    types_pb2.DT_UINT64: _of("uint64", np.uint64, "uint64_val"),
}
# Packed fields whose wire form is the array's own memory: field number << 3 | 2, from tensor.proto.
_RAW_TAGS = {types_pb2.DT_FLOAT: b"\x2a", types_pb2.DT_DOUBLE: b"\x32"}


def word_of(dtype: int) -> str:
    """TensorFlow's word for a dtype in error texts, such as `float` or `half`."""
    return DATA_TYPES[dtype].word if dtype in DATA_TYPES else types_pb2.DataType.Name(dtype)[3:].lower()


def decode(proto: TensorProto, alias: str) -> NDArray:
    """The array of a TensorProto; raises INVALID_ARGUMENT `tensor parsing error: <alias>`."""
    try:
        shape = _shape_of(proto.tensor_shape)
        kind = DATA_TYPES[proto.dtype]
        count = math.prod(shape)
        if proto.tensor_content:
            flat = _from_content(kind, count, proto.tensor_content)
        else:
            flat = _from_values(kind, count, getattr(proto, kind.field))
        return flat.reshape(shape)
    except (KeyError, ValueError, MemoryError) as exc:
        raise invalid(f"tensor parsing error: {alias}") from exc


def encode(array: NDArray, dtype: int) -> TensorProto:
    """A TensorProto with typed values; raises UNIMPLEMENTED for a dtype that has no array."""
    kind = _kind(dtype)
    proto = TensorProto(dtype=dtype, tensor_shape=shape_proto(array.shape))
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype in _RAW_TAGS:
        raw = flat.view(np.uint8).tobytes()
        if raw:
            proto.MergeFromString(_RAW_TAGS[dtype] + _varint(len(raw)) + raw)
        return proto
    if kind.field == "half_val":
        flat = flat.view(np.uint16)
    elif flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    getattr(proto, kind.field).extend(flat.tolist())
    return proto


def shape_proto(shape: Sequence[int]) -> tensor_shape_pb2.TensorShapeProto:
    """The message of a fully known shape."""
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    return tensor_shape_pb2.TensorShapeProto(dim=dims)


def partial_shape(info: meta_graph_pb2.TensorInfo) -> PartialShape:
    """The shape that a signature declares."""
    if not info.HasField("tensor_shape") or info.tensor_shape.unknown_rank:
        return None
    return tuple(dim.size for dim in info.tensor_shape.dim)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as TensorFlow's texts have it: `[?,8,8,1]`."""
    return f"[{','.join('?' if size < 0 else str(size) for size in shape)}]"


def as_array(value: Any, dtype: int) -> NDArray:  # noqa: ANN401 - what a session returns: arrays, numpy scalars, bytes
    """What a session returned as an array: it hands out a tensor without dimensions as a bare value."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), _kind(dtype).dtype)
    array[()] = value
    return array


def _kind(dtype: int) -> DataType:
    from_table = DATA_TYPES.get(dtype)
    if from_table is None:
        raise ServingError(StatusCode.UNIMPLEMENTED, f"tensors of type {word_of(dtype)} cannot be sent")
    return from_table


def _shape_of(message: tensor_shape_pb2.TensorShapeProto) -> tuple[int, ...]:
    shape = tuple(dim.size for dim in message.dim)
    if message.unknown_rank or len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise ValueError("not a complete shape")
    if math.prod(shape) > MAX_ELEMENTS:
        raise ValueError("too many elements")
    return shape


def _from_content(kind: DataType, count: int, content: bytes) -> NDArray:
    if kind.dtype == object:
        return _split_strings(count, content)
    if len(content) != count * kind.dtype.itemsize:
        raise ValueError("tensor_content of the wrong size")
    if kind.dtype == np.bool_:
        # Any byte but 0 is true; a numpy bool that is neither 0 nor 1 would misbehave.
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, kind.dtype)


def _from_values(kind: DataType, count: int, values: Sequence[Any]) -> NDArray:
    """Too few values: the last is repeated; none: zeros or empty strings; too many: the rest is ignored."""
    if kind.dtype.kind == "c":
        parts = np.array(values, kind.dtype.type(0).real.dtype)
        given = parts[: len(parts) // 2 * 2].view(kind.dtype)[:count]
    elif kind.dtype == object:
        given = np.empty(min(len(values), count), object)
        given[:] = values[:count]
    else:
        given = np.array(values[:count], kind.stored or kind.dtype)
        # Wider numbers are cast without a look at the range (300 is 44 as uint8); halves are bit patterns.
        if kind.field == "half_val":
            given = given.astype(np.uint16).view(kind.dtype)
        elif kind.stored is not None:
            given = given.astype(kind.dtype)
    if len(given) == count:
        return given
    last = given[-1] if len(given) else (b"" if kind.dtype == object else kind.dtype.type(0))
    flat = np.empty(count, kind.dtype)
    flat[: len(given)] = given
    flat[len(given) :] = last
    return flat


def _split_strings(count: int, content: bytes) -> NDArray:
    """All lengths as varints, then all bytes."""
    if count > len(content):
        raise ValueError("fewer bytes than elements")
    sizes, offset = [], 0
    for _ in range(count):
        size, offset = _read_varint(content, offset)
        sizes.append(size)
    if offset + sum(sizes) != len(content):
        raise ValueError("strings of the wrong size")
    flat = np.empty(count, object)
    for index, size in enumerate(sizes):
        flat[index] = content[offset : offset + size]
        offset += size
    return flat


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(data) and shift < 35:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise ValueError("not a varint")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
