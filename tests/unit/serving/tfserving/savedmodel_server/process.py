"""The stand-in as a process on free ports, and how tests speak to it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

ROOT = Path(__file__).resolve().parents[5]
START_S = 60


def free_ports() -> tuple[int, int]:
    """Two ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A running stand-in."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int
    log: Path
    channel: grpc.Channel = field(init=False)

    def __post_init__(self) -> None:
        """The channel connects when it is first used."""
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One HTTP request; a body that is not bytes goes as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=30)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def is_open(self) -> bool:
        """Whether the REST port takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.rest_port)) == 0

    def wait_until(self, holds: Any) -> None:
        """Looks until the condition holds."""
        deadline = time.monotonic() + START_S
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[Server]:
    """A stand-in with these flags, on free ports; ended afterwards if it still runs."""
    grpc_port, rest_port = free_ports()
    log = folder / f"{rest_port}.log"
    command = [sys.executable, "-m", "serving.tfserving.savedmodel_server", "--bind_address=127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--port={grpc_port}", "--rest_api_port", str(rest_port), *flags], stderr=output, cwd=ROOT
        )
    server = Server(process, grpc_port, rest_port, log)
    try:
        yield server
    finally:
        server.channel.close()
        if process.poll() is None:
            process.kill()
        process.wait()


def request(signature: str = "", **inputs: Any) -> predict_pb2.PredictRequest:
    """A request to the zoo, or to `affine` without a signature."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "zoo" if signature else "affine"
    message.model_spec.signature_name = signature
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message
