"""TorchServe's clients as its documentation shows them: `requests`, and stubs made of its own `inference.proto`."""

from __future__ import annotations

import json
from typing import Any

import grpc
import inference_pb2
import inference_pb2_grpc
import numpy as np
import requests
from google.protobuf import empty_pb2
from harness import Task, run

PATIENCE_S = 30.0


def post(task: Task, path: str = "", **more: Any) -> requests.Response:
    """POST /predictions/<model><path>."""
    url = f"http://{task.rest}/predictions/{task.model}{path}"
    headers = {**task.headers, **more.pop("headers", {})}
    return requests.post(url, headers=headers, timeout=PATIENCE_S, **more)


def rest_golden(task: Task) -> object:
    """Named inputs as JSON; named outputs come back."""
    answer = post(task, json={"inputs": {task.input: task.rows_in.tolist()}})
    answer.raise_for_status()
    return np.array(answer.json()["outputs"][task.output], np.float32)


def rest_forms(task: Task) -> object:
    """The other JSON bodies of the documentation, each answered in its own form."""
    rows = task.rows_in.tolist()
    tensor = {"name": task.input, "shape": list(task.rows_in.shape), "datatype": "FP32", "data": rows}
    instances = post(task, json={"instances": rows}).json()["predictions"]
    bare = post(task, json=rows).json()
    oip = post(task, json={"inputs": [tensor]}).json()["outputs"][0]
    return {
        "instances": np.array(instances, np.float32),
        "bare": np.array(bare, np.float32),
        "oip": np.array(oip["data"], np.float32).reshape(oip["shape"]),
    }


def rest_bodies(task: Task) -> object:
    """The ways in which the documentation's `requests` and curl lines send a body."""
    body = json.dumps({"inputs": {task.input: task.rows_in.tolist()}}).encode()
    answers = {
        "data": post(task, data=body),
        "files": post(task, files={"data": body}),
        "put": requests.put(
            f"http://{task.rest}/predictions/{task.model}", data=body, headers=task.headers, timeout=PATIENCE_S
        ),
        "version": post(task, "/1.0", json={"inputs": {task.input: task.rows_in.tolist()}}),
    }
    return {name: _values(task, answer) for name, answer in answers.items()}


def rest_about(task: Task) -> object:
    """Ping, the list of models, and one described."""
    return {
        path: requests.get(f"http://{task.rest}{path}", headers=task.headers, timeout=PATIENCE_S).json()
        for path in ("/ping", "/models", f"/models/{task.model}")
    }


def rest_refusals(task: Task) -> object:
    """Status and body of requests that cannot be answered."""
    rows = {"inputs": {task.input: task.rows_in[:1].tolist()}}
    unknown = requests.post(f"http://{task.rest}/predictions/nope", json=rows, timeout=PATIENCE_S)
    answers = {
        "unknown_model": unknown,
        "unknown_version": post(task, "/99.0", json=rows),
        "wrong_shape": post(task, json={"inputs": {task.input: [[1.0, 2.0]]}}),
        "unregister": requests.delete(f"http://{task.rest}/models/{task.model}", timeout=PATIENCE_S),
    }
    return {name: [answer.status_code, answer.json()] for name, answer in answers.items()}


def predictions(task: Task, values: object, **more: Any) -> inference_pb2.PredictionResponse:
    """InferenceAPIsService.Predictions, with the metadata of TorchServe's own example client."""
    fields = {"model_name": task.model, **more}
    with grpc.insecure_channel(task.grpc) as channel:
        stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
        request = inference_pb2.PredictionsRequest(input={"data": json.dumps(values).encode()}, **fields)
        return stub.Predictions(request, PATIENCE_S, metadata=(("protocol", "gRPC"), *task.metadata))


def grpc_golden(task: Task) -> object:
    """Named inputs as JSON under the key `data`; named outputs come back."""
    answer = predictions(task, {"inputs": {task.input: task.rows_in.tolist()}}, model_version="1.0")
    return np.array(json.loads(answer.prediction.decode("utf-8"))["outputs"][task.output], np.float32)


def grpc_ping(task: Task) -> object:
    """Ping."""
    with grpc.insecure_channel(task.grpc) as channel:
        answer = inference_pb2_grpc.InferenceAPIsServiceStub(channel).Ping(empty_pb2.Empty(), PATIENCE_S)
    return json.loads(answer.health)


def grpc_refusals(task: Task) -> object:
    """Code and details of calls that cannot be answered."""
    rows = {"inputs": {task.input: task.rows_in[:1].tolist()}}

    def stream() -> object:
        with grpc.insecure_channel(task.grpc) as channel:
            stub = inference_pb2_grpc.InferenceAPIsServiceStub(channel)
            return list(stub.StreamPredictions(inference_pb2.PredictionsRequest(model_name=task.model), PATIENCE_S))

    return {
        "unknown_model": _told(lambda: predictions(task, rows, model_name="nope")),
        "unknown_version": _told(lambda: predictions(task, rows, model_version="99.0")),
        "wrong_shape": _told(lambda: predictions(task, {"inputs": {task.input: [[1.0, 2.0]]}})),
        "stream": _told(stream),
    }


def _values(task: Task, answer: requests.Response) -> object:
    if answer.status_code != requests.codes.ok:
        return [answer.status_code, answer.text]
    return np.array(answer.json()["outputs"][task.output], np.float32)


def _told(call: Any) -> object:
    try:
        return ["OK", str(call())]
    except grpc.RpcError as exc:
        return [exc.code().name, exc.details()]


if __name__ == "__main__":
    run(
        {
            "rest_golden": rest_golden,
            "rest_forms": rest_forms,
            "rest_bodies": rest_bodies,
            "rest_about": rest_about,
            "rest_refusals": rest_refusals,
            "grpc_golden": grpc_golden,
            "grpc_ping": grpc_ping,
            "grpc_refusals": grpc_refusals,
        }
    )
