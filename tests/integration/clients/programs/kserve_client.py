"""KServe's Python inference clients: `InferenceRESTClient` and `InferenceGRPCClient`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from harness import Task, array, run
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

NAMES = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL", "object": "BYTES"}


def asked(task: Task, values: np.ndarray | None = None, *, binary: bool, **more: Any) -> InferRequest:
    """The golden rows, or `values`, as a request."""
    data = task.rows_in if values is None else values
    dtype = data.dtype.name
    tensor = InferInput(
        more.pop("name", task.input), list(data.shape), more.pop("datatype", NAMES.get(dtype, dtype.upper()))
    )
    tensor.set_data_from_numpy(data, binary_data=binary)
    return InferRequest(model_name=more.pop("model_name", task.model), infer_inputs=[tensor], **more)


async def rest(task: Task, request: InferRequest, model: str = "") -> Any:
    """One inference over REST."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        return await client.infer(
            f"http://{task.rest}", request, model_name=model or task.model, headers=dict(task.headers)
        )


async def grpc(task: Task, request: InferRequest) -> Any:
    """One inference over gRPC."""
    async with InferenceGRPCClient(url=task.grpc) as client:
        return await client.infer(request, headers=task.metadata)


async def rest_golden(task: Task) -> object:
    """Binary both ways."""
    parameters = {"binary_data_output": True}
    answer = await rest(task, asked(task, binary=True, parameters=parameters))
    return answer.outputs[0].as_numpy()


async def rest_golden_json(task: Task) -> object:
    """JSON both ways."""
    return (await rest(task, asked(task, binary=False))).outputs[0].as_numpy()


async def rest_v1(task: Task) -> object:
    """KServe's first protocol, which is TensorFlow Serving's."""
    async with InferenceRESTClient() as client:
        answer = await client.infer(
            f"http://{task.rest}", {"instances": task.rows_in.tolist()}, task.model, headers=dict(task.headers)
        )
    return np.array(answer["predictions"], np.float32)


async def rest_response(task: Task) -> object:
    """An id and an output are named; what is told beside the tensors."""
    outputs = [RequestedOutput(task.output, {"binary_data": True})]
    answer = await rest(task, asked(task, binary=True, request_id="mine", request_outputs=outputs))
    return [answer.id, answer.model_name, answer.model_version, answer.outputs[0].as_numpy()]


async def rest_server(task: Task) -> object:
    """Health of the server and of models."""
    base = f"http://{task.rest}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        return {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model_ready": await client.is_model_ready(base, task.model),
            "unknown_ready": await client.is_model_ready(base, "nope"),
            "live_by_v1": await _live_by_v1(base),
        }


async def _live_by_v1(base: str) -> bool:
    async with InferenceRESTClient() as client:
        return bool(await client.is_server_live(base))


async def rest_refusals(task: Task) -> object:
    """What the library raises for requests that cannot be answered."""
    wrong = np.zeros((1, 4), np.float32)
    return {
        "unknown_model": await _refusal(rest(task, asked(task, binary=True), model="nope")),
        "wrong_shape": await _refusal(rest(task, asked(task, wrong, binary=True))),
        "wrong_shape_json": await _refusal(rest(task, asked(task, wrong, binary=False))),
    }


async def rest_identity(task: Task) -> object:
    """Each tensor through its identity model, binary both ways."""
    answers = {}
    for model, told in task.tensors.items():
        parameters = {"binary_data_output": True}
        request = asked(task, array(told), binary=True, name="x", model_name=model, parameters=parameters)
        answers[model] = (await rest(task, request, model)).outputs[0].as_numpy()
    return answers


async def grpc_golden(task: Task) -> object:
    """Raw contents both ways."""
    return (await grpc(task, asked(task, binary=True))).outputs[0].as_numpy()


async def grpc_typed(task: Task) -> object:
    """Typed contents both ways."""
    return (await grpc(task, asked(task, binary=False))).outputs[0].as_numpy()


async def grpc_response(task: Task) -> object:
    """A version, an id and an output are named; what is told beside the tensors."""
    outputs = [RequestedOutput(task.output)]
    request = asked(task, binary=True, request_id="mine", request_outputs=outputs, model_version="1")
    answer = await grpc(task, request)
    return [answer.id, answer.model_name, answer.model_version, answer.outputs[0].as_numpy()]


async def grpc_server(task: Task) -> object:
    """Health of the server and of models."""
    async with InferenceGRPCClient(url=task.grpc) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(task.model),
            "unknown_ready": await _refusal(client.is_model_ready("nope")),
        }


async def grpc_refusals(task: Task) -> object:
    """What the library raises for requests that cannot be answered."""
    wrong = np.zeros((1, 4), np.float32)
    return {
        "unknown_model": await _refusal(grpc(task, asked(task, binary=True, model_name="nope"))),
        "unknown_version": await _refusal(grpc(task, asked(task, binary=True, model_version="99"))),
        "wrong_shape": await _refusal(grpc(task, asked(task, wrong, binary=True))),
    }


async def grpc_identity(task: Task) -> object:
    """Each tensor through its identity model, as raw contents."""
    answers = {}
    for model, told in task.tensors.items():
        answer = await grpc(task, asked(task, array(told), binary=True, name="x", model_name=model))
        answers[model] = answer.outputs[0].as_numpy()
    return answers


async def _refusal(call: Awaitable[object]) -> dict[str, str]:
    try:
        answer = await call
    except Exception as exc:
        code = getattr(exc, "code", None)
        text = f"{code().name}: {exc.details()}" if callable(code) else str(exc)  # type: ignore[attr-defined]
        return {"raised": f"{type(exc).__module__}.{type(exc).__qualname__}", "text": text}
    return {"raised": "none", "text": repr(answer)}


def _plain(check: Callable[[Task], Awaitable[object]]) -> Callable[[Task], object]:
    return lambda task: asyncio.run(check(task))  # type: ignore[arg-type]


CHECKS = (
    rest_golden,
    rest_golden_json,
    rest_v1,
    rest_response,
    rest_server,
    rest_refusals,
    rest_identity,
    grpc_golden,
    grpc_typed,
    grpc_response,
    grpc_server,
    grpc_refusals,
    grpc_identity,
)

if __name__ == "__main__":
    logging.disable()
    run({check.__name__: _plain(check) for check in CHECKS})
