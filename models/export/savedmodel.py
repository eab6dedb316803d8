"""The `savedmodel` variant: what TensorFlow Serving loads."""

from __future__ import annotations

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
    module = tf.Module()
    module.net = net
    tf.saved_model.save(module, str(target), signatures={SIGNATURE: serve.get_concrete_function()})
    return target


def predict(definition: ModelDefinition, folder: Path, inputs: Array) -> Array:
    """The outputs of a saved model's signature, for all rows: what TensorFlow Serving will run, without it."""
    loaded = tf.saved_model.load(str(folder / str(definition.version)))
    answer = loaded.signatures[SIGNATURE](**{definition.inputs[0].name: tf.constant(inputs)})
    return np.asarray(answer[definition.outputs[0].name])
