"""Servers that run already, named on the command line and nowhere else: TorchServe, the stand-in, another gateway."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.local import LocalStack
from tests.integration.foreign_torchserve import Foreign
from tests.unit.serving.tfserving.savedmodel_server.process import ROOT, Server, running
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine, save_zoo

pytestmark = pytest.mark.servers

LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+) and grpc://(127\.0\.0\.1:\d+)")
START_S = 30
ROWS = [[1.0, 2.0], [3.0, 4.0]]


@dataclass(frozen=True)
class Gateway:
    """A running gateway's two ports."""

    rest: int
    grpc: str
    log: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one request."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.rest, timeout=20)) as connection:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def until_ready(self) -> None:
        """Returns when every model that was discovered is ready."""
        deadline = time.monotonic() + START_S
        while self.ask("GET", "/v2/health/ready")[0] != 200:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def gateway(folder: Path, *arguments: str) -> Iterator[Gateway]:
    """A gateway started by these arguments and no others, on free ports."""
    log = folder / "gateway.log"
    command = [sys.executable, "-m", "gateway", "--rest-port", "0", "--grpc-port", "0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output, cwd=ROOT)
    try:
        deadline = time.monotonic() + START_S
        while (found := LISTENING.search(log.read_text())) is None:
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        started = Gateway(int(found[1]), found[2], log)
        started.until_ready()
        yield started
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def tfserving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The stand-in with a model of many signatures, none of them the default one, and one of two versions."""
    folder = tmp_path_factory.mktemp("tfserving")
    save_zoo(folder / "zoo")
    save_affine(folder / "affine", 1)
    save_affine(folder / "affine", 2)
    models = [("zoo", ""), ("affine", "model_version_policy { all {} }")]
    entries = [
        f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow" {policy} }}'
        for name, policy in models
    ]
    (folder / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    with running(folder, f"--model_config_file={folder}/models.config") as started:
        started.wait_until(started.is_open)
        yield started


@pytest.fixture(scope="module")
def flags(tfserving: Server, toy_torchserve: LocalStack) -> list[str]:
    """What names both servers on a command line."""
    return [
        *("--tfserving", f"127.0.0.1:{tfserving.grpc_port}", "--model", "zoo", "--model", "affine"),
        *("--torchserve", f"127.0.0.1:{toy_torchserve.ports.torchserve_rest_port}"),
        *("--torchserve-management", f"127.0.0.1:{toy_torchserve.ports.torchserve_management_port}"),
    ]


@pytest.fixture(scope="module")
def inner(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in front of both."""
    with gateway(tmp_path_factory.mktemp("inner"), *flags) as started:
        yield started


def test_versions_and_tensors_are_those_of_the_server(inner: Gateway) -> None:
    """Asked of the stand-in, told in every protocol's words, and each version answers."""
    _, metadata = inner.ask("GET", "/v2/models/affine")
    assert metadata["versions"] == ["2", "1"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    for version, added in (("", 2), ("/versions/1", 1)):
        status, answer = inner.ask("POST", f"/v1/models/affine{version}:predict", {"instances": ROWS})
        assert (status, answer) == (200, {"predictions": [[2 * x + added for x in row] for row in ROWS]})


def test_every_signature_of_the_model_is_served(inner: Gateway, tfserving: Server) -> None:
    """The same signatures as the server's own, and tensors of unknown rank take any shape."""
    _, document = inner.ask("GET", "/v1/models/zoo/metadata")
    ours = document["metadata"]["signature_def"]["signature_def"]
    theirs = json.loads(tfserving.ask("GET", "/v1/models/zoo/metadata").body)["metadata"]["signature_def"]
    assert sorted(ours) == sorted(name for name in theirs["signature_def"] if not name.startswith("__"))
    assert ours["same_int64"]["inputs"]["x"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    for shape, values in (([], [7]), ([1, 2, 1], [7, 8])):
        body = {
            "inputs": [{"name": "x", "datatype": "INT64", "shape": shape, "data": values}],
            "parameters": {"signature_name": "same_int64"},
        }
        _, answer = inner.ask("POST", "/v2/models/zoo/infer", body)
        assert (answer["outputs"][0]["shape"], answer["outputs"][0]["data"]) == (shape, values)
    pair = {"signature_name": "pair", "inputs": {"a": [1.0, 2.0], "b": [3.0, 5.0]}}
    _, answer = inner.ask("POST", "/v1/models/zoo:predict", pair)
    assert answer == {"outputs": {"sum": [4.0, 7.0], "difference": [-2.0, -3.0]}}
    status, answer = inner.ask("POST", "/v1/models/zoo:predict", {"instances": [1.0]})
    assert (status, '"serving_default" not found in signature def' in answer["error"]) == (400, True)


def test_a_model_of_torchserve_needs_a_contract_and_the_file_that_was_told(
    inner: Gateway, flags: list[str], tmp_path: Path
) -> None:
    """Without it clients are told what to write; the flags with the file that holds just that are enough."""
    status, answer = inner.ask("POST", "/predict/doubler", {"inputs": ROWS})
    assert status == 503
    example, entry = re.fullmatch(
        r".*after this example: ({.*}); and in gateway.yaml, beside it: (models: {.*}); a handler .*", answer["detail"]
    ).groups()  # type: ignore[union-attr]
    contract = json.loads(example)
    contract["inputs"] = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    contract["outputs"] = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    (tmp_path / "doubler.json").write_text(json.dumps(contract))
    (tmp_path / "gateway.yaml").write_text(entry)
    with gateway(tmp_path, *flags, "--config", str(tmp_path / "gateway.yaml")) as told:
        status, answer = told.ask("POST", "/predict/doubler", {"inputs": ROWS})
        assert (status, answer["outputs"]["y"]) == (200, [[2.0, 4.0], [6.0, 8.0]])
        assert answer["stack"] == "torchserve"


def test_a_gateway_is_an_open_inference_protocol_server_itself(inner: Gateway, tmp_path: Path) -> None:
    """Another takes its models from it by its address, over either transport, to the same answers."""
    addresses = ("--oip", f"http://127.0.0.1:{inner.rest}", "--oip", f"grpc://{inner.grpc}")
    with gateway(tmp_path, *addresses) as outer:
        for endpoint in ("oip", "oip2"):
            body = {"model": "affine", "inputs": ROWS, "version": 1, "endpoint": endpoint}
            status, answer = outer.ask("POST", "/predict", body)
            assert (status, answer["outputs"]["y"], answer["version"]) == (200, [[3.0, 5.0], [7.0, 9.0]], 1)
        _, index = outer.ask("POST", "/v2/repository/index", {"ready": True})
        assert [(entry["name"], entry["version"]) for entry in index] == [("affine", "2"), ("affine", "1")]


def test_a_check_that_connects_tells_the_same(inner: Gateway, flags: list[str]) -> None:
    """The real servers by their names, their models, and what is missing; without starting anything."""
    command = [sys.executable, "-m", "gateway", "check", *flags, "--connect"]
    reply = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    assert "  torchserve: TorchServe 0.12.0\n" in reply.stdout
    assert re.search(r"  tfserving: savedmodel-server \S+ \(stand-in\)\n", reply.stdout)
    assert "    tfserving: ready, versions 2, 1\n" in reply.stdout
    assert "  doubler: cannot be answered: endpoint 'torchserve' does not describe its tensors" in reply.stdout


def test_a_torchserve_with_its_tokens_on_is_asked_with_its_keys(foreign: Foreign) -> None:
    """With the file of its keys its models are listed; without it the check says that keys are needed."""
    ports = foreign.stack.ports
    address = f"127.0.0.1:{ports.torchserve_rest_port}"
    command = [sys.executable, "-m", "gateway", "check", "--connect", "--torchserve", address]
    command += ["--torchserve-management", f"127.0.0.1:{ports.torchserve_management_port}"]
    keys = ["--torchserve-key-file", str(foreign.key_file)]
    told = subprocess.run([*command, *keys], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert told.returncode == 0, told.stdout + told.stderr
    for model in ("doubler", "pets"):
        assert f"  {model}: cannot be answered: endpoint 'torchserve' does not describe its tensors" in told.stdout
    assert refused.returncode == 1
    assert "problem: endpoints.torchserve: its models cannot be listed: " in refused.stderr
    assert "token_file" in refused.stderr
