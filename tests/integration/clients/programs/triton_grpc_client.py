"""Triton's Python client over gRPC, as its own examples use it: `tritonclient.grpc`."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from harness import Task, array, refusal, run
from tritonclient.utils import np_to_triton_dtype

PATIENCE_S = 30


def given(name: str, values: np.ndarray, datatype: str = "") -> triton.InferInput:
    """An input tensor with its values."""
    tensor = triton.InferInput(name, list(values.shape), datatype or np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values)
    return tensor


def ask(task: Task, **more: Any) -> triton.InferResult:
    """One inference with the golden rows."""
    options: dict[str, Any] = {"headers": dict(task.headers), **more}
    if "inputs" not in options:
        options["inputs"] = [given(task.input, task.rows_in)]
    model = options.pop("model", task.model)
    with triton.InferenceServerClient(task.grpc) as client:
        return client.infer(model, **options)


def golden(task: Task) -> object:
    """Raw contents both ways."""
    return ask(task).as_numpy(task.output)


def response(task: Task) -> object:
    """A version, an id and an output are named; what is told beside the tensors."""
    output = triton.InferRequestedOutput(task.output)
    return ask(task, model_version="1", request_id="mine", outputs=[output], client_timeout=PATIENCE_S).get_response(
        as_json=True
    )


def concurrent(task: Task) -> object:
    """Four requests at once, answered by callbacks."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(task.grpc) as client:
        for _ in range(4):
            client.async_infer(
                task.model,
                [given(task.input, task.rows_in)],
                callback=lambda result, error: answers.put(error or result),
                headers=dict(task.headers),
            )
        return [_array(answers.get(timeout=PATIENCE_S), task.output) for _ in range(4)]


def stream(task: Task) -> object:
    """Three good requests and one bad one over one ModelStreamInfer call: one reply each, in order."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(task.grpc) as client:
        client.start_stream(callback=lambda result, error: answers.put(error or result), headers=dict(task.headers))
        for model, number in ((task.model, "1"), ("nope", "2"), (task.model, "3"), (task.model, "4")):
            inputs = [given(task.input, task.rows_in)]
            client.async_stream_infer(model, inputs, request_id=number)
        told = [answers.get(timeout=PATIENCE_S) for _ in range(4)]
        client.stop_stream()
    return [
        {"error": str(each)}
        if isinstance(each, Exception)
        else {"id": each.get_response().id, "values": each.as_numpy(task.output)}
        for each in told
    ]


def asynchronous(task: Task) -> object:
    """The library's asyncio client: one call, and a stream of two requests."""
    asked = {"model_name": task.model, "inputs": [given(task.input, task.rows_in)]}

    async def twice() -> AsyncIterator[dict[str, Any]]:
        yield asked
        yield asked

    async def answers() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(task.grpc) as client:
            single = await client.infer(**asked, headers=dict(task.headers))
            told = [_array(single, task.output)]
            async for result, error in client.stream_infer(twice(), headers=dict(task.headers)):
                told.append(_array(error or result, task.output))
            return told

    return asyncio.run(answers())


def server(task: Task) -> object:
    """Health, metadata and the repository index."""
    with triton.InferenceServerClient(task.grpc) as client:
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(task.model),
            "version_ready": client.is_model_ready(task.model, "1"),
            "unknown_ready": refusal(lambda: client.is_model_ready("nope")),
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata(task.model, as_json=True),
            "version": client.get_model_metadata(task.model, "1", as_json=True),
            "index": client.get_model_repository_index(as_json=True),
        }


def refusals(task: Task) -> object:
    """What the library raises for requests that cannot be answered."""
    wrong = [given(task.input, np.zeros((1, 4), np.float32))]
    other = [given(task.input, np.zeros((1, 4), np.int64))]
    return {
        "unknown_model": refusal(lambda: ask(task, model="nope")),
        "unknown_version": refusal(lambda: ask(task, model_version="99")),
        "wrong_shape": refusal(lambda: ask(task, inputs=wrong)),
        "wrong_datatype": refusal(lambda: ask(task, inputs=other)),
        "unknown_output": refusal(lambda: ask(task, outputs=[triton.InferRequestedOutput("nope")])),
        "compressed": refusal(lambda: ask(task, compression_algorithm="gzip")),
    }


def beyond(task: Task) -> object:
    """Methods of Triton's own extensions, which the gateway does not have."""
    with triton.InferenceServerClient(task.grpc) as client:
        return {
            "config": refusal(lambda: client.get_model_config(task.model)),
            "statistics": refusal(lambda: client.get_inference_statistics(task.model)),
            "all_statistics": refusal(client.get_inference_statistics),
            "load": refusal(lambda: client.load_model(task.model)),
            "unload": refusal(lambda: client.unload_model(task.model)),
            "trace": refusal(client.get_trace_settings),
            "logging": refusal(client.get_log_settings),
            "shared_memory": refusal(client.get_system_shared_memory_status),
        }


def tuned(task: Task) -> object:
    """Triton's scheduling parameters are hints."""
    return ask(task, parameters={"note": "mine"}, priority=1, timeout=5_000_000).as_numpy(task.output)


def identity(task: Task) -> object:
    """Each tensor through its identity model, as raw contents."""
    answers = {}
    for model, told in task.tensors.items():
        tensor = given("x", array(told), told["datatype"])
        answers[model] = ask(task, model=model, inputs=[tensor]).as_numpy("y")
    return answers


def _array(answer: Any, name: str) -> np.ndarray:
    if isinstance(answer, Exception):
        raise answer
    return answer.as_numpy(name)


if __name__ == "__main__":
    run(
        {
            "golden": golden,
            "response": response,
            "concurrent": concurrent,
            "asynchronous": asynchronous,
            "stream": stream,
            "server": server,
            "refusals": refusals,
            "beyond": beyond,
            "tuned": tuned,
            "identity": identity,
        }
    )
