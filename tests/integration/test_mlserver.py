"""A third-party server of the Open Inference Protocol, MLServer, behind the gateway: one model, the same answers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import numpy.typing as npt
import pytest

from gateway._generated import oip_pb2
from gateway.backends.registry import connect
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import DATATYPES, Tensor
from gateway.server import Addresses, serve
from gateway.settings import Settings
from tests.contract.worlds import deadline_in, sample

pytestmark = pytest.mark.clients

ROOT = Path(__file__).resolve().parents[2]
MLSERVER = Path(os.environ.get("TWINSERVE_CLIENTS", ROOT / "artifacts" / "clients")) / "mlserver" / "bin" / "mlserver"
SERVING = ROOT / "serving" / "oip"
ECHO = ROOT / "tests" / "fakes"
NAME = "mlserver 1.7.1"
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class MlServer:
    """The running server's two ports, and what it serves."""

    rest: str
    grpc: str
    contract: ModelContract
    golden: dict[str, Array]

    def backend(self, transport: str) -> Any:
        return connect(stack="oip", transport=transport, rest=self.rest, grpc=self.grpc)

    def agrees(self, answer: Array) -> None:
        """Fails where an answer for all golden rows is not theirs, within the contract's tolerance."""
        tolerance, expected = self.contract.tolerance, self.golden["probabilities"]
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer, expected, atol=tolerance.atol, rtol=tolerance.rtol)
        assert answer.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()


@pytest.fixture(scope="module")
def mlserver(built_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlServer]:
    """MLServer in its own environment, on free ports, with `digits` from this checkout."""
    if not MLSERVER.exists():
        pytest.skip(f"no MLServer at {MLSERVER.parent}; `make test-clients` installs it")
    folder = tmp_path_factory.mktemp("mlserver")
    rest, rpc = _repository(folder, built_models / "digits" / "torchscript" / "digits.mar")
    log = folder / "mlserver.log"
    with log.open("wb") as output:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SERVING, ECHO)))}
        command = [str(MLSERVER), "start", str(folder)]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=folder)
    try:
        _wait_until_ready(rest, process, log)
        with np.load(built_models / "digits" / "golden.npz") as golden:
            arrays = dict(golden)
        contract = ModelContract.load(built_models / "digits" / "contract.json")
        yield MlServer(f"http://127.0.0.1:{rest}", f"127.0.0.1:{rpc}", contract, arrays)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def gateway(server: MlServer) -> AsyncIterator[Addresses]:
    """The gateway in front of both of MLServer's ports, once it is ready."""
    settings = Settings(
        server={"rest_port": 0, "grpc_port": 0, "drain_seconds": 5},
        endpoints={
            "mls-rest": {"stack": "oip", "transport": "rest", "rest": server.rest},
            "mls-grpc": {"stack": "oip", "transport": "grpc", "grpc": server.grpc},
        },
        models={
            "digits": {
                "contract": "unused",
                "targets": [{"endpoint": "mls-rest", "variant": "torchscript"}, {"endpoint": "mls-grpc"}],
            }
        },
    )
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, {"digits": server.contract}, stop, listening.set_result))
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    try:
        addresses = await listening
        async with asyncio.timeout(15), aiohttp.ClientSession() as http:
            while (await http.get(f"http://127.0.0.1:{addresses.rest_port}/v2/health/ready")).status != 200:
                await asyncio.sleep(0.05)
        yield addresses
    finally:
        stop.set()
        await asyncio.wait_for(serving, 15)


@pytest.mark.parametrize("endpoint", ["mls-rest", "mls-grpc"])
async def test_golden_answers_come_through_the_rest_doors(mlserver: MlServer, endpoint: str) -> None:
    """/predict and the protocol's own REST answer the golden rows over either transport, and name MLServer."""
    image = mlserver.golden["image"]
    asked = {"name": "image", "shape": list(image.shape), "datatype": "FP32", "data": image.tolist()}
    async with gateway(mlserver) as addresses, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{addresses.rest_port}"
        body: dict[str, Any] = {"model": "digits", "endpoint": endpoint, "inputs": {"image": image.tolist()}}
        async with http.post(f"{base}/predict", json=body) as reply:
            answer = await reply.json()
            assert reply.status == 200, answer
            assert f'server="{NAME}"' in reply.headers["x-served-by"]
            assert (answer["stack"], answer["version"]) == ("oip", 1)
            mlserver.agrees(np.array(answer["outputs"]["probabilities"], np.float32))
        body = {"inputs": [asked], "parameters": {"endpoint": endpoint}, "id": "mine"}
        async with http.post(f"{base}/v2/models/digits/versions/1/infer", json=body) as reply:
            answer = await reply.json()
            assert (reply.status, answer["id"], answer["model_version"]) == (200, "mine", "1"), answer
            (output,) = answer["outputs"]
            mlserver.agrees(np.array(output["data"], np.float32).reshape(output["shape"]))


@pytest.mark.parametrize("endpoint", ["mls-rest", "mls-grpc"])
async def test_golden_answers_come_through_the_grpc_door(mlserver: MlServer, endpoint: str) -> None:
    """ModelInfer with raw contents answers the golden rows over either transport."""
    image = mlserver.golden["image"]
    message = oip_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes()])
    message.inputs.add(name="image", datatype="FP32", shape=image.shape)
    message.parameters["endpoint"].string_param = endpoint
    async with (
        gateway(mlserver) as addresses,
        grpc.aio.insecure_channel(f"127.0.0.1:{addresses.grpc_port}") as channel,
    ):
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
        reply = oip_pb2.ModelInferResponse.FromString(await call(message.SerializeToString(), timeout=30))
    mlserver.agrees(np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(reply.outputs[0].shape))


async def test_the_direct_answer_is_the_same(mlserver: MlServer) -> None:
    """MLServer itself, asked as its documentation shows, gives the golden answers: the gateway changes nothing."""
    image = mlserver.golden["image"]
    tensor = {"name": "image", "shape": list(image.shape), "datatype": "FP32", "data": image.reshape(-1).tolist()}
    url = f"{mlserver.rest}/v2/models/digits/infer"
    async with aiohttp.ClientSession() as http, http.post(url, json={"inputs": [tensor]}) as reply:
        answer = await reply.json()
    (output,) = answer["outputs"]
    mlserver.agrees(np.array(output["data"], np.float32).reshape(output["shape"]))


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_it_is_described_and_its_refusals_understood(mlserver: MlServer, transport: str) -> None:
    """Name, tensors and versions are discovered; unknown models and versions and refused inputs keep their causes."""
    backend = mlserver.backend(transport)
    try:
        assert await backend.server() == NAME
        state = await backend.model_state("digits")
        assert state.versions == (1,)
        assert mlserver.contract.differences(state.metadata) == []
        for model, name, cause in (
            (ModelSpec("nope"), "image", Cause.MODEL_NOT_FOUND),
            (ModelSpec("digits", version=99), "image", Cause.VERSION_NOT_FOUND),
            (ModelSpec("digits"), "picture", Cause.UPSTREAM_REJECTED),
        ):
            tensor = Tensor(name, "FP32", mlserver.golden["image"][:1])
            with pytest.raises(GatewayError) as caught:
                await backend.infer(InferenceRequest(model, (tensor,)), deadline_in(10))
            assert caught.value.cause is cause, caught.value
    finally:
        await backend.close()


@pytest.mark.parametrize(("transport", "unsupported"), [("rest", {"FP16", "BF16"}), ("grpc", {"BF16"})])
async def test_every_datatype_comes_back_to_the_bit(mlserver: MlServer, transport: str, unsupported: set[str]) -> None:
    """An identity model returns what it was sent, scalars and no rows included; MLServer has no BF16."""
    backend = mlserver.backend(transport)
    scalar, empty = np.array(2.5, np.float32), np.zeros((0, 2), np.float32)
    tensors = [sample(datatype) for datatype in sorted(DATATYPES)]
    try:
        for tensor in [*tensors, Tensor("x", "FP32", scalar), Tensor("x", "FP32", empty)]:
            asked = InferenceRequest(ModelSpec("echo"), (tensor,), wanted=("y",), id="mine")
            if tensor.datatype in unsupported:
                with pytest.raises(GatewayError) as caught:
                    await backend.infer(asked, deadline_in(10))
                assert caught.value.cause is Cause.UNSUPPORTED_DATATYPE, tensor.datatype
                continue
            response = await backend.infer(asked, deadline_in(10))
            (output,) = response.outputs
            assert (response.version, response.id) == (1, "mine")
            assert (output.datatype, output.shape) == (tensor.datatype, tensor.shape)
            assert output.array.tolist() == tensor.array.tolist(), tensor.datatype
    finally:
        await backend.close()


def _repository(folder: Path, archive: Path) -> tuple[int, int]:
    """Writes what `serving/oip` holds with free ports and this model's path; returns the REST and the gRPC port.

    MLServer's settings file wins over its environment, so the ports cannot be given there.
    """
    rest, rpc, metrics = _free_ports(3)
    settings = json.loads((SERVING / "settings.json").read_text())
    settings |= {"http_port": rest, "grpc_port": rpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = json.loads((SERVING / "digits" / "model-settings.json").read_text())
    model["parameters"]["uri"] = str(archive)
    (folder / "digits").mkdir()
    (folder / "digits" / "model-settings.json").write_text(json.dumps(model))
    (folder / "echo").mkdir()
    echo = {"name": "echo", "implementation": "mlserver_echo.Echo"}
    (folder / "echo" / "model-settings.json").write_text(json.dumps(echo))
    return rest, rpc


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the REST port answers ready; fails with the end of the log where it does not within 60 s."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if connection.recv(64).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"MLServer did not become ready:\n{log.read_text()[-2000:]}")
