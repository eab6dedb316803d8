"""The `savedmodel` variant: what TensorFlow Serving loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf.config_pb2 import ConfigProto

from gateway.core.messages import TensorSpec
from models.zoo import ModelDefinition
from models.zoo.dataset import Rows, batches, joined

if TYPE_CHECKING:
    import keras

SIGNATURE = "serving_default"
DTYPES = {"FP32": tf.float32, "FP64": tf.float64, "INT32": tf.int32, "INT64": tf.int64, "BYTES": tf.string}
# Rows that a prediction takes at once, so that a large model's activations fit into memory.
BATCH = 64


def export(definition: ModelDefinition, net: keras.Model, folder: Path) -> Path:
    """Writes `folder/<version>/saved_model.pb` with signature `serving_default` and the definition's tensor names.

    The signature is a function that returns a dict: Keras's own export would call the outputs `output_0`.
    """
    target = folder / str(definition.version)
    save(signature_of(definition, net), net, target)
    return target


def signature_of(definition: ModelDefinition, net: keras.Model, **options: Any) -> Any:  # noqa: ANN401 - TensorFlow's
    """The network as a `tf.function` of the definition's inputs by name; `options` are `tf.function`'s."""
    (output,) = definition.outputs
    specs = [tensor_spec(spec) for spec in definition.inputs]

    @tf.function(input_signature=specs, **options)
    def serve(*tensors: Any) -> dict[str, Any]:  # noqa: ANN401 - TensorFlow tensors
        return {output.name: net_output(definition, net, tensors)}

    return serve


def net_output(definition: ModelDefinition, net: keras.Model, tensors: Sequence[Any]) -> Any:  # noqa: ANN401
    """The network's output for the definition's inputs in order, as part of a graph."""
    if len(tensors) == 1:
        return net(tensors[0], training=False)
    names = [spec.name for spec in definition.inputs]
    return net(dict(zip(names, tensors, strict=True)), training=False)


def tensor_spec(spec: TensorSpec) -> tf.TensorSpec:
    """A contract's tensor in TensorFlow."""
    shape = [None if size == -1 else size for size in spec.shape]
    return tf.TensorSpec(shape, DTYPES[spec.datatype], name=spec.name)


def save(serve: Any, net: keras.Model, target: Path) -> None:  # noqa: ANN401 - a tf.function
    """Writes a SavedModel with `serve` as its signature `serving_default`."""
    # Keras's own object graph hides its variables from a session's restore, which is how TensorFlow Serving loads.
    module = tf.Module()
    module.weights = [weight.value for weight in net.weights]
    tf.saved_model.save(module, str(target), signatures={SIGNATURE: serve.get_concrete_function()})


def predict(definition: ModelDefinition, folder: Path, rows: Rows, config: ConfigProto | None = None) -> Rows:
    """The outputs of a saved model's signature, for all rows, in a session with `config`."""
    with _loaded(definition, folder, config) as (session, inputs, outputs):
        parts = []
        for some in batches(rows, BATCH):
            parts.append(session.run(outputs, {inputs[name]: array for name, array in some.items()}))
        return joined(parts)


def executed(definition: ModelDefinition, folder: Path, rows: Rows, config: ConfigProto | None = None) -> list[str]:
    """The operations that a session executes for these rows, in the order of their start, by kind."""
    options = config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE)
    traced = config_pb2.RunMetadata()
    with _loaded(definition, folder, config) as (session, inputs, outputs):
        fed = {inputs[name]: array for name, array in rows.items()}
        session.run(outputs, fed, options=options, run_metadata=traced)
    stats = [node for device in traced.step_stats.dev_stats for node in device.node_stats]
    stats.sort(key=lambda node: node.all_start_micros)
    # "name = Kind(inputs)" in a session, "name:Kind" of what a function calls.
    labels = [node.timeline_label or node.node_name for node in stats]
    return [label.partition(" = ")[2].partition("(")[0] or label.rpartition(":")[2] for label in labels]


@contextmanager
def _loaded(
    definition: ModelDefinition, folder: Path, config: ConfigProto | None
) -> Iterator[tuple[tf.compat.v1.Session, dict[str, str], dict[str, str]]]:
    """A session with the saved model, and the names of its signature's tensors in the graph, inputs and outputs.

    It is loaded as TensorFlow Serving loads it. `tf.saved_model.load` restores Python objects instead, and forgives
    what a session does not.
    """
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph, config=config) as session, _without_advice():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / str(definition.version)))
        signature = loaded.signature_def[SIGNATURE]
        yield (
            session,
            {name: info.name for name, info in signature.inputs.items()},
            {spec.name: signature.outputs[spec.name].name for spec in definition.outputs},
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """TensorFlow's advice to load with `tf.saved_model.load` is kept out of the output."""
    advisor = logging.getLogger("tensorflow")
    level = advisor.level
    advisor.setLevel(logging.ERROR)
    try:
        yield
    finally:
        advisor.setLevel(level)
