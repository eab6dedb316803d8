"""TFLite, and a SavedModel without Grappler. XLA is compiled in the tier of the variants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from models.export import savedmodel, savedmodel_nograppler, tflite
from models.job import Job
from models.variants import VariantError
from models.zoo.dataset import part


def test_a_tflite_files_tensors_are_called_as_the_contracts_are(job: Callable[[str], Job]) -> None:
    """Which is what TensorFlow Serving makes a signature of; any number of rows is answered."""
    its = job("tflite-fp32")
    tflite.export(its)
    interpreter = tflite.interpreter_of(its)
    assert [detail["name"] for detail in interpreter.get_input_details()] == ["features"]
    assert [detail["name"] for detail in interpreter.get_output_details()] == ["progression"]
    expected = savedmodel.predict(its.definition, its.base / "savedmodel", its.test_rows)["progression"]
    for rows in (1, 40):
        answered = tflite.predict(its, part(its.test_rows, 0, rows))["progression"]
        assert np.allclose(answered, expected[:rows], rtol=1e-5, atol=1e-5)


def test_full_int8_keeps_the_contracts_datatypes(job: Callable[[str], Job]) -> None:
    """What is quantized is quantized inside, by the ranges of training rows."""
    its = job("tflite-int8")
    tflite.export(its)
    interpreter = tflite.interpreter_of(its)
    dtypes = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert np.int8 in dtypes
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (taken["dtype"], given["dtype"]) == (np.float32, np.float32)


def test_a_model_too_small_to_quantize_is_not_called_quantized(job: Callable[[str], Job]) -> None:
    """The converter would leave FP32 without a word."""
    with pytest.raises(VariantError, match="TFLite left all weights in FP32; .* at least 1,024 elements"):
        tflite.export(job("tflite-dynamic"))


def test_without_grappler_nothing_fused_is_executed(job: Callable[[str], Job]) -> None:
    """Told from what a session executed, not from its options: the model's own SavedModel is the other way round."""
    its = job("savedmodel-nograppler")
    rows = part(its.test_rows, 0, 2)
    savedmodel_nograppler.export(its)
    config = savedmodel_nograppler.session_config()
    fused = savedmodel_nograppler.FUSED
    plain = savedmodel.executed(its.definition, its.folder, rows, config)
    assert [name for name in plain if fused.match(name)] == []
    assert {"BiasAdd", "Relu"} <= set(plain)
    as_built = its.base / "savedmodel"
    assert [name for name in savedmodel.executed(its.definition, as_built, rows) if fused.match(name)]
    # Neither the session's option nor the SavedModel's own does it alone.
    for folder, options in ((as_built, config), (its.folder, None)):
        assert [name for name in savedmodel.executed(its.definition, folder, rows, options) if fused.match(name)]
