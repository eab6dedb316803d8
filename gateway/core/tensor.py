"""The one tensor type: a name, an Open Inference Protocol datatype, and a C-ordered ndarray.

The raw layout (`to_raw`, `from_raw`) is the protocol's: little-endian, row-major, native width; BOOL one byte;
BYTES as a 4-byte little-endian length before each element. It is shared by the protocol's raw gRPC contents,
its binary tensor data extension and the TorchServe frame.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from gateway.core.errors import Cause, GatewayError
from gateway.core.values import value_type

NDArray = npt.NDArray[Any]

# Datatype -> numpy dtype, as stored in `Tensor.array`. BYTES is an object array of `bytes`.
NUMPY_DTYPE: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
DATATYPES = frozenset(NUMPY_DTYPE)
FLOAT_DATATYPES = frozenset({"FP16", "BF16", "FP32", "FP64"})

# The largest and the infinite numbers, and NaN, have 0x7F or 0xFF for their last byte: datatype -> where it is.
_LAST_BYTES = {"FP32": slice(3, None, 4), "FP64": slice(7, None, 8)}
# Up to so many bytes, Python's own bytes are quicker than numpy's functions, of which each costs a microsecond to call.
FEW_BYTES = 1024

# numpy's own limit is 64; no model served here needs more, and a cap keeps hostile shapes cheap.
MAX_RANK = 32
MAX_ELEMENTS = 2**48


@value_type(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor. `array` is C-ordered and has exactly the dtype of `NUMPY_DTYPE[datatype]`."""

    name: str
    datatype: str
    array: NDArray

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, the batch dimension included."""
        return self.array.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the raw layout."""
        if self.datatype == "BYTES":
            return sum(4 + len(item) for item in self.array.flat)
        return self.array.nbytes


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite, which only floating-point numbers can be."""
    if tensor.datatype == "BF16":
        # Of a signalling NaN `isfinite` would warn here. Its exponent, all ones, tells.
        return not np.any((tensor.array.view(np.uint16) & 0x7F80) == 0x7F80)
    if few_and_finite(tensor):
        return True
    # Looking for a zero byte takes a fraction of `ndarray.all` where elements are few.
    return tensor.datatype not in FLOAT_DATATYPES or b"\0" not in np.isfinite(tensor.array).tobytes()


def few_and_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds few numbers of FP32 or FP64, one at least, and certainly none that is infinite or NaN, nor
    one of the largest: their last bytes say so."""
    last = _LAST_BYTES.get(tensor.datatype)
    if last is None or not 0 < tensor.array.nbytes <= FEW_BYTES:
        return False
    ends = tensor.array.tobytes()[last]
    return b"\x7f" not in ends and b"\xff" not in ends


def numpy_dtype(datatype: str, name: str) -> np.dtype[Any]:
    """The numpy dtype of a datatype; raises INVALID_INPUT naming tensor `name` for an unknown one."""
    try:
        return NUMPY_DTYPE[datatype]
    except KeyError:
        known = ", ".join(sorted(DATATYPES))
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{name}': unknown datatype '{datatype[:32]}'; expected one of {known}"
        ) from None


def element_count(shape: Sequence[int], name: str) -> int:
    """The product of `shape`; raises INVALID_INPUT for a negative dimension, too many, or too large ones."""
    if len(shape) > MAX_RANK:
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{name}': {len(shape)} dimensions; at most {MAX_RANK} are supported"
        )
    if shape and min(shape) < 0:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"input '{name}': shape {list(shape)} has a negative dimension; a request must state it",
        )
    # A size of 0 hides the others from the product, but not from numpy, which counts bytes in 64 bits.
    if 0 in shape and math.prod(dim for dim in shape if dim) > MAX_ELEMENTS:
        raise GatewayError(Cause.INVALID_INPUT, f"input '{name}': shape {list(shape)} is empty and too large at once")
    return math.prod(shape)


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """A tensor from the raw layout. The array may be a read-only view of `raw`: nothing is copied.

    Raises INVALID_INPUT where the size does not fit the shape, before anything is allocated.
    """
    dtype = numpy_dtype(datatype, name)
    count = element_count(shape, name)
    if datatype == "BYTES":
        return Tensor(name, datatype, _split_bytes(name, count, raw).reshape(tuple(shape)))
    expected = count * dtype.itemsize
    if len(raw) != expected:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"input '{name}': {len(raw)} bytes of raw data; shape {list(shape)} of {datatype} takes {expected}",
        )
    if datatype == "BOOL" and raw:
        flags = np.frombuffer(raw, np.uint8)
        if flags.max() > 1:
            raise GatewayError(Cause.INVALID_INPUT, f"input '{name}': a BOOL byte is neither 0 nor 1")
    return Tensor(name, datatype, np.frombuffer(raw, dtype).reshape(tuple(shape)))


def to_raw(tensor: Tensor) -> bytes | memoryview:
    """The raw layout of a tensor; a view of its memory where the layout is the array's own, and a view is cheaper."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in tensor.array.flat)
    if tensor.array.nbytes <= FEW_BYTES:
        return tensor.array.tobytes()
    # A bfloat16 array exports no buffer of its own, hence the view as bytes.
    flat = np.ascontiguousarray(tensor.array).reshape(-1)
    return flat.view(np.uint8).data if flat.size else b""


def _split_bytes(name: str, count: int, raw: bytes | memoryview) -> NDArray:
    # Each element takes at least its length prefix, so a huge count over little data is refused here.
    if len(raw) < 4 * count:
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{name}': {len(raw)} bytes of raw BYTES data cannot hold {count} elements"
        )
    items = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        if offset + 4 > len(raw):
            raise GatewayError(Cause.INVALID_INPUT, f"input '{name}': raw BYTES data ends before element {index}")
        (size,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + size > len(raw):
            raise GatewayError(
                Cause.INVALID_INPUT, f"input '{name}': element {index} claims {size} bytes, more than the data has left"
            )
        items[index] = bytes(raw[offset : offset + size])
        offset += size
    if offset != len(raw):
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{name}': {len(raw) - offset} bytes of raw BYTES data left over at the end"
        )
    return items
