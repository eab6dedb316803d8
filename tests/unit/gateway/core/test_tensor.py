"""The raw layout and its limits."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.core.errors import Cause, GatewayError
from gateway.core.tensor import DATATYPES, NUMPY_DTYPE, Tensor, all_finite, element_count, from_raw, to_raw

NUMERIC = sorted(DATATYPES - {"BYTES", "BF16"})


@given(st.data())
def test_raw_layout_round_trips_every_numeric_datatype(data: st.DataObject) -> None:
    """from_raw(to_raw(t)) is t, to the bit, for every shape."""
    datatype = data.draw(st.sampled_from(NUMERIC))
    array = data.draw(
        hnp.arrays(NUMPY_DTYPE[datatype], hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
    )
    raw = bytes(to_raw(Tensor("t", datatype, array)))
    back = from_raw("t", datatype, array.shape, raw)
    assert back.array.dtype == array.dtype
    assert back.array.tobytes() == array.tobytes()
    assert len(raw) == back.nbytes


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_raw_layout_round_trips_bytes(items: list[bytes]) -> None:
    """BYTES elements of any content and length survive."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    tensor = Tensor("t", "BYTES", array)
    raw = bytes(to_raw(tensor))
    assert from_raw("t", "BYTES", array.shape, raw).array.tolist() == items
    assert len(raw) == tensor.nbytes


def test_bfloat16_round_trips() -> None:
    """BF16 has no buffer interface of its own and still keeps its bits."""
    array = np.asarray([1.5, -2.0, math.inf], dtype=NUMPY_DTYPE["BF16"])
    back = from_raw("t", "BF16", (3,), bytes(to_raw(Tensor("t", "BF16", array))))
    assert back.array.tobytes() == array.tobytes()


def test_a_view_that_is_not_contiguous_is_written_in_row_order() -> None:
    """A transposed array is written as its own rows, not as its memory."""
    array = np.arange(6, dtype="<i4").reshape(2, 3).T
    assert bytes(to_raw(Tensor("t", "INT32", array))) == array.tobytes(order="C")


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "expected"),
    [
        ("FP32", (2,), b"\0" * 7, "takes 8"),
        ("FP32", (2**32, 2**32), b"\0" * 4, "takes"),
        ("FP32", (2**62, 0), b"", "empty and too large at once"),
        ("FP32", (-1, 2), b"\0" * 8, "negative dimension"),
        ("FP32", (1,) * 40, b"\0" * 4, "dimensions"),
        ("FLOAT", (1,), b"\0" * 4, "unknown datatype"),
        ("BOOL", (1,), b"\2", "neither 0 nor 1"),
        ("BYTES", (1,), b"\xff\xff\xff\xff", "claims 4294967295 bytes"),
        ("BYTES", (2**40,), b"\0" * 8, "cannot hold"),
        ("BYTES", (2,), b"\4\0\0\0abcd", "ends before element 1"),
        ("BYTES", (1,), b"\0\0\0\0x", "left over"),
    ],
)
def test_raw_data_that_does_not_fit_is_refused(
    datatype: str, shape: tuple[int, ...], raw: bytes, expected: str
) -> None:
    """Sizes are checked before anything is allocated, and the message names the input."""
    with pytest.raises(GatewayError, match=expected) as caught:
        from_raw("pixels", datatype, shape, raw)
    assert caught.value.cause is Cause.INVALID_INPUT
    assert "'pixels'" in caught.value.detail


def test_a_scalar_counts_as_one_element() -> None:
    """The product over no dimensions is one."""
    assert element_count((), "t") == 1


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7F81, 0xFFFF])
def test_bf16_that_is_no_number_is_seen_without_a_warning(bits: int) -> None:
    """Infinities, and NaN of both kinds, of which numpy's own question warns; the largest numbers are numbers."""
    array = np.array([0x7F7F, 0xFF7F, bits], np.uint16).view(ml_dtypes.bfloat16)
    assert not all_finite(Tensor("x", "BF16", array))
    assert all_finite(Tensor("x", "BF16", array[:2]))


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_only_numbers_are_finite_however_large_and_however_many(datatype: str, count: int) -> None:
    """The largest number of a datatype looks much like infinity; NaN comes with any sign and payload."""
    dtype = NUMPY_DTYPE[datatype]
    limits = np.finfo(dtype)
    array = np.resize(np.array([limits.max, limits.min, -0.0], dtype), count)
    assert all_finite(Tensor("x", datatype, array))
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        array[-1] = bad
        assert not all_finite(Tensor("x", datatype, array))


def test_small_and_large_tensors_are_written_alike() -> None:
    """Few bytes are copied, many are a view."""
    array = np.arange(1000, dtype="<f4")
    large = bytes(to_raw(Tensor("x", "FP32", array)))
    assert large == b"".join([bytes(to_raw(Tensor("x", "FP32", array[at : at + 10]))) for at in range(0, 1000, 10)])
