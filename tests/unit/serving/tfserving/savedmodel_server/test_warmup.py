"""Replaying the requests that a version brings with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import SavedModel
from serving.tfserving.savedmodel_server.metrics import Metrics
from serving.tfserving.savedmodel_server.warmup import MAX_RECORDS, warm_up
from tests.unit.serving.tfserving.savedmodel_server.example_models import REGRESS, save_examples
from tests.unit.serving.tfserving.savedmodel_server.saved_models import write_warmup


def record(x: Any, **spec: Any) -> bytes:
    """A predict request for the affine model, recorded from a model of another name and version."""
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "recorded"
    request.model_spec.version.value = 99
    request.model_spec.signature_name = spec.get("signature", "")
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.asarray(x, spec.get("dtype", np.float32))))
    return log.SerializeToString()


def test_every_request_runs(tmp_path: Path, affine: SavedModel) -> None:
    """Whatever model and version they were recorded from; without a file there are none."""
    assert warm_up(tmp_path, affine) == 0
    write_warmup(tmp_path, record([[1, 2]]), record([[3, 4], [5, 6]], signature="serving_default"), b"")
    assert warm_up(tmp_path, affine, iterations=2) == 3


def test_requests_over_examples_run_too(tmp_path: Path) -> None:
    """Classify, regress and multi-inference; an empty input is refused as at the door."""
    save_examples(tmp_path)
    model = SavedModel(tmp_path / "1")
    examples = {"example_list": {"examples": [{}]}}
    regress = {"model_spec": {"name": "x", "signature_name": "regress"}, "input": examples}
    task = {"model_spec": regress["model_spec"], "method_name": REGRESS}
    logs = [
        prediction_log_pb2.PredictionLog(classify_log={"request": {"input": examples}}),
        prediction_log_pb2.PredictionLog(regress_log={"request": regress}),
        prediction_log_pb2.PredictionLog(multi_inference_log={"request": {"tasks": [task], "input": examples}}),
    ]
    metrics = Metrics()
    write_warmup(tmp_path, *(log.SerializeToString() for log in logs))
    assert warm_up(tmp_path, model, metrics=metrics) == 3
    assert f'model_warmup_records_read{{model_path="{tmp_path}"}} 3' in metrics.page()
    logs[0].classify_log.request.ClearField("input")
    write_warmup(tmp_path, logs[0].SerializeToString())
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Input is empty"):
        warm_up(tmp_path, model)
    model.close()


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([record([[1, 2]], dtype=np.float64)], "INVALID_ARGUMENT: Expects arg[0] to be float but double is provided"),
        ([record([[1, 2]]), record([1], signature="x")], 'FAILED_PRECONDITION: Serving signature key "x" not found.'),
        ([b"\xff"], "INVALID_ARGUMENT: Failed to parse warmup record: "),
        (
            [prediction_log_pb2.PredictionLog(session_run_log={}).SerializeToString()],
            "UNIMPLEMENTED: Unsupported log_type for warmup: 5",
        ),
        (
            [b""] * (MAX_RECORDS + 1),
            f"INVALID_ARGUMENT: Number of warmup records exceeds the maximum ({MAX_RECORDS}) at ",
        ),
    ],
    ids=["kernel", "signature", "bytes", "kind", "count"],
)
def test_a_request_that_fails_is_the_loads_error(
    tmp_path: Path, affine: SavedModel, records: list[bytes], text: str
) -> None:
    """With its own code and text."""
    write_warmup(tmp_path, *records)
    with pytest.raises(ServingError) as caught:
        warm_up(tmp_path, affine)
    assert str(caught.value).startswith(text)


def test_a_file_in_another_format_says_so(tmp_path: Path, affine: SavedModel) -> None:
    """Such as the requests one after another."""
    write_warmup(tmp_path)
    (tmp_path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(record([[1, 2]]))
    with pytest.raises(ServingError) as caught:
        warm_up(tmp_path, affine)
    assert str(caught.value).startswith("DATA_LOSS: ")
    assert str(caught.value).endswith(". Please verify your warmup data is in TFRecord format.")
