"""A `model.tflite` in a version's folder, with the signatures that TensorFlow Serving gives it (tflite_session.cc)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

# Not tf.lite, which would import the converter and what it needs.
from tensorflow.lite.python.interpreter import Interpreter

from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.executor import (
    DEFAULT_SIGNATURE,
    Execute,
    Signature,
    SignatureDef,
    Wrap,
    left_ms,
)
from serving.tfserving.savedmodel_server.tensors import DATA_TYPES, NDArray, PartialShape, shape_proto

FILE = "model.tflite"
PREDICT = "tensorflow/serving/predict"
# Where a model keeps the SignatureDefs that its author gave it: a FlexBuffer map of serialized messages.
METADATA = b"signature_defs_metadata"

_DTYPES = {kind.dtype: number for number, kind in DATA_TYPES.items()} | {np.dtype(np.bytes_): types_pb2.DT_STRING}


class TFLiteModel:
    """A TFLite model in memory. Raises ServingError where it cannot be loaded.

    Without SignatureDefs in its metadata it has one signature, `serving_default`, whose inputs and outputs are called
    as the model's tensors are. One call runs at a time.
    """

    def __init__(self, folder: Path, *, wrap: Wrap | None = None) -> None:
        try:
            content = (folder / FILE).read_bytes()
        except OSError as exc:
            raise ServingError(StatusCode.NOT_FOUND, f"{folder / FILE}: {exc.strerror}") from exc
        self._runner = _Runner(content)
        self._definitions = {
            name: _resolved(definition, self._runner) for name, definition in _metadata(content).items()
        } or {DEFAULT_SIGNATURE: _of_tensors(self._runner)}
        self._signatures = {
            name: self._signature(name, definition, wrap) for name, definition in self._definitions.items()
        }

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """Every signature, with the datatypes and shapes of the model's tensors."""
        return self._definitions

    def signature(self, name: str) -> Signature | None:
        """The signature of that name ("" is `serving_default`); None where there is none."""
        return self._signatures.get(name or DEFAULT_SIGNATURE)

    def close(self) -> None:
        """Frees the model; no call may be under way."""
        self._signatures = {}

    def _signature(self, name: str, definition: SignatureDef, wrap: Wrap | None) -> Signature:
        execute: Execute = _TFLiteRun(definition, self._runner)
        shapes = {alias: self._runner.shapes[info.name] for alias, info in definition.inputs.items()}
        return Signature(name, definition, wrap(definition, execute) if wrap else execute, shapes)


class _TFLiteRun:
    """Executes one signature."""

    def __init__(self, definition: SignatureDef, runner: _Runner) -> None:
        self._runner = runner
        self._inputs = {alias: info.name for alias, info in definition.inputs.items()}
        self._outputs = {alias: info.name for alias, info in definition.outputs.items()}

    def __call__(
        self, arrays: Mapping[str, NDArray], wanted: Sequence[str], deadline: float | None
    ) -> dict[str, NDArray]:
        given = {self._inputs[alias]: array for alias, array in arrays.items()}
        values = self._runner.run(given, [self._outputs[alias] for alias in wanted], deadline)
        return dict(zip(wanted, values, strict=True))


class _Runner:
    """The interpreter, which keeps the shapes of its last call."""

    def __init__(self, content: bytes) -> None:
        try:
            with warnings.catch_warnings():
                # TensorFlow's own copy of it is to move to another package one day.
                warnings.simplefilter("ignore", UserWarning)
                self._interpreter = Interpreter(model_content=content)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as exc:
            raise invalid(f"Cannot build FlatBufferModel from buffer. {exc}") from exc
        self.inputs = _infos(self._interpreter.get_input_details())
        self.outputs = _infos(self._interpreter.get_output_details())
        self.shapes = {detail["name"]: _partial_shape(detail) for detail in self._interpreter.get_input_details()}
        self._indices = {
            detail["name"]: detail["index"]
            for detail in (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        }
        self._last: dict[str, tuple[int, ...]] = {}
        self._lock = threading.Lock()

    def run(self, given: Mapping[str, NDArray], wanted: Iterable[str], deadline: float | None) -> list[NDArray]:
        """The wanted tensors, by name, for the given ones; raises INTERNAL where the model refuses."""
        with self._lock:
            # The interpreter knows no deadline: what is over by now is not begun.
            left_ms(deadline)
            shapes = {name: array.shape for name, array in given.items()}
            step = "resize its inputs"
            try:
                if shapes != self._last:
                    self._last = {}
                    for name, shape in shapes.items():
                        self._interpreter.resize_tensor_input(self._indices[name], list(shape))
                    step = "AllocateTensors() for its inputs"
                    self._interpreter.allocate_tensors()
                    self._last = shapes
                step = "run interpreter"
                for name, array in given.items():
                    self._interpreter.set_tensor(self._indices[name], array)
                self._interpreter.invoke()
                return [self._interpreter.get_tensor(self._indices[name]) for name in wanted]
            except (RuntimeError, ValueError) as exc:
                self._last = {}
                raise ServingError(StatusCode.INTERNAL, f"Failed to {step}. {exc}") from exc


def _infos(details: Iterable[Mapping[str, Any]]) -> dict[str, meta_graph_pb2.TensorInfo]:
    """The tensors of a side by name, with the shapes that they have before anything is resized."""
    infos = {}
    for detail in details:
        dtype = _DTYPES.get(np.dtype(detail["dtype"]))
        if dtype is None:
            raise ServingError(StatusCode.INTERNAL, f"Unknown TfLite type: {np.dtype(detail['dtype'])}")
        shape = shape_proto([int(size) for size in detail["shape"]])
        infos[detail["name"]] = meta_graph_pb2.TensorInfo(name=detail["name"], dtype=dtype, tensor_shape=shape)
    return infos


def _partial_shape(detail: Mapping[str, Any]) -> PartialShape:
    """What an input may be resized to: any number of rows, and any size where the model's author left one open.

    The interpreter refuses no other shape: XNNPACK's convolution reads beyond the end of a smaller tensor.
    """
    sizes = [int(size) for size in detail["shape_signature"]]
    # A tensor of unknown rank is told as a scalar.
    return (-1, *sizes[1:]) if sizes else None


def _of_tensors(runner: _Runner) -> SignatureDef:
    return SignatureDef(inputs=runner.inputs, outputs=runner.outputs, method_name=PREDICT)


def _resolved(definition: SignatureDef, runner: _Runner) -> SignatureDef:
    """A signature of the metadata with its tensors as the model has them; raises INTERNAL where it lacks one."""
    found = SignatureDef(method_name=definition.method_name)
    for given, known, into in (
        (definition.inputs, runner.inputs, found.inputs),
        (definition.outputs, runner.outputs, found.outputs),
    ):
        for alias, info in given.items():
            # Early converters left the `:0` of TensorFlow's names out.
            name = info.name if info.name in known else info.name.partition(":")[0]
            if name not in known:
                raise ServingError(StatusCode.INTERNAL, f"Missing TFLite tensor: {info.name}")
            into[alias].CopyFrom(known[name])
    return found


def _metadata(content: bytes) -> dict[str, SignatureDef]:
    """The SignatureDefs in a model's metadata by name, none where it has none; raises INVALID_ARGUMENT."""
    model = schema.Model.GetRootAs(content)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == METADATA:
            packed = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
            try:
                return {key.AsKey: SignatureDef.FromString(packed[key.AsKey].AsStringBytes) for key in packed.Keys}
            except (DecodeError, TypeError) as exc:
                raise invalid(f"Invalid SignatureDefs found in TfLite model: {exc}") from exc
    return {}
