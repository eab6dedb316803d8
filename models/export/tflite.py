"""The `tflite-*` variants: a `model.tflite` that TensorFlow Serving runs with `--prefer_tflite_model`.

A server that finds no signature in the file makes one of its tensors' names: they are called as the contract's are.
All take and give the contract's own datatypes; what is quantized is quantized inside.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.interpreter import Interpreter
from tensorflow.lite.tools import flatbuffer_utils

from models.export import savedmodel
from models.job import Job
from models.variants import Variant, VariantError
from models.zoo.dataset import Rows, batches, count, joined, part

FILE = "model.tflite"
# Training rows that the activations' ranges are taken from.
REPRESENTATIVE_ROWS = 200
BATCH = 16
HELD = {"FP16": schema.TensorType.FLOAT16, "INT8": schema.TensorType.INT8}


def unavailable(job: Job) -> str | None:
    """Converter and interpreter come with TensorFlow."""
    return None


def export(job: Job) -> None:
    """Converts the model's SavedModel; raises the converter's error where an operation has no TFLite kernel."""
    version = str(job.definition.version)
    with _quietly():
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(job.base / "savedmodel" / version), signature_keys=[savedmodel.SIGNATURE]
        )
        _set_options(converter, job)
        content = converter.convert()
    path = job.folder / version / FILE
    path.parent.mkdir()
    path.write_bytes(_finished(content, job.variant))


def predict(job: Job, rows: Rows) -> Rows:
    """The outputs of the interpreter, its inputs resized to the rows as TensorFlow Serving does."""
    interpreter = interpreter_of(job)
    inputs = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}
    parts = []
    for some in batches(rows, BATCH):
        for name, array in some.items():
            interpreter.resize_tensor_input(inputs[name], array.shape)
        interpreter.allocate_tensors()
        for name, array in some.items():
            interpreter.set_tensor(inputs[name], array)
        interpreter.invoke()
        parts.append({name: interpreter.get_tensor(index) for name, index in outputs.items()})
    return joined(parts)


def interpreter_of(job: Job) -> Interpreter:
    """The interpreter of the variant's file."""
    with _quietly():
        return Interpreter(model_path=str(job.folder / str(job.definition.version) / FILE))


def _set_options(converter: Any, job: Job) -> None:  # noqa: ANN401 - TensorFlow's
    kind = job.variant.name.removeprefix("tflite-")
    if kind != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: _representative(job.train_rows)
        # Nothing is left in floating point silently: what has no INT8 kernel is an error.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def _representative(rows: Rows) -> Iterator[dict[str, Any]]:
    for row in batches(part(rows, 0, min(count(rows), REPRESENTATIVE_ROWS)), 1):
        yield dict(row)


def _finished(content: bytes, variant: Variant) -> bytes:
    """The same model with its inputs and outputs called as its signature calls them.

    Raises VariantError where nothing in it is what the variant promises: the converter leaves what it will not
    quantize in FP32, and says nothing.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    held = {tensor.type for graph in model.subgraphs for tensor in graph.tensors}
    if variant.datatype in HELD and HELD[variant.datatype] not in held:
        raise VariantError(
            f"TFLite left all weights in FP32; for {variant.name} it quantizes only those of at least 1,024 elements"
        )
    (signature,) = model.signatureDefs
    graph = model.subgraphs[signature.subgraphIndex]
    for side in (signature.inputs, signature.outputs):
        for alias in side:
            graph.tensors[alias.tensorIndex].name = alias.name
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@contextmanager
def _quietly() -> Iterator[None]:
    """TensorFlow announces that its TFLite is to move to another package, which its server does not use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
