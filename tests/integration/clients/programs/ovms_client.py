"""OpenVINO Model Server's Python client, whose gRPC and HTTP clients speak TensorFlow Serving's protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ovmsclient
from harness import Task, array, refusal, run


def golden(client: Any, task: Task) -> object:
    """One call with the golden rows, the version left to the server, which this library spells 0."""
    return client.predict(inputs={task.input: task.rows_in}, model_name=task.model)


def versioned(client: Any, task: Task) -> object:
    """The same with the version named."""
    return client.predict(inputs={task.input: task.rows_in}, model_name=task.model, model_version=1)


def about(client: Any, task: Task) -> object:
    """Metadata and status, the version left to the server and named."""
    return {
        "metadata": client.get_model_metadata(model_name=task.model),
        "metadata_of_1": client.get_model_metadata(model_name=task.model, model_version=1),
        "status": client.get_model_status(model_name=task.model),
        "status_of_1": client.get_model_status(model_name=task.model, model_version=1),
    }


def refusals(client: Any, task: Task) -> object:
    """What the library raises for requests that cannot be answered."""
    rows = {task.input: task.rows_in}
    wrong = {task.input: np.zeros((1, 4), np.float32)}
    return {
        "unknown_model": refusal(lambda: client.predict(rows, "nope", 1)),
        "unknown_version": refusal(lambda: client.predict(rows, task.model, 99)),
        "wrong_shape": refusal(lambda: client.predict(wrong, task.model)),
        "unknown_input": refusal(lambda: client.predict({"nope": task.rows_in}, task.model)),
        "metadata": refusal(lambda: client.get_model_metadata("nope")),
        "status": refusal(lambda: client.get_model_status("nope")),
    }


def identity(client: Any, task: Task) -> object:
    """Each tensor through its identity model, or what the library says to it."""
    answers: dict[str, object] = {}
    for model, told in task.tensors.items():
        values = array(told)
        # Bytes are a fixed-width array to this library.
        inputs = {"x": values.astype(np.bytes_) if values.dtype == object else values}
        try:
            answers[model] = client.predict(inputs, model)
        except Exception as exc:
            answers[model] = {"raised": f"{type(exc).__module__}.{type(exc).__qualname__}", "text": str(exc)}
    return answers


def _with_grpc(check: Callable[[Any, Task], object]) -> Callable[[Task], object]:
    return lambda task: check(ovmsclient.make_grpc_client(task.grpc), task)


def _with_http(check: Callable[[Any, Task], object]) -> Callable[[Task], object]:
    return lambda task: check(ovmsclient.make_http_client(task.rest), task)


CHECKS = (golden, versioned, about, refusals, identity)

if __name__ == "__main__":
    run(
        {f"grpc_{check.__name__}": _with_grpc(check) for check in CHECKS}
        | {f"rest_{check.__name__}": _with_http(check) for check in CHECKS}
    )
