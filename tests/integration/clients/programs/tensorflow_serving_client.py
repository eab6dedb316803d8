"""TensorFlow Serving's official Python stubs over gRPC, and its REST interface, as its documentation shows both."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import requests
import tensorflow as tf
from harness import Task, array, refusal, run
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

PATIENCE_S = 30.0


def predict(task: Task, values: np.ndarray | None = None, **more: Any) -> predict_pb2.PredictResponse:
    """Predict with the golden rows, or with `values`; `more` names the model, the input, or fields of the spec."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = more.pop("model", task.model)
    tensor = tf.make_tensor_proto(task.rows_in if values is None else values)
    request.inputs[more.pop("input", task.input)].CopyFrom(tensor)
    if "version" in more:
        request.model_spec.version.value = more.pop("version")
    for name, value in more.items():
        setattr(request.model_spec, name, value)
    with grpc.insecure_channel(task.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request, PATIENCE_S, metadata=task.metadata)


def grpc_golden(task: Task) -> object:
    """`make_tensor_proto` in, `make_ndarray` out."""
    return tf.make_ndarray(predict(task).outputs[task.output])


def grpc_typed(task: Task) -> object:
    """A client that fills the typed field `float_val`."""
    values = task.rows_in
    request = predict_pb2.PredictRequest()
    request.model_spec.name = task.model
    tensor = request.inputs[task.input]
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
    tensor.float_val.extend(values.reshape(-1).tolist())
    with grpc.insecure_channel(task.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        reply = stub.Predict(request, PATIENCE_S, metadata=task.metadata)
    return tf.make_ndarray(reply.outputs[task.output])


def grpc_spec(task: Task) -> object:
    """Version, signature and an output filter; the model spec that comes back."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = task.model
    request.model_spec.version.value = 1
    request.model_spec.signature_name = "serving_default"
    request.inputs[task.input].CopyFrom(tf.make_tensor_proto(task.rows_in))
    request.output_filter.append(task.output)
    with grpc.insecure_channel(task.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        call = stub.Predict.future(request, PATIENCE_S, metadata=task.metadata)
        reply = call.result()
        trailing = dict(call.trailing_metadata())
    spec = reply.model_spec
    return {
        "name": spec.name,
        "version": spec.version.value,
        "signature_name": spec.signature_name,
        "outputs": sorted(reply.outputs),
        "served_by": trailing.get("x-served-by"),
    }


def grpc_about(task: Task) -> object:
    """GetModelMetadata and GetModelStatus."""
    with grpc.insecure_channel(task.grpc) as channel:
        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = task.model
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        metadata = stub.GetModelMetadata(asked, PATIENCE_S, metadata=task.metadata)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert metadata.metadata["signature_def"].Unpack(signatures), "the Any holds no SignatureDefMap"
        signature = signatures.signature_def["serving_default"]
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = task.model
        states = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
            status, PATIENCE_S, metadata=task.metadata
        )
    tensors = {**signature.inputs, **signature.outputs}
    return {
        "version": metadata.model_spec.version.value,
        "tensors": {
            name: [tf.as_dtype(info.dtype).name, [dim.size for dim in info.tensor_shape.dim]]
            for name, info in tensors.items()
        },
        "method": signature.method_name,
        "states": {
            each.version: get_model_status_pb2.ModelVersionStatus.State.Name(each.state)
            for each in states.model_version_status
        },
    }


def grpc_refusals(task: Task) -> object:
    """What the stubs raise for requests that cannot be answered, with their code."""
    wrong, other = np.zeros((1, 4), np.float32), np.zeros((1, 8, 8, 1), np.int64)
    return {
        "unknown_model": _told(lambda: predict(task, model="nope")),
        "unknown_version": _told(lambda: predict(task, version=99)),
        "unknown_label": _told(lambda: predict(task, version_label="nope")),
        "unknown_signature": _told(lambda: predict(task, signature_name="nope")),
        "wrong_shape": _told(lambda: predict(task, wrong)),
        "wrong_datatype": _told(lambda: predict(task, other)),
    }


def grpc_beyond(task: Task) -> object:
    """Methods over tf.Example, and changes of the server, which the gateway does not offer."""
    with grpc.insecure_channel(task.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        return {
            "classify": _told(lambda: stub.Classify(classification_pb2.ClassificationRequest(), PATIENCE_S)),
            "regress": _told(lambda: stub.Regress(regression_pb2.RegressionRequest(), PATIENCE_S)),
            "multi": _told(lambda: stub.MultiInference(inference_pb2.MultiInferenceRequest(), PATIENCE_S)),
            "reload": _told(
                lambda: models.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), PATIENCE_S)
            ),
        }


def grpc_identity(task: Task) -> object:
    """Each tensor through its identity model."""
    return {
        model: tf.make_ndarray(predict(task, array(told), model=model, input="x").outputs["y"])
        for model, told in task.tensors.items()
    }


def rest_rows(task: Task) -> object:
    """The row format, as the documentation's curl line sends it: without a content type of JSON."""
    body = json.dumps({"signature_name": "serving_default", "instances": task.rows_in.tolist()})
    answer = requests.post(_url(task, ":predict"), data=body, headers=task.headers, timeout=PATIENCE_S)
    answer.raise_for_status()
    return np.array(answer.json()["predictions"], np.float32)


def rest_columns(task: Task) -> object:
    """The column format, with the version in the path."""
    body = {"inputs": {task.input: task.rows_in.tolist()}}
    answer = requests.post(_url(task, "/versions/1:predict"), json=body, headers=task.headers, timeout=PATIENCE_S)
    answer.raise_for_status()
    return np.array(answer.json()["outputs"], np.float32)


def rest_about(task: Task) -> object:
    """Status and metadata."""
    return {
        "status": requests.get(_url(task, ""), headers=task.headers, timeout=PATIENCE_S).json(),
        "metadata": requests.get(_url(task, "/metadata"), headers=task.headers, timeout=PATIENCE_S).json(),
    }


def rest_refusals(task: Task) -> object:
    """Status and body of requests that cannot be answered."""
    rows = {"instances": task.rows_in[:1].tolist()}

    def told(url: str, body: object) -> object:
        answer = requests.post(url, json=body, headers=task.headers, timeout=PATIENCE_S)
        return [answer.status_code, answer.json()]

    return {
        "unknown_model": told(f"http://{task.rest}/v1/models/nope:predict", rows),
        "unknown_version": told(_url(task, "/versions/99:predict"), rows),
        "wrong_shape": told(_url(task, ":predict"), {"instances": [[1.0, 2.0]]}),
        "no_rows": told(_url(task, ":predict"), {"rows": []}),
        "classify": told(_url(task, ":classify"), {"examples": []}),
    }


def _url(task: Task, rest: str) -> str:
    return f"http://{task.rest}/v1/models/{task.model}{rest}"


def _told(call: Any) -> object:
    try:
        call()
    except grpc.RpcError as exc:
        return [exc.code().name, exc.details()]
    return refusal(call)


if __name__ == "__main__":
    run(
        {
            "grpc_golden": grpc_golden,
            "grpc_typed": grpc_typed,
            "grpc_spec": grpc_spec,
            "grpc_about": grpc_about,
            "grpc_refusals": grpc_refusals,
            "grpc_beyond": grpc_beyond,
            "grpc_identity": grpc_identity,
            "rest_rows": rest_rows,
            "rest_columns": rest_columns,
            "rest_about": rest_about,
            "rest_refusals": rest_refusals,
        }
    )
