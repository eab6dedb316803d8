"""The SavedModel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from models.export import savedmodel
from models.train import Trained, predict_keras


def test_the_signature_has_the_definitions_names_and_shapes(trained_keras: Trained, tmp_path: Path) -> None:
    """In a numbered folder: names and open first dimension as TensorFlow Serving will report them."""
    definition = trained_keras.definition
    folder = savedmodel.export(definition, trained_keras.net, tmp_path)
    assert folder == tmp_path / "1"
    assert (folder / "saved_model.pb").is_file()
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (spec,), (output,) = definition.inputs, definition.outputs
    (given,) = signature.structured_input_signature[1].values()
    assert (given.name, given.dtype, given.shape.as_list()) == (spec.name, tf.float32, [None, *spec.shape[1:]])
    (answered,) = signature.structured_outputs.values()
    assert list(signature.structured_outputs) == [output.name]
    assert answered.shape.as_list() == [None, *output.shape[1:]]


def test_the_saved_graph_takes_any_number_of_rows(trained_keras: Trained, tmp_path: Path) -> None:
    """Loaded into a session, it answers as the network does for one and for many."""
    definition, rows = trained_keras.definition, trained_keras.data.test_inputs
    savedmodel.export(definition, trained_keras.net, tmp_path)
    for count in (1, len(rows)):
        expected = predict_keras(trained_keras.net, rows[:count])
        answers = savedmodel.predict(definition, tmp_path, {definition.inputs[0].name: rows[:count]})
        assert np.allclose(answers[definition.outputs[0].name], expected, rtol=1e-5, atol=1e-5)
