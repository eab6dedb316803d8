"""The `xla` variant: a SavedModel whose signature is compiled by XLA, for a few shapes only.

XLA compiles anew for every shape that it meets, for seconds of a large model. So the signature pads: rows to the next
of `ROWS`, and where a second dimension is open (a sequence, masked), its length to the next of `LENGTHS`; more rows
than the largest are worked through in parts. The SavedModel brings a warm-up request for each of these shapes, which
TensorFlow Serving runs before it answers anybody: nothing is compiled in service.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import tensorflow as tf

from models.export import savedmodel
from models.job import Job
from models.zoo import ModelDefinition
from models.zoo.dataset import Rows

ROWS = (1, 2, 4, 8, 16, 32)
# Rows of a model whose sequences are open: each is compiled for every length.
SEQUENCE_ROWS, LENGTHS = (1, 8, 32), (16, 64, 256)
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")


def unavailable(job: Job) -> str | None:
    """The warm-up requests are TensorFlow Serving's messages."""
    if importlib.util.find_spec("tensorflow_serving") is None:
        return "needs the package tensorflow-serving-api, for the requests that warm it up"
    return None


def export(job: Job) -> None:
    """Writes the SavedModel with its warm-up requests."""
    net, definition = job.keras_net(), job.definition
    target = job.folder / str(definition.version)
    savedmodel.save(_signature(definition, net), net, target)
    _write_warm_up(job, target / WARM_UP)


def predict(job: Job, rows: Rows) -> Rows:
    """The outputs in a session, as TensorFlow Serving runs it."""
    return savedmodel.predict(job.definition, job.folder, rows)


def is_sequence(definition: ModelDefinition) -> bool:
    """Whether the second dimension of the inputs is open."""
    return any(spec.shape[1:2] == (-1,) for spec in definition.inputs)


def shapes(definition: ModelDefinition) -> Iterator[tuple[int, int]]:
    """Every number of rows and length that is compiled; the length is 0 where it is not open."""
    if is_sequence(definition):
        yield from product(SEQUENCE_ROWS, LENGTHS)
    else:
        yield from product(ROWS, (0,))


def _signature(definition: ModelDefinition, net: Any) -> Any:  # noqa: ANN401 - Keras's and TensorFlow's
    (output,) = definition.outputs
    specs, specs_out = [savedmodel.tensor_spec(spec) for spec in definition.inputs], savedmodel.tensor_spec(output)
    sequence = is_sequence(definition)
    sizes = SEQUENCE_ROWS if sequence else ROWS

    @tf.function(jit_compile=True, reduce_retracing=True)
    def compiled(*tensors: Any) -> Any:  # noqa: ANN401
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.set_shape(spec.shape)
        return savedmodel.net_output(definition, net, tensors)

    @tf.function(input_signature=specs)
    def serve(*tensors: Any) -> dict[str, Any]:  # noqa: ANN401
        rows = tf.shape(tensors[0])[0]
        size = _next(sizes, rows)
        parts = tf.maximum((rows + size - 1) // size, 1)
        length = _checked_length(tensors[0]) if sequence else None
        padded = [_padded(tensor, parts * size, length) for tensor in tensors]

        def in_parts() -> Any:  # noqa: ANN401
            split = [tf.reshape(each, tf.concat([[parts, size], tf.shape(each)[1:]], 0)) for each in padded]
            for each, spec in zip(split, specs, strict=True):
                each.set_shape([None, None, *spec.shape[1:]])
            answers = tf.map_fn(lambda some: compiled(*some), tuple(split), fn_output_signature=specs_out.dtype)
            return tf.reshape(answers, tf.concat([[parts * size], tf.shape(answers)[2:]], 0))

        answers = tf.cond(parts <= 1, lambda: compiled(*padded), in_parts)
        return {output.name: tf.ensure_shape(answers[:rows], specs_out.shape)}

    return serve


def _next(sizes: Sequence[int], wanted: Any) -> Any:  # noqa: ANN401 - a TensorFlow tensor
    """The smallest of `sizes` that is not below `wanted`, or the largest of them."""
    return tf.reduce_min(tf.where(tf.constant(sizes) >= wanted, sizes, sizes[-1]))


def _checked_length(tensor: Any) -> Any:  # noqa: ANN401
    length = tf.shape(tensor)[1]
    with tf.control_dependencies(
        [
            tf.debugging.assert_less_equal(
                length, LENGTHS[-1], f"at most {LENGTHS[-1]} a row; it is compiled for no more"
            )
        ]
    ):
        return _next(LENGTHS, length)


def _padded(tensor: Any, rows: Any, length: Any) -> Any:  # noqa: ANN401
    """With zeros behind: rows that are cut off again, and positions that the mask, zero there too, leaves out."""
    ends = [rows - tf.shape(tensor)[0]]
    if length is not None:
        ends.append(length - tf.shape(tensor)[1])
    ends += [0] * (tensor.shape.rank - len(ends))
    return tf.pad(tensor, tf.stack([tf.zeros_like(ends), ends], 1))


def _write_warm_up(job: Job, path: Path) -> None:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for rows, length in shapes(job.definition):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = job.served_name
            request.model_spec.signature_name = savedmodel.SIGNATURE
            for spec in job.definition.inputs:
                shape = [rows, *(length if size == -1 else size for size in spec.shape[1:])]
                # One value that stands for all of them: a large model's images would take more than its weights.
                ones = tf.make_tensor_proto(1, savedmodel.DTYPES[spec.datatype], shape)
                request.inputs[spec.name].CopyFrom(ones)
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())
