"""Replays the requests that a version brings with it, before it answers anybody (saved_model_warmup_util.cc)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow.python.lib.io import _pywrap_record_io
from tensorflow_serving.apis import model_pb2, prediction_log_pb2

from serving.tfserving.savedmodel_server.errors import ServingError, invalid, of_number
from serving.tfserving.savedmodel_server.example_calls import classify, multi_inference, regress
from serving.tfserving.savedmodel_server.executor import Servable
from serving.tfserving.savedmodel_server.metrics import Metrics, microseconds
from serving.tfserving.savedmodel_server.predict import predict
from serving.tfserving.savedmodel_server.versions import Version, Versions

log = logging.getLogger(__name__)

REQUESTS = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000

# The request of each kind of record, answered as at the gRPC door. A record of another kind is refused by its number.
CALLS: dict[str, Callable[[Versions, Any], object]] = {
    "classify_log": classify,
    "regress_log": regress,
    "predict_log": predict,
    "multi_inference_log": multi_inference,
}


def warm_up(folder: Path, servable: Servable, iterations: int = 1, metrics: Metrics | None = None) -> int:
    """Runs each request of a version's folder so many times; how many requests there were, 0 without a file.

    Raises the first failing request's error, and INVALID_ARGUMENT or DATA_LOSS for a file that cannot be replayed.
    """
    file = folder / REQUESTS
    if not file.exists():
        return 0
    metrics = metrics or Metrics()
    table = Versions(lambda _: None)
    table.relabel({})
    version = Version("warm-up", 1, folder)
    table.add(version)
    table.available(version, servable)
    started, count = time.perf_counter(), 0
    for record in _records(file):
        for _ in range(iterations):
            _replay(record, table, version.model)
        count += 1
        metrics.model_warmup_records_read.add(str(folder))
        if count > MAX_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}")
    took = microseconds(started)
    metrics.model_warmup_latency.record(took, str(folder), "OK")
    log.info("warmed up with %d requests of %s in %.2f s", count, file, took / 1e6)
    return count


def _records(file: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    try:
        for record in _pywrap_record_io.RecordIterator(str(file), ""):
            try:
                yield prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as exc:
                raise invalid(f"Failed to parse warmup record: {record!r} from {file}") from exc
    except tf.errors.DataLossError as exc:
        text = f"{exc.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError(StatusCode.DATA_LOSS, text) from exc
    except tf.errors.OpError as exc:
        raise of_number(exc.error_code, exc.message) from exc


def _replay(record: prediction_log_pb2.PredictionLog, table: Versions, model: str) -> None:
    kind = record.WhichOneof("log_type")
    if kind is None:
        return
    call = CALLS.get(kind)
    if call is None:
        number = record.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    request = getattr(record, kind).request
    # Whichever model the request was recorded from, it is this version's now.
    tasks = request.tasks if kind == "multi_inference_log" else (request,)
    for task in tasks:
        task.model_spec.CopyFrom(model_pb2.ModelSpec(name=model, signature_name=task.model_spec.signature_name))
    call(table, request)
