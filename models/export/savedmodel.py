"""The `savedmodel` variant: what TensorFlow Serving loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from models.zoo import ModelDefinition
from models.zoo.dataset import Array

if TYPE_CHECKING:
    import keras

SIGNATURE = "serving_default"


def export(definition: ModelDefinition, net: keras.Model, folder: Path) -> Path:
    """Writes `folder/<version>/saved_model.pb` with signature `serving_default` and the definition's tensor names.

    The signature is a function that returns a dict: Keras's own export would call the outputs `output_0`.
    """
    (spec,) = definition.inputs
    (output,) = definition.outputs
    shape = [None if size == -1 else size for size in spec.shape]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name=spec.name)])
    def serve(rows: Any) -> dict[str, Any]:  # noqa: ANN401 - a TensorFlow tensor
        return {output.name: net(rows, training=False)}

    target = folder / str(definition.version)
    # Keras's own object graph hides its variables from a session's restore, which is how TensorFlow Serving loads.
    module = tf.Module()
    module.weights = [weight.value for weight in net.weights]
    tf.saved_model.save(module, str(target), signatures={SIGNATURE: serve.get_concrete_function()})
    return target


def predict(definition: ModelDefinition, folder: Path, inputs: Array) -> Array:
    """The outputs of a saved model's signature, for all rows, loaded as TensorFlow Serving loads it: into a session.

    `tf.saved_model.load` restores Python objects instead, and forgives what a session does not.
    """
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session, _without_advice():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / str(definition.version)))
        signature = loaded.signature_def[SIGNATURE]
        output = signature.outputs[definition.outputs[0].name].name
        return np.asarray(session.run(output, {signature.inputs[definition.inputs[0].name].name: inputs}))


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
