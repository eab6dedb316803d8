"""Handlers that a user of TorchServe may have written: nothing of the gateway's frame, nothing of its codecs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gateway.core.tensor import NUMPY_DTYPE
from tests.fakes.script import FakeModel


def json_handler(model: FakeModel, body: bytes) -> bytes:
    """`{"inputs": {name: nested list}}` in, `{"outputs": {..}}` out, as Python's json prints it."""
    inputs = json.loads(body)["inputs"]
    arrays = {spec.name: _array(inputs[spec.name], spec.datatype) for spec in model.inputs}
    outputs = {name: _listed(array) for name, array in model.compute(arrays).items()}
    return json.dumps({"outputs": outputs}, indent=2).encode()


def raw_handler(model: FakeModel, body: bytes) -> bytes:
    """The one input's bytes in, an object with the outputs out."""
    (spec,) = model.inputs
    array = np.frombuffer(body, NUMPY_DTYPE[spec.datatype]).reshape(spec.shape)
    outputs = {name: _listed(array) for name, array in model.compute({spec.name: array}).items()}
    return json.dumps(outputs).encode()


def _array(values: object, datatype: str) -> np.ndarray[Any, Any]:
    if datatype != "BYTES":
        return np.array(values, NUMPY_DTYPE[datatype])
    texts = np.array(values, object)
    return np.array([text.encode() for text in texts.flat], object).reshape(texts.shape)


def _listed(array: np.ndarray[Any, Any]) -> object:
    if array.dtype == object:
        return np.array([item.decode() for item in array.flat], object).reshape(array.shape).tolist()
    return (
        array.astype(np.float32).tolist() if array.dtype.itemsize == 2 and array.dtype.kind in "fV" else array.tolist()
    )
