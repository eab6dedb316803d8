"""Two tiny servers, HTTP and gRPC, that answer the toy model over all six protocols, rightly or not."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np

from gateway._generated import oip_pb2, tfserving_pb2, torchserve_pb2
from gateway.core.tensor import NDArray
from tests.unit.loadtests.builders import toy_model

WRONG_EVERY = 10


@dataclass
class Behaviour:
    """How a fake answers. `dies_after` requests it closes every connection; `served_by` is the gateway's header."""

    wrong: bool = False
    dies_after: int | None = None
    hangs: bool = False
    status: int = 200
    served_by: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def next(self) -> tuple[int, bool]:
        """The request's number and whether the server is dead by now."""
        number = next(self._count)
        if self.hangs:
            self.released.wait(30)
        return number, self.dies_after is not None and number >= self.dies_after

    def answer(self, x: NDArray, number: int) -> NDArray:
        """The toy model's answer, every tenth one wrong where asked for."""
        y = toy_model(x)
        return y + 1 if self.wrong and number % WRONG_EVERY == 0 else y


@contextmanager
def http_server(behaviour: Behaviour) -> Iterator[str]:
    """A server on a free port that knows `/predict`, TorchServe's and TF Serving's routes; yields `host:port`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body leave in one write

        def do_POST(self) -> None:  # the base class's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            number, dead = behaviour.next()
            if dead:
                self.close_connection = True
                return
            behaviour.seen.append({name.lower(): value for name, value in self.headers.items()})
            x = np.asarray(json.loads(body)["inputs"]["x"], np.float32)
            y = behaviour.answer(x, number).astype(float).tolist()
            bare = self.path.startswith("/v1/models/")
            reply = json.dumps({"outputs": y if bare else {"y": y}}).encode()
            self.send_response(behaviour.status)
            self.send_header("Content-Length", str(len(reply)))
            for name, value in behaviour.served_by.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Silent."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was cut off is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        behaviour.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_server(behaviour: Behaviour) -> Iterator[str]:
    """A server on a free port with ModelInfer, Predictions and Predict; yields `host:port`."""

    def handler(answered: Callable[[bytes, int], bytes]) -> grpc.RpcMethodHandler[bytes, bytes]:
        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            number, dead = behaviour.next()
            if dead:
                server.stop(None)
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            behaviour.seen.append({str(key): str(value) for key, value in context.invocation_metadata()})
            context.set_trailing_metadata(tuple(behaviour.served_by.items()))
            return answered(request, number)

        return grpc.unary_unary_rpc_method_handler(call)

    def model_infer(request: bytes, number: int) -> bytes:
        asked = oip_pb2.ModelInferRequest.FromString(request)
        x = np.frombuffer(asked.raw_input_contents[0], "<f4").reshape(tuple(asked.inputs[0].shape))
        y = behaviour.answer(x, number)
        reply = oip_pb2.ModelInferResponse(model_name=asked.model_name, raw_output_contents=[y.tobytes()])
        reply.outputs.add(name="y", datatype="FP32", shape=y.shape)
        return reply.SerializeToString()

    def predictions(request: bytes, number: int) -> bytes:
        asked = torchserve_pb2.PredictionsRequest.FromString(request)
        x = np.asarray(json.loads(asked.input["data"])["inputs"]["x"], np.float32)
        body = json.dumps({"outputs": {"y": behaviour.answer(x, number).astype(float).tolist()}})
        return torchserve_pb2.PredictionResponse(prediction=body.encode()).SerializeToString()

    def predict(request: bytes, number: int) -> bytes:
        asked = tfserving_pb2.PredictRequest.FromString(request).inputs["x"]
        shape = tuple(dim.size for dim in asked.tensor_shape.dim)
        y = behaviour.answer(np.frombuffer(asked.tensor_content, "<f4").reshape(shape), number)
        reply = tfserving_pb2.PredictResponse()
        proto = reply.outputs["y"]
        proto.dtype = 1  # type: ignore[assignment]  # DT_FLOAT
        for size in y.shape:
            proto.tensor_shape.dim.add(size=size)
        proto.float_val.extend(y.ravel().tolist())
        return reply.SerializeToString()

    services = {
        "inference.GRPCInferenceService": {"ModelInfer": handler(model_infer)},
        "org.pytorch.serve.grpc.inference.InferenceAPIsService": {"Predictions": handler(predictions)},
        "tensorflow.serving.PredictionService": {"Predict": handler(predict)},
    }
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        for name, methods in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            behaviour.released.set()
            server.stop(None).wait()
