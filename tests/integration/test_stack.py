"""The whole stack as `twinserve up` runs it: real TorchServe, TF Serving or its stand-in, and the gateway."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from gateway._generated import oip_pb2
from loadtests.golden import Golden, load_golden
from serving.local import LocalStack
from serving.processes import ServerDied
from serving.settings import LaunchSettings, Ports
from twinserve.client import PredictError, Question, predict_grpc, predict_rest

pytestmark = pytest.mark.servers

MODELS = ("simplenn", "digits")
ENDPOINTS = {"ts": "torchserve", "ts-grpc": "torchserve", "tf": "tfserving", "tf-rest": "tfserving"}


@pytest.fixture(scope="module")
def stack(artifacts: Path) -> Iterator[LocalStack]:
    with LocalStack(LaunchSettings(artifacts=artifacts), Ports.free()) as running:
        yield running


@pytest.fixture(scope="module", params=MODELS)
def golden(request: pytest.FixtureRequest, artifacts: Path) -> Golden:
    return load_golden(artifacts, request.param)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("door", ["rest", "grpc"])
def test_every_way_gives_the_golden_answers(stack: LocalStack, golden: Golden, endpoint: str, door: str) -> None:
    """Both stacks, both transports upstream, both doors: the same numbers, within the contract's tolerance."""
    rows = min(golden.rows, golden.contract.batch_cap or 1)
    inputs = {name: array[:rows] for name, array in golden.inputs.items()}
    question = Question(golden.contract.name, inputs, endpoint=endpoint)
    answer = (
        predict_rest(stack.gateway_rest, question) if door == "rest" else predict_grpc(stack.gateway_grpc, question)
    )
    assert golden.fault(0, rows, answer.outputs) is None
    server = stack.servers[ENDPOINTS[endpoint]]
    expected = f'endpoint={endpoint}; stack={ENDPOINTS[endpoint]}; server="{server}"; version=1'
    variant = {"torchserve": "torchscript", "tfserving": "savedmodel"}[ENDPOINTS[endpoint]]
    assert answer.served_by == f"{expected}; variant={variant}"


def test_what_runs_says_what_it_is(stack: LocalStack) -> None:
    """TorchServe is TorchServe; the other is TensorFlow Serving only where that really runs."""
    assert stack.servers["torchserve"] == "TorchServe 0.12.0"
    name = stack.servers["tfserving"]
    assert name.startswith("TensorFlow Serving") or name.endswith("(stand-in)")


def test_oip_rest_serves_health_metadata_and_inference(stack: LocalStack, golden: Golden) -> None:
    """An Open Inference Protocol client finds what the protocol promises."""
    name, contract = golden.contract.name, golden.contract
    assert get(stack, "/v2/health/live") == {"live": True}
    assert get(stack, "/v2/health/ready") == {"ready": True}
    assert get(stack, f"/v2/models/{name}/ready") == {"name": name, "ready": True}
    metadata = get(stack, f"/v2/models/{name}")
    assert metadata["inputs"] == [spec.as_json() for spec in contract.inputs]
    assert metadata["versions"] == ["1"]
    spec = contract.inputs[0]
    rows = golden.inputs[spec.name][:2]
    body = {"id": "7", "inputs": [{**spec.as_json(), "shape": rows.shape, "data": rows.tolist()}]}
    reply = post(stack, f"/v2/models/{name}/versions/1/infer", body)
    output = reply["outputs"][0]
    values = np.asarray(output["data"], np.float32).reshape(output["shape"])
    assert (reply["id"], reply["model_version"]) == ("7", "1")
    assert golden.fault(0, 2, {output["name"]: values}) is None


@pytest.mark.parametrize("stack_name", ["torchserve", "tfserving"])
def test_each_stacks_own_clients_reach_the_other(stack: LocalStack, golden: Golden, stack_name: str) -> None:
    """TensorFlow Serving's rows and TorchServe's JSON give the golden answers, whichever stack is asked."""
    name, output = golden.contract.name, golden.contract.outputs[0].name
    inputs = {name: array[:2].tolist() for name, array in golden.inputs.items()}
    rows = {"instances": next(iter(inputs.values()))}
    predictions = post(stack, f"/v1/models/{name}:predict", rows, {"x-stack": stack_name})["predictions"]
    assert golden.fault(0, 2, {output: np.asarray(predictions, np.float32)}) is None
    outputs = post(stack, f"/predictions/{name}/1.0", {"inputs": inputs}, {"x-stack": stack_name})["outputs"]
    assert golden.fault(0, 2, {output: np.asarray(outputs[output], np.float32)}) is None


def test_oip_grpc_takes_typed_contents(stack: LocalStack, golden: Golden) -> None:
    """A client that fills typed fields gets typed fields back."""
    spec = golden.contract.inputs[0]
    rows = golden.inputs[spec.name][:3]
    message = oip_pb2.ModelInferRequest(model_name=golden.contract.name)
    message.inputs.add(name=spec.name, datatype=spec.datatype, shape=rows.shape).contents.fp32_contents.extend(
        rows.ravel().tolist()
    )
    reply = oip_pb2.ModelInferResponse.FromString(call(stack, "ModelInfer", message.SerializeToString()))
    output = reply.outputs[0]
    values = np.asarray(output.contents.fp32_contents, np.float32).reshape(tuple(output.shape))
    assert golden.fault(0, 3, {output.name: values}) is None


def test_grpc_health_is_served(stack: LocalStack) -> None:
    """The standard health service says SERVING."""
    with grpc.insecure_channel(stack.gateway_grpc) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        assert check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_bad_input_is_the_clients_fault_on_every_way(stack: LocalStack, endpoint: str) -> None:
    """The message names the input, and no server is blamed."""
    with pytest.raises(PredictError, match=r"422: input 'image' has shape \[1, 4\]; expected \[-1, 8, 8, 1\]"):
        predict_rest(stack.gateway_rest, Question("digits", {"image": [[1, 2, 3, 4]]}, endpoint=endpoint))


@pytest.mark.faults
def test_a_killed_server_is_a_clear_error_and_the_other_goes_on(artifacts: Path, tmp_path: Path) -> None:
    """Requests to it are refused with its name, the launcher tells its last words, the other stack answers."""
    (tmp_path / "models").symlink_to(artifacts / "models")
    question = Question("simplenn", {"features": [[59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87]]})
    with LocalStack(LaunchSettings(artifacts=tmp_path), Ports.free()) as running:
        victim = next(child for child in running.children if child.server.name == "torchserve")
        os.killpg(victim.pid, signal.SIGKILL)
        # The gateway may notice before the process has wholly ended.
        victim.process.wait(20)
        text = refusal(running, question)
        assert "endpoint 'ts' is unverified: does not answer" in text
        with pytest.raises(ServerDied, match="torchserve"):
            running.check()
        other = Question(question.model, question.inputs, stack="tfserving")
        assert predict_rest(running.gateway_rest, other).outputs["progression"].shape == (1, 1)


def refusal(stack: LocalStack, question: Question) -> str:
    """The gateway's refusal once it has noticed; before that, single requests may meet the loss itself."""
    deadline = time.monotonic() + 20
    text = ""
    while time.monotonic() < deadline:
        try:
            predict_rest(stack.gateway_rest, question)
        except PredictError as exc:
            text = str(exc)
            if "503" in text and "unverified" in text:
                return text
    return text


def get(stack: LocalStack, path: str) -> Any:
    with urllib.request.urlopen(stack.gateway_rest + path, timeout=10) as reply:
        return json.load(reply)


def post(stack: LocalStack, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(
        stack.gateway_rest + path, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def call(stack: LocalStack, method: str, message: bytes) -> bytes:
    with grpc.insecure_channel(stack.gateway_grpc) as channel:
        return channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(message, timeout=10)
