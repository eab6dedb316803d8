"""The `savedmodel` variant: what TensorFlow Serving loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

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


def predict(definition: ModelDefinition, folder: Path, rows: Rows, config: Any = None) -> Rows:  # noqa: ANN401
    """The outputs of a saved model's signature, for all rows, loaded as TensorFlow Serving loads it: into a session.

    `tf.saved_model.load` restores Python objects instead, and forgives what a session does not. `config` is a
    `ConfigProto` for the session.
    """
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph, config=config) as session, _without_advice():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / str(definition.version)))
        signature = loaded.signature_def[SIGNATURE]
        wanted = {spec.name: signature.outputs[spec.name].name for spec in definition.outputs}
        parts = []
        for some in batches(rows, BATCH):
            fed = {signature.inputs[name].name: array for name, array in some.items()}
            parts.append({name: np.asarray(array) for name, array in session.run(wanted, fed).items()})
        return joined(parts)


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
