"""TFLite models: their signatures, shapes that change from call to call, strings, and what is no model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import Builder, flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import SignatureDef
from serving.tfserving.savedmodel_server.tflite import METADATA, TFLiteModel
from tests.unit.serving.tfserving.savedmodel_server.saved_models import Affine, tflite_model


class Words(tf.Module):
    """Strings as they are."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def same(self, words: Any) -> dict[str, Any]:
        """The one function."""
        return {"same": tf.identity(words)}


@pytest.fixture(scope="module")
def content() -> bytes:
    """The affine model, converted."""
    model = Affine(1)
    return tflite_model(model, model.infer)


def written(folder: Path, content: bytes) -> TFLiteModel:
    """The model of a folder with this file."""
    (folder / "model.tflite").write_bytes(content)
    return TFLiteModel(folder)


def with_signatures(content: bytes, signatures: Mapping[str, SignatureDef]) -> bytes:
    """A model with SignatureDefs in its metadata, as signature_def_util writes them."""
    packer = flexbuffers.Builder()
    with packer.Map():
        for name, definition in signatures.items():
            packer.Key(name)
            packer.String(definition.SerializeToString().decode())
    model = schema.ModelT.InitFromPackedBuf(content)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.frombuffer(bytes(packer.Finish()), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    builder = Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_without_signatures_of_its_own_there_is_one_by_the_tensors_names(tmp_path: Path, content: bytes) -> None:
    """With the shapes that the model has before anything is resized."""
    model = written(tmp_path, content)
    assert list(model.signature_defs) == ["serving_default"]
    signature = model.signature("")
    assert signature is not None
    (given,), (answer,) = signature.inputs, signature.outputs
    assert (signature.inputs[given].name, signature.method_name) == (given, "tensorflow/serving/predict")
    assert [dim.size for dim in signature.inputs[given].tensor_shape.dim] == [1, 2]
    for rows in (1, 3, 3, 0, 2):
        result = signature.run({given: np.ones((rows, 2), np.float32)}, (answer,))[answer]
        np.testing.assert_array_equal(result, np.full((rows, 2), 3, np.float32))
    assert model.signature("other") is None
    model.close()


def test_signatures_of_its_own_name_the_tensors(tmp_path: Path, content: bytes) -> None:
    """Several, with their methods; a name without `:0` is found as well."""
    plain = written(tmp_path, content).signature_defs["serving_default"]
    (given,), (answer,) = plain.inputs, plain.outputs
    definition = meta_graph_pb2.SignatureDef(method_name="mine")
    definition.inputs["x"].name = given
    definition.outputs["y"].name = answer
    model = written(tmp_path, with_signatures(content, {"one": definition, "serving_default": definition}))
    assert sorted(model.signature_defs) == ["one", "serving_default"]
    signature = model.signature("one")
    assert signature is not None
    assert (signature.method_name, signature.inputs["x"].dtype) == ("mine", plain.inputs[given].dtype)
    assert signature.run({"x": np.zeros((2, 2), np.float32)}, ("y",))["y"].tolist() == [[1, 1], [1, 1]]
    definition.inputs["x"].name = "nowhere:0"
    with pytest.raises(ServingError, match="INTERNAL: Missing TFLite tensor: nowhere:0"):
        written(tmp_path, with_signatures(content, {"one": definition}))


def test_strings_pass_through(tmp_path: Path) -> None:
    """As bytes, of any number."""
    words = Words()
    signature = written(tmp_path, tflite_model(words, words.same)).signature("")
    assert signature is not None
    (given,), (answer,) = signature.inputs, signature.outputs
    for array in (np.array([b"a", b"\xff\x00", b""], object), np.array([], object)):
        assert signature.run({given: array}, (answer,))[answer].tolist() == array.tolist()


def test_a_call_that_fails_leaves_the_model_usable(tmp_path: Path, content: bytes) -> None:
    """A wrong datatype, a wrong rank or size, no time left."""
    signature = written(tmp_path, content).signature("")
    assert signature is not None
    (given,), (answer,) = signature.inputs, signature.outputs
    good = {given: np.ones((1, 2), np.float32)}
    for bad, deadline, code in (
        ({given: np.ones((1, 2), np.float64)}, None, "INVALID_ARGUMENT"),
        ({given: np.ones((2, 2, 2, 2, 2, 2, 2), np.float32)}, None, "INVALID_ARGUMENT"),
        ({given: np.ones(2, np.float32)}, None, "INVALID_ARGUMENT"),
        ({given: np.ones((2, 1), np.float32)}, None, "INVALID_ARGUMENT"),
        (good, time.monotonic() - 1, "DEADLINE_EXCEEDED"),
    ):
        with pytest.raises(ServingError) as caught:
            signature.run(bad, (answer,), deadline)
        assert caught.value.code.name == code
        assert signature.run(good, (answer,))[answer].tolist() == [[3, 3]]


def test_what_is_no_model_does_not_load(tmp_path: Path, content: bytes) -> None:
    """Other bytes, half a model, no file."""
    for wrong in (b"nonsense", content[: len(content) // 2]):
        with pytest.raises(ServingError, match="INVALID_ARGUMENT: Cannot build FlatBufferModel from buffer"):
            written(tmp_path, wrong)
    (tmp_path / "model.tflite").unlink()
    with pytest.raises(ServingError, match="NOT_FOUND"):
        TFLiteModel(tmp_path)
