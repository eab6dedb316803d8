"""Loaded SavedModels: signatures, calls, and what TensorFlow says when it refuses."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import SavedModel
from tests.unit.serving.tfserving.savedmodel_server.saved_models import HALVES, NUMBERS


def test_a_signature_computes(affine: SavedModel) -> None:
    """The empty name is the default signature, and its outputs keep their names."""
    signature = affine.signature("")
    assert signature is affine.signature("serving_default")
    assert signature is not None
    result = signature.run({"x": np.ones((3, 2), np.float32)}, ("y",))
    np.testing.assert_array_equal(result["y"], np.full((3, 2), 3, np.float32))


def test_only_wanted_outputs_are_returned(zoo: SavedModel) -> None:
    """A subset of the outputs, in the order asked for."""
    signature = zoo.signature("pair")
    assert signature is not None
    given = {"a": np.float32([3]), "b": np.float32([1])}
    assert signature.run(given, ("difference",)) == {"difference": np.float32([2])}
    assert list(signature.run(given, ("sum", "difference"))) == ["sum", "difference"]


@pytest.mark.parametrize("name", NUMBERS + HALVES)
def test_every_dtype_passes_through(zoo: SavedModel, name: str) -> None:
    """No dtype is converted on the way, and a tensor without dimensions stays one."""
    signature = zoo.signature(f"same_{name}")
    assert signature is not None
    for shape in ((2, 3), (0,), ()):
        array = np.ones(shape, tf.dtypes.as_dtype(name).as_numpy_dtype)
        result = signature.run({"x": array}, ("y",))["y"]
        assert (result.shape, result.dtype) == (shape, array.dtype)
        np.testing.assert_array_equal(result, array)


def test_strings_are_bytes(zoo: SavedModel) -> None:
    """A string tensor is an object array of bytes, without dimensions too."""
    signature = zoo.signature("words")
    assert signature is not None
    for array in (np.array([b"a", b"\xff\x00"], object), np.array(b"", object)):
        result = signature.run({"words": array}, ("text",))["text"]
        assert result.tolist() == array.tolist()
        assert result.shape == array.shape


def test_a_kernel_refuses_in_its_own_words(affine: SavedModel) -> None:
    """TensorFlow's code and text reach the caller."""
    signature = affine.signature("")
    assert signature is not None
    with pytest.raises(ServingError) as caught:
        signature.run({"x": np.ones(3, np.float16)}, ("y",))
    assert str(caught.value) == "INVALID_ARGUMENT: Expects arg[0] to be float but half is provided"


@pytest.mark.parametrize(
    ("shape", "text"), [((), "[]"), ((2,), "[2]"), ((1, 2, 1), "[1,2,1]"), ((1, 3), "[1,3]"), ((0, 3), "[0,3]")]
)
def test_a_shape_that_does_not_fit_is_refused(affine: SavedModel, shape: tuple[int, ...], text: str) -> None:
    """By rank and by every dimension that the signature has fixed; no kernel is asked."""
    signature = affine.signature("")
    assert signature is not None
    with pytest.raises(ServingError) as caught:
        signature.run({"x": np.ones(shape, np.float32)}, ("y",))
    assert str(caught.value) == f"INVALID_ARGUMENT: Expects arg[0] to be of shape [?,2] but {text} is provided"


def test_any_number_of_rows_fits(affine: SavedModel) -> None:
    """None among them."""
    signature = affine.signature("")
    assert signature is not None
    assert signature.run({"x": np.ones((0, 2), np.float32)}, ("y",))["y"].shape == (0, 2)


def test_a_call_out_of_time_is_cancelled(zoo: SavedModel) -> None:
    """In the middle of its computation, or before it starts; the threads are free again at once."""
    signature = zoo.signature("slow")
    assert signature is not None
    for ahead in (0.1, 0.1, 0.1, 0.1, -1):
        with pytest.raises(ServingError) as caught:
            signature.run({"steps": np.array(2**31 - 1, np.int32)}, ("count",), time.monotonic() + ahead)
        assert str(caught.value) == "DEADLINE_EXCEEDED: Timed out waiting for notification"
    result = signature.run({"steps": np.array(10, np.int32)}, ("count",), time.monotonic() + 30)
    assert result["count"] == 10


def test_an_unknown_signature_is_none(affine: SavedModel) -> None:
    """The initialiser cannot be called, though the metadata lists it."""
    assert affine.signature("nope") is None
    assert affine.signature("__saved_model_init_op") is None
    assert "__saved_model_init_op" in affine.signature_defs
