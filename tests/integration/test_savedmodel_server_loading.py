"""The stand-in as a process: models of every kind, batching, warm-up, a configuration that changes, a failing start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.unit.serving.tfserving.savedmodel_server.process import ROOT, Reply, Server, running
from tests.unit.serving.tfserving.savedmodel_server.saved_models import (
    Affine,
    save_affine,
    save_keras,
    save_version_1,
    tflite_model,
    write_warmup,
)

pytestmark = pytest.mark.servers

MODELS = ("affine", "old", "keras", "lite")
BATCHING = """
max_batch_size { value: 2 } batch_timeout_micros { value: 30000000 } max_enqueued_batches { value: 1 }
num_batch_threads { value: 2 }
"""


def configure(folder: Path, names: Iterable[str], extra: str = "") -> Path:
    """A configuration of these models, the last one with something more, renamed into place."""
    entries = " ".join(
        f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow"' for name in names
    ).replace('" config', '" } config')
    entries += f" {extra} }}"
    (folder / "aside").write_text(f"model_config_list {{ {entries} }}")
    return (folder / "aside").rename(folder / "models.config")


def predict_request(model: str, *rows: list[float]) -> predict_pb2.PredictRequest:
    """A request to the default signature's input x."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(rows, np.float32)))
    return request


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind, one with warm-up records; every request has two rows, which fill a batch."""
    path = tmp_path_factory.mktemp("loading")
    save_affine(path / "affine", 1)
    save_version_1(path / "old")
    save_keras(path / "keras")
    save_affine(path / "lite", 1)
    lite = Affine(5)
    (path / "lite" / "1" / "model.tflite").write_bytes(tflite_model(lite, lite.infer))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request("recorded", [1, 2], [3, 4]))
    write_warmup(path / "affine" / "1", log.SerializeToString())
    (path / "batching.config").write_text(BATCHING)
    configure(path, MODELS)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A stand-in with all of them."""
    flags = (
        f"--model_config_file={folder}/models.config",
        "--model_config_file_poll_wait_seconds=1",
        "--prefer_tflite_model",
        "--enable_batching=true",
        f"--batching_parameters_file={folder}/batching.config",
        "--num_request_iterations_for_warmup=2",
        "--tensorflow_session_parallelism=2",
        "--num_load_threads=2",
        "--num_unload_threads=2",
    )
    with running(folder, *flags) as started:
        started.wait_until(started.is_open)
        yield started


def predict(server: Server, model: str, inputs: object) -> Reply:
    """One call in column form."""
    return server.ask("POST", f"/v1/models/{model}:predict", {"inputs": inputs})


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("affine", [[0, 1], [2, 3]], [[1, 3], [5, 7]]),
        ("old", [1, 2], [2, 3]),
        ("keras", [[1, 2], [3, 4]], [[4], [8]]),
        ("lite", [[0, 1], [2, 3]], [[5, 7], [9, 11]]),
    ],
)
def test_models_of_every_kind_answer(server: Server, model: str, inputs: object, outputs: object) -> None:
    """TensorFlow 2, TensorFlow 1, Keras, and TFLite, which is preferred to the SavedModel beside it."""
    reply = predict(server, model, inputs)
    assert (reply.status, json.loads(reply.body)) == (200, {"outputs": outputs})


def test_a_table_of_tensorflow_1_is_initialised(server: Server) -> None:
    """From its file among the assets."""
    body = {"signature_name": "number", "inputs": ["two", "three"]}
    reply = server.ask("POST", "/v1/models/old:predict", body)
    assert json.loads(reply.body) == {"outputs": [2, -1]}


def test_a_tflite_model_describes_its_tensors(server: Server) -> None:
    """One signature, by the names that the converter gave."""
    signatures = json.loads(server.ask("GET", "/v1/models/lite/metadata").body)["metadata"]["signature_def"]
    (definition,) = signatures["signature_def"].values()
    (given,) = definition["inputs"].values()
    assert (given["dtype"], given["name"]) == ("DT_FLOAT", "serving_default_x:0")
    assert [dim["size"] for dim in given["tensor_shape"]["dim"]] == ["1", "2"]


def test_the_warm_up_ran(server: Server) -> None:
    """Before the version was available."""
    assert "warmed up with 1 requests of" in server.log.read_text()


def test_batches_have_limits(server: Server) -> None:
    """A request that is too large, a queue that is full: 400 and 503, in TensorFlow's words; inputs without rows."""
    reply = predict(server, "affine", [[1, 1]] * 3)
    assert (reply.status, json.loads(reply.body)["error"]) == (
        400,
        "Task size 3 is larger than maximum input batch size 2",
    )
    reply = predict(server, "old", 1)
    assert reply.status == 400
    assert json.loads(reply.body)["error"] == "Expects arg[0] to be of shape [?] but [] is provided"
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(server.prediction.Predict, predict_request("affine", [1, 1]), 60)
        replies = []

        def is_full() -> bool:
            # A full batch goes at once, so that it is answered until the waiting request is in the queue.
            replies.append(predict(server, "affine", [[2, 2], [3, 3]]))
            return replies[-1].status != 200

        server.wait_until(is_full)
        assert (replies[-1].status, json.loads(replies[-1].body)["error"]) == (
            503,
            "The batch scheduling queue to which this task was submitted is full; currently 1 batches enqueued and "
            "max_enqueued_batches is 1",
        )
        with pytest.raises(grpc.RpcError) as caught:
            server.prediction.Predict(predict_request("affine", [1, 1], [2, 2]))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert json.loads(predict(server, "affine", [[5, 6]]).body) == {"outputs": [[11, 13]]}
        assert list(waiting.result().outputs["y"].float_val) == [3, 3]


def versions_of(server: Server, model: str) -> dict[str, str]:
    """The state of every version."""
    status = json.loads(server.ask("GET", f"/v1/models/{model}").body)
    return {entry["version"]: entry["state"] for entry in status.get("model_version_status", ())}


def test_a_changed_configuration_is_followed(server: Server, folder: Path) -> None:
    """What is left out goes, what is new comes, with its policy; then labels of what is there; a wrong file nothing."""
    rows = [[0, 1], [2, 3]]
    for number in (1, 2, 3):
        save_affine(folder / "late", number)
    policy = "model_version_policy { specific { versions: 1 versions: 3 } }"
    configure(folder, (*MODELS[:-1], "late"), policy)
    server.wait_until(lambda: versions_of(server, "late") == {"3": "AVAILABLE", "1": "AVAILABLE"})
    server.wait_until(lambda: versions_of(server, "lite") == {"1": "END"})
    assert predict(server, "lite", rows).status == 404
    assert json.loads(predict(server, "late", rows).body) == {"outputs": [[3, 5], [7, 9]]}
    assert json.loads(predict(server, "late/versions/1", rows).body) == {"outputs": [[1, 3], [5, 7]]}
    assert predict(server, "late/versions/2", rows).status == 404

    configure(folder, (*MODELS[:-1], "late"), policy + ' version_labels { key: "stable" value: 1 }')
    server.wait_until(lambda: predict(server, "late/labels/stable", rows).status == 200)
    assert json.loads(predict(server, "late/labels/stable", rows).body) == {"outputs": [[1, 3], [5, 7]]}

    (folder / "models.config").write_text("model_config_list { config { nonsense")
    server.wait_until(lambda: "failed to reload" in server.log.read_text())
    assert predict(server, "late", rows).status == 200
    configure(folder, MODELS)
    server.wait_until(lambda: predict(server, "lite", rows).status == 200)


def failing(*flags: str) -> tuple[int, str]:
    """The exit code and the last line of a stand-in that does not start."""
    command = [sys.executable, "-m", "serving.tfserving.savedmodel_server", *flags]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return ended.returncode, ended.stderr.strip().splitlines()[-1]


def test_a_model_that_does_not_load_ends_the_start_after_its_retries(tmp_path: Path) -> None:
    """With TensorFlow Serving's exit code and text."""
    (tmp_path / "bad" / "1").mkdir(parents=True)
    code, text = failing(
        "--model_name=bad",
        f"--model_base_path={tmp_path}/bad",
        "--max_num_load_retries=2",
        "--load_retry_interval_micros=0",
    )
    assert code == 255
    assert (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: bad version: 1} due "
        f"to error: NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied export directory path: {tmp_path}"
    ) in text
    assert text.endswith("}, }")
