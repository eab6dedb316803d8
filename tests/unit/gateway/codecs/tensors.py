"""Tensors of every datatype and shape, for the codecs' properties, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import DATATYPES, FLOAT_DATATYPES, NUMPY_DTYPE, Tensor

# On a busy machine the clock says nothing about a codec.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SPECS = st.lists(
    st.builds(
        TensorSpec,
        WORDS.filter(bool),
        st.sampled_from(sorted(DATATYPES)),
        st.lists(st.integers(-1, 9), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda spec: spec.name,
).map(lambda specs: tuple(sorted(specs, key=lambda spec: spec.name)))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def tensors(
    draw: st.DrawFn,
    datatypes: frozenset[str] = DATATYPES,
    *,
    finite: bool = False,
    text: bool = False,
    shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES,
    name: str = "x",
) -> Tensor:
    """Any tensor: floats of any bit pattern unless `finite`, BYTES of any content unless `text` (then UTF-8)."""
    datatype = draw(st.sampled_from(sorted(datatypes)))
    shape = draw(shapes)
    count = int(np.prod(shape, dtype=np.int64))
    dtype = NUMPY_DTYPE[datatype]
    if datatype == "BYTES":
        item = (
            st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(str.encode)
            if text
            else st.binary(max_size=6)
        )
        array = np.empty(count, dtype=object)
        array[:] = draw(st.lists(item, min_size=count, max_size=count))
    elif datatype == "BOOL":
        array = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=np.bool_)
    else:
        size = count * dtype.itemsize
        array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype=dtype)
        if finite and datatype in FLOAT_DATATYPES:
            array = np.where(np.isfinite(array), array, np.zeros(1, dtype))
    return Tensor(name, datatype, array.reshape(shape))


def pairs(**options: object) -> st.SearchStrategy[tuple[Tensor, ...]]:
    """One to three tensors of different names."""
    return st.integers(1, 3).flatmap(
        lambda count: st.tuples(*(tensors(**options, name=name) for name in ("b", "a", "ü 2")[:count]))  # type: ignore[arg-type]
    )


def cause_of(call: Callable[[], object]) -> Cause | None:
    """Why a call was refused, None where it was not; any other exception is the test's failure."""
    try:
        call()
    except GatewayError as exc:
        return exc.cause
    return None


def assert_same(one: Tensor, other: Tensor, *, bits: bool = True) -> None:
    """Fails unless name, datatype, shape, dtype and values agree; without `bits` one NaN is as good as another."""
    assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
    assert one.array.dtype == other.array.dtype == NUMPY_DTYPE[one.datatype]
    assert other.array.flags.c_contiguous
    if one.datatype == "BYTES":
        assert one.array.tolist() == other.array.tolist()
    elif bits:
        assert one.array.tobytes() == other.array.tobytes()
    else:
        np.testing.assert_array_equal(np.signbit(_wide(one)), np.signbit(_wide(other)))
        arrays = [one.array, other.array]
        if one.datatype == "BF16":
            # Of a datatype that is not its own numpy does not know NaN.
            arrays = [array.astype(np.float32) for array in arrays]
        np.testing.assert_array_equal(*arrays)


def _wide(tensor: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    # The sign of a NaN is no part of its value.
    # A signalling NaN is quietened by the cast, with a warning.
    with np.errstate(invalid="ignore"):
        array = tensor.array.astype(np.float64)
    return np.where(np.isnan(array), 0.0, array)
