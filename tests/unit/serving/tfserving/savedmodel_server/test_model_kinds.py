"""SavedModels by whoever writes them: TensorFlow 1 and 2, Keras; other tags; what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import SavedModel
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine, save_keras, save_version_1


@pytest.mark.parametrize("op", ["main", "legacy"])
def test_a_model_of_tensorflow_1_is_initialised(tmp_path: Path, op: str) -> None:
    """Its variables, and its table from a file among its assets."""
    save_version_1(tmp_path / "m", op=op)
    model = SavedModel(tmp_path / "m" / "1")
    number, default = model.signature("number"), model.signature("")
    assert number is not None
    assert default is not None
    words = np.array([b"two", b"one", b"many"], object)
    assert number.run({"word": words}, ("number",))["number"].tolist() == [2, 1, -1]
    assert default.run({"x": np.float32([1, 2])}, ("y",))["y"].tolist() == [2, 3]
    assert default.method_name == "tensorflow/serving/predict"
    model.close()


def test_a_keras_model_has_its_layers_names(tmp_path: Path) -> None:
    """`export` writes two signatures, one of them the default."""
    save_keras(tmp_path / "m")
    model = SavedModel(tmp_path / "m" / "1")
    signature = model.signature("")
    assert signature is not None
    assert list(signature.inputs) == ["features"]
    (output,) = signature.outputs
    assert signature.run({"features": np.float32([[1, 2]])}, (output,))[output].tolist() == [[4]]
    model.close()


def test_a_graph_is_chosen_by_its_tags(tmp_path: Path) -> None:
    """The text is that of TensorFlow Serving's loader."""
    save_affine(tmp_path / "m", 1)
    with pytest.raises(ServingError) as caught:
        SavedModel(tmp_path / "m" / "1", tags=("serve", "gpu"))
    assert str(caught.value) == (
        "NOT_FOUND: Could not find meta graph def matching supplied tags: { serve gpu }. To inspect available tag-sets "
        "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
    )


def test_what_is_no_saved_model_is_told_as_by_tensorflow_serving(tmp_path: Path) -> None:
    """A folder without one, and a file that is none."""
    with pytest.raises(ServingError) as caught:
        SavedModel(tmp_path)
    assert str(caught.value) == (
        f"NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied export directory path: {tmp_path}. Check that "
        "the directory exists and that you have the right permissions for accessing it."
    )
    (tmp_path / "saved_model.pb").write_bytes(b"\xff not a model")
    with pytest.raises(ServingError) as caught:
        SavedModel(tmp_path)
    assert str(caught.value) == f"DATA_LOSS: Can't parse {tmp_path}/saved_model.pb as binary proto"
