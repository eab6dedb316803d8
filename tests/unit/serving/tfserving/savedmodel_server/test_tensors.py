"""TensorProto and ndarray: TensorFlow's own parser is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.tensors import DATA_TYPES, as_array, decode, encode, shape_proto, word_of

TensorProto = tensor_pb2.TensorProto
SHAPES = [(), (0,), (1,), (2, 3), (2, 0, 3)]


def parsed(proto: TensorProto) -> Any:
    """What TensorFlow makes of a TensorProto (Tensor::FromProto, behind an operation)."""
    return tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy()


def example(dtype: int, shape: tuple[int, ...]) -> Any:
    """Values that the dtype holds exactly."""
    count = int(np.prod(shape))
    kind = DATA_TYPES[dtype].dtype
    if dtype == types_pb2.DT_STRING:
        flat = np.empty(count, object)
        flat[:] = [b"\xff" * (index * 100) for index in range(count)]
        return flat.reshape(shape)
    return (np.arange(count) - (0 if kind.kind in "ub" else 2)).astype(kind).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DATA_TYPES, ids=word_of)
def test_what_is_written_is_what_tensorflow_reads(dtype: int, shape: tuple[int, ...]) -> None:
    """TensorFlow's parser and ours read our typed values back, and none of them is tensor_content."""
    array = example(dtype, shape)
    proto = encode(array, dtype)
    assert not proto.tensor_content
    assert [dim.size for dim in proto.tensor_shape.dim] == list(shape)
    for read in (decode(proto, "x"), np.asarray(parsed(proto))):
        assert read.shape == shape
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DATA_TYPES, ids=word_of)
def test_what_tensorflow_writes_is_read(dtype: int, shape: tuple[int, ...]) -> None:
    """tf.make_tensor_proto writes tensor_content for numbers and typed values for single ones and strings."""
    array = example(dtype, shape)
    read = decode(tf.make_tensor_proto(array, dtype, shape), "x")
    assert read.dtype == DATA_TYPES[dtype].dtype
    np.testing.assert_array_equal(read, array)


def test_the_last_value_is_repeated() -> None:
    """Too few values: the last counts on; none: zeros; too many: the rest is ignored."""
    for values, expected in (([1.0, 2.0], [1, 2, 2, 2]), ([], [0] * 4), ([1.0, 2, 3, 4, 5], [1, 2, 3, 4])):
        proto = TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=shape_proto((4,)), float_val=values)
        assert decode(proto, "x").tolist() == expected == parsed(proto).tolist()
    proto = TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape_proto((3,)), string_val=[b"a", b"b"])
    assert decode(proto, "x").tolist() == [b"a", b"b", b"b"] == parsed(proto).tolist()
    proto = TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape_proto((2,)))
    assert decode(proto, "x").tolist() == [b"", b""] == parsed(proto).tolist()
    proto = TensorProto(dtype=types_pb2.DT_COMPLEX64, tensor_shape=shape_proto((2,)), scomplex_val=[1, 2])
    assert decode(proto, "x").tolist() == [1 + 2j, 1 + 2j] == parsed(proto).tolist()


def test_values_are_cast_without_a_look_at_their_range() -> None:
    """300 is 44 as uint8, and a half is a bit pattern."""
    proto = TensorProto(dtype=types_pb2.DT_UINT8, tensor_shape=shape_proto((2,)), int_val=[300, -1])
    assert decode(proto, "x").tolist() == [44, 255] == parsed(proto).tolist()
    for dtype, bits in ((types_pb2.DT_HALF, 0x3C00), (types_pb2.DT_BFLOAT16, 0x3F80)):
        proto = TensorProto(dtype=dtype, tensor_shape=shape_proto((2,)), half_val=[bits])
        assert decode(proto, "x").tolist() == [1.0, 1.0] == parsed(proto).tolist()


def test_content_of_strings_is_all_lengths_then_all_bytes() -> None:
    """A length may take several bytes."""
    long = b"x" * 300
    proto = TensorProto(
        dtype=types_pb2.DT_STRING, tensor_shape=shape_proto((3,)), tensor_content=b"\x01\xac\x02\x00a" + long
    )
    assert decode(proto, "x").tolist() == [b"a", long, b""] == parsed(proto).tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": types_pb2.DT_FLOAT, "tensor_shape": shape_proto((2,)), "tensor_content": b"\0" * 7},
        {"dtype": types_pb2.DT_FLOAT, "tensor_shape": shape_proto((-1,)), "float_val": [1]},
        {"dtype": types_pb2.DT_FLOAT, "tensor_shape": {"unknown_rank": True}},
        {"dtype": types_pb2.DT_FLOAT, "tensor_shape": shape_proto((2**40, 2**40))},
        {"dtype": types_pb2.DT_FLOAT, "tensor_shape": shape_proto((1,) * 300), "float_val": [1]},
        {"dtype": 0, "tensor_shape": shape_proto((1,))},
        {"dtype": 9999, "tensor_shape": shape_proto((1,))},
        {"dtype": types_pb2.DT_VARIANT, "tensor_shape": shape_proto((1,))},
        {"dtype": types_pb2.DT_STRING, "tensor_shape": shape_proto((2,)), "tensor_content": b"\x01\x05ab"},
        {"dtype": types_pb2.DT_STRING, "tensor_shape": shape_proto((1,)), "tensor_content": b"\xff" * 9},
        {"dtype": types_pb2.DT_STRING, "tensor_shape": shape_proto((9,)), "tensor_content": b"\x01"},
    ],
)
def test_what_is_no_tensor_names_the_input(fields: dict[str, Any]) -> None:
    """Wrong sizes, incomplete shapes and unknown dtypes are refused before anything is allocated."""
    with pytest.raises(ServingError, match=r"^INVALID_ARGUMENT: tensor parsing error: x$"):
        decode(TensorProto(**fields), "x")


@given(st.binary(max_size=60))
def test_any_bytes_of_a_tensor_are_read_or_refused(data: bytes) -> None:
    """Whatever a client sends as string content, nothing but ServingError comes of it."""
    proto = TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape_proto((2, 2)), tensor_content=data)
    try:
        array = decode(proto, "x")
    except ServingError:
        return
    assert array.shape == (2, 2)


def test_bare_values_of_a_session_become_arrays() -> None:
    """A session hands a tensor without dimensions out as a number or as bytes."""
    assert as_array(b"ab", types_pb2.DT_STRING).shape == ()
    assert as_array(np.float32(3), types_pb2.DT_FLOAT).dtype == np.float32
    with pytest.raises(ServingError, match="UNIMPLEMENTED: tensors of type variant cannot be sent"):
        as_array(None, types_pb2.DT_VARIANT)
