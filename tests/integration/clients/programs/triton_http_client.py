"""Triton's Python client over HTTP, as its own examples use it: `tritonclient.http`."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from harness import Task, array, refusal, run
from tritonclient.utils import np_to_triton_dtype


def given(name: str, values: np.ndarray, datatype: str = "", *, binary: bool = True) -> triton.InferInput:
    """An input tensor with its values."""
    tensor = triton.InferInput(name, list(values.shape), datatype or np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def ask(task: Task, **more: Any) -> triton.InferResult:
    """One inference with the golden rows."""
    options: dict[str, Any] = {"headers": dict(task.headers), **more}
    if "inputs" not in options:
        options["inputs"] = [given(task.input, task.rows_in)]
    model = options.pop("model", task.model)
    with triton.InferenceServerClient(task.rest) as client:
        return client.infer(model, **options)


def golden(task: Task) -> object:
    """Binary both ways, which is the library's default."""
    return ask(task).as_numpy(task.output)


def golden_json(task: Task) -> object:
    """JSON both ways."""
    output = triton.InferRequestedOutput(task.output, binary_data=False)
    return ask(task, inputs=[given(task.input, task.rows_in, binary=False)], outputs=[output]).as_numpy(task.output)


def mixed(task: Task) -> object:
    """JSON in and binary out, and the other way round."""
    binary_out = ask(task, inputs=[given(task.input, task.rows_in, binary=False)])
    json_out = ask(task, outputs=[triton.InferRequestedOutput(task.output, binary_data=False)])
    return [binary_out.as_numpy(task.output), json_out.as_numpy(task.output)]


def response(task: Task) -> object:
    """The version in the path, and what is told beside the tensors."""
    output = triton.InferRequestedOutput(task.output, binary_data=True)
    return ask(task, model_version="1", request_id="mine", outputs=[output]).get_response()


def concurrent(task: Task) -> object:
    """Four requests at once over two connections."""
    with triton.InferenceServerClient(task.rest, concurrency=2) as client:
        inputs = [given(task.input, task.rows_in)]
        pending = [client.async_infer(task.model, inputs, headers=dict(task.headers)) for _ in range(4)]
        return [each.get_result().as_numpy(task.output) for each in pending]


def asynchronous(task: Task) -> object:
    """The library's asyncio client, binary and JSON."""

    async def answers() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(task.rest) as client:
            assert await client.is_server_live()
            inputs = [[given(task.input, task.rows_in, binary=binary)] for binary in (True, False)]
            return [
                (await client.infer(task.model, each, headers=dict(task.headers))).as_numpy(task.output)
                for each in inputs
            ]

    return asyncio.run(answers())


def server(task: Task) -> object:
    """Health, metadata and the repository index."""
    with triton.InferenceServerClient(task.rest) as client:
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(task.model),
            "version_ready": client.is_model_ready(task.model, "1"),
            "unknown_ready": client.is_model_ready("nope"),
            "server": client.get_server_metadata(),
            "model": client.get_model_metadata(task.model),
            "version": client.get_model_metadata(task.model, "1"),
            "index": client.get_model_repository_index(),
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
        "compressed": refusal(lambda: ask(task, request_compression_algorithm="gzip")),
    }


def beyond(task: Task) -> object:
    """Methods of Triton's own extensions, which the gateway does not have."""
    with triton.InferenceServerClient(task.rest) as client:
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
    """Triton's scheduling parameters and a compressed answer are asked for; both are hints."""
    more = {"priority": 1, "timeout": 5_000_000, "response_compression_algorithm": "gzip"}
    return ask(task, parameters={"note": "mine"}, **more).as_numpy(task.output)


def identity(task: Task) -> object:
    """Each tensor through its identity model, binary both ways."""
    answers = {}
    for model, told in task.tensors.items():
        tensor = given("x", array(told), told["datatype"])
        answers[model] = ask(task, model=model, inputs=[tensor]).as_numpy("y")
    return answers


def identity_json(task: Task) -> object:
    """Each tensor through its identity model as JSON, or what the library or the gateway says to that."""
    output = triton.InferRequestedOutput("y", binary_data=False)

    def sent(model: str, told: dict[str, Any]) -> object:
        tensor = given("x", array(told), told["datatype"], binary=False)
        return ask(task, model=model, inputs=[tensor], outputs=[output]).as_numpy("y")

    answers: dict[str, object] = {}
    for model, told in task.tensors.items():
        try:
            answers[model] = sent(model, told)
        except Exception:
            answers[model] = refusal(lambda model=model, told=told: sent(model, told))  # type: ignore[misc]
    return answers


if __name__ == "__main__":
    run(
        {
            "golden": golden,
            "golden_json": golden_json,
            "mixed": mixed,
            "response": response,
            "concurrent": concurrent,
            "asynchronous": asynchronous,
            "server": server,
            "refusals": refusals,
            "beyond": beyond,
            "tuned": tuned,
            "identity": identity,
            "identity_json": identity_json,
        }
    )
