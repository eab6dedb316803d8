"""A scripted TensorFlow Serving: gRPC and REST, after its wire facts (column form only, as the gateway speaks it)."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import aiohttp.web
import grpc
import numpy as np
import numpy.typing as npt

from gateway._generated import tfserving_pb2 as pb
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE
from tests.fakes.relay import Relay
from tests.fakes.script import (
    Behaviour,
    Fail,
    FakeModel,
    Garbage,
    Hang,
    Hold,
    Lose,
    Oversized,
    QueueFull,
    Refuse,
    Script,
    Status,
    forever,
)

NDArray = npt.NDArray[Any]
Code = grpc.StatusCode

STAND_IN = "savedmodel-server/1.0 (stand-in)"
QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full; currently 10 elements."

# tensorflow/core/framework/types.proto, and the TensorProto field that carries each type.
_TYPES: dict[str, tuple[int, str]] = {
    "FP32": (1, "float_val"),
    "FP64": (2, "double_val"),
    "INT32": (3, "int_val"),
    "UINT8": (4, "int_val"),
    "INT16": (5, "int_val"),
    "INT8": (6, "int_val"),
    "BYTES": (7, "string_val"),
    "INT64": (9, "int64_val"),
    "BOOL": (10, "bool_val"),
    "BF16": (14, "half_val"),
    "UINT16": (17, "int_val"),
    "FP16": (19, "half_val"),
    "UINT32": (22, "uint32_val"),
    "UINT64": (23, "uint64_val"),
}
_NAMES = {number: datatype for datatype, (number, _) in _TYPES.items()}
_DT_WORDS = {
    "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING", "FP16": "DT_HALF", "BF16": "DT_BFLOAT16",
}  # fmt: skip
_HTTP = {Code.INVALID_ARGUMENT: 400, Code.NOT_FOUND: 404, Code.INTERNAL: 500, Code.UNAVAILABLE: 503}


class ServingError(Exception):
    """An error that both doors answer: a gRPC code and TensorFlow Serving's text."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class FakeTfServing(Script):
    """Serves `models`; use as an async context manager. `mark` is what it sends as `x-server`, None for nothing.

    `models` may be changed while it serves: versions come and go by replacing an entry. `signature` is the
    first signature of every model, and the only one of those without `others`.
    """

    def __init__(self, *models: FakeModel, mark: str | None = STAND_IN, signature: str = "serving_default") -> None:
        super().__init__()
        self.models = {model.name: model for model in models}
        self.mark = mark
        self.signature = signature
        self._open = AsyncExitStack()

    async def __aenter__(self) -> FakeTfServing:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((_Handlers(self),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._open.push_async_callback(server.stop, 0)
        app = aiohttp.web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._rest)
        runner = aiohttp.web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        self.grpc_relay = await self._open.enter_async_context(Relay(port))
        self.rest_relay = await self._open.enter_async_context(Relay(runner.addresses[0][1]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection; both ports refuse from now on."""
        await self._open.aclose()

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC port."""
        return f"127.0.0.1:{self.grpc_relay.port}"

    @property
    def rest_url(self) -> str:
        """The base URL of the REST port."""
        return f"http://127.0.0.1:{self.rest_relay.port}"

    # -- what both doors share --

    def signatures(self, model: FakeModel) -> dict[str, FakeModel]:
        """What a model is under each signature."""
        return {self.signature: model, **model.others}

    def version_of(self, name: str, version: int | None, label: str | None, signature: str) -> tuple[FakeModel, int]:
        """The model, as it is under a signature, and the version that answer; raises ServingError in the real words."""
        model = self.models.get(name)
        if label is not None:
            if model is None or label not in model.labels:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            version = model.labels[label]
        asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        if model is None or not model.versions or (version is not None and version not in model.versions):
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        found = self.signatures(model).get(signature or self.signature)
        if found is None:
            raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.')
        return found, max(model.versions) if version is None else version

    def status_of(self, name: str) -> tuple[int, ...]:
        """The versions of a model; raises ServingError for an unknown one."""
        self.calls["status"] += 1
        if not name:
            raise ServingError(Code.INVALID_ARGUMENT, "Missing model name in request.")
        if name not in self.models:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        return self.models[name].versions

    async def act(self, behaviour: Behaviour, relay: Relay) -> None:
        """Raises or waits as scripted; returns where the model shall compute."""
        match behaviour:
            case Refuse(text):
                raise ServingError(Code.INVALID_ARGUMENT, text)
            case Fail():
                raise ServingError(Code.INTERNAL, "assertion failed: [Condition x == y did not hold]")
            case QueueFull():
                raise ServingError(Code.UNAVAILABLE, QUEUE_FULL)
            case Lose():
                relay.cut()
                await forever()
            case Hang():
                await forever()
            case Hold():
                await behaviour.wait()

    # -- REST --

    async def _rest(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        headers = {"x-server": self.mark} if self.mark else {}
        try:
            status, body = await self._rest_answer(request)
        except ServingError as exc:
            text = exc.text
            if exc.code is Code.FAILED_PRECONDITION:
                text = f'Serving signature name: "{text.split(chr(34))[1]}" not found in signature def'
            status, body = _HTTP.get(exc.code, 400), json.dumps({"error": text}, indent=4).encode()
        return aiohttp.web.Response(status=status, body=body, content_type="application/json", headers=headers)

    async def _rest_answer(self, request: aiohttp.web.Request) -> tuple[int, bytes]:
        path = request.rel_url.raw_path.partition(":")[0]
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] != ["v1", "models"] or request.query_string:
            raise ServingError(Code.INVALID_ARGUMENT, f"Malformed request: {request.method} {path}")
        if len(parts) == 2:
            raise ServingError(Code.INVALID_ARGUMENT, "Missing model name in request.")
        metadata = parts[-1] == "metadata" and len(parts) > 3
        name, choice = parts[2], dict(zip(parts[3::2], parts[4::2], strict=False))
        version, label = int(choice["versions"]) if "versions" in choice else None, choice.get("labels")
        if request.method == "GET" and not metadata:
            return 200, _status_json(self.status_of(name))
        if request.method == "GET":
            self.calls["metadata"] += 1
            model, version = self.version_of(name, version, label, "")
            return 200, _metadata_json(name, version, self.signatures(model))
        self.hear(request.headers.items())
        body = await request.read()
        with self.serving() as behaviour:
            match behaviour:
                case Status(int(status), text):
                    return status, json.dumps({"error": text}).encode()
                case Garbage(data):
                    return 200, data
                case Oversized(size):
                    return 200, b'{"outputs": [' + b"1," * (size // 2) + b"1]}"
            await self.act(behaviour, self.rest_relay)
            asked = json.loads(body)
            model, version = self.version_of(name, version, label, asked.get("signature_name", ""))
            return 200, _predict_json(model, asked["inputs"])


class _Handlers(grpc.GenericRpcHandler):
    """The three methods that the gateway calls, as raw bytes; everything else is UNIMPLEMENTED."""

    def __init__(self, fake: FakeTfServing) -> None:
        self._fake = fake

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a full method name."""
        method = {
            "/tensorflow.serving.PredictionService/Predict": self._predict,
            "/tensorflow.serving.PredictionService/GetModelMetadata": self._metadata,
            "/tensorflow.serving.ModelService/GetModelStatus": self._status,
        }.get(handler_call_details.method)
        return method and grpc.unary_unary_rpc_method_handler(self._marked(method))

    def _marked(self, method: Callable[[bytes], Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
        async def call(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self._fake.hear(context.invocation_metadata())
            if self._fake.mark:
                await context.send_initial_metadata((("x-server", self._fake.mark),))
            try:
                return await method(message)
            except ServingError as exc:
                await context.abort(exc.code, exc.text)

        return call

    async def _predict(self, message: bytes) -> bytes:
        request = pb.PredictRequest.FromString(message)
        with self._fake.serving() as behaviour:
            match behaviour:
                case Status(str(status), text):
                    raise ServingError(grpc.StatusCode[status], text)
                case Garbage(data):
                    return data
                case Oversized(size):
                    return b"x" * size
            await self._fake.act(behaviour, self._fake.grpc_relay)
            spec = request.model_spec
            model, version = self._fake.version_of(spec.name, *_choice(spec), spec.signature_name)
            outputs = model.compute({name: _array(tensor) for name, tensor in request.inputs.items()})
            reply = pb.PredictResponse()
            reply.model_spec.name = spec.name
            reply.model_spec.version.value = version
            reply.model_spec.signature_name = spec.signature_name or self._fake.signature
            for output in model.outputs:
                if not request.output_filter or output.name in request.output_filter:
                    _fill(reply.outputs[output.name], output, outputs[output.name])
            return reply.SerializeToString()

    async def _metadata(self, message: bytes) -> bytes:
        self._fake.calls["metadata"] += 1
        request = pb.GetModelMetadataRequest.FromString(message)
        if list(request.metadata_field) != ["signature_def"]:
            raise ServingError(
                Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        spec = request.model_spec
        model, version = self._fake.version_of(spec.name, *_choice(spec), "")
        signatures = pb.SignatureDefMap()
        for name, own in self._fake.signatures(model).items():
            signature = signatures.signature_def[name]
            signature.method_name = "tensorflow/serving/predict"
            for side, specs in ((signature.inputs, own.inputs), (signature.outputs, own.outputs)):
                for tensor in specs:
                    info: Any = side[tensor.name]
                    info.name, info.dtype = f"{tensor.name}:0", _TYPES[tensor.datatype][0]
                    for size in tensor.shape:
                        info.tensor_shape.dim.add(size=size)
        reply = pb.GetModelMetadataResponse()
        reply.model_spec.name = model.name
        reply.model_spec.version.value = version
        packed = reply.metadata["signature_def"]
        packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        packed.value = signatures.SerializeToString()
        return reply.SerializeToString()

    async def _status(self, message: bytes) -> bytes:
        request = pb.GetModelStatusRequest.FromString(message)
        reply = pb.GetModelStatusResponse()
        for version in self._fake.status_of(request.model_spec.name):
            reply.model_version_status.add(version=version, state=30)
        return reply.SerializeToString()


def _choice(spec: Any) -> tuple[int | None, str | None]:
    return (
        spec.version.value if spec.HasField("version") else None,
        spec.version_label if spec.HasField("version_label") else None,
    )


def _array(tensor: Any) -> NDArray:
    """TensorProto -> array, after tensor.cc: content wins; else values, the last one repeated."""
    datatype = _NAMES[tensor.dtype]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    dtype = NUMPY_DTYPE[datatype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = list(getattr(tensor, _TYPES[datatype][1]))
    count = int(np.prod(shape))
    values += values[-1:] * (count - len(values))
    if datatype in ("FP16", "BF16"):
        return np.array(values[:count], np.uint16).view(dtype).reshape(shape)
    flat = np.empty(count, dtype)
    flat[:] = values[:count]
    return flat.reshape(shape)


def _fill(tensor: Any, spec: TensorSpec, array: NDArray) -> None:
    """array -> TensorProto with typed values, which is how TensorFlow Serving answers."""
    number, values = _TYPES[spec.datatype]
    tensor.dtype = number
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).reshape(-1)
    if spec.datatype in ("FP16", "BF16"):
        flat = flat.view(np.uint16)
    getattr(tensor, values).extend(flat.tolist())


def _predict_json(model: FakeModel, inputs: Any) -> bytes:
    """Column form: one input may come bare, one output goes bare."""
    if not (isinstance(inputs, dict) and "b64" not in inputs):
        inputs = {model.inputs[0].name: inputs}
    arrays = {spec.name: _from_json(spec, inputs[spec.name]) for spec in model.inputs}
    answers = model.compute(arrays)
    outputs = {spec.name: _to_json(answers[spec.name].tolist()) for spec in model.outputs}
    return json.dumps({"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}).encode()


def _from_json(spec: TensorSpec, value: Any) -> NDArray:
    if spec.datatype != "BYTES":
        return np.array(value, NUMPY_DTYPE[spec.datatype])
    return np.array(_leaves(value), object)


def _leaves(value: Any) -> Any:
    if isinstance(value, list):
        return [_leaves(item) for item in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _status_json(versions: tuple[int, ...]) -> bytes:
    fine = {"error_code": "OK", "error_message": ""}
    entries = [{"version": str(version), "state": "AVAILABLE", "status": fine} for version in versions]
    return json.dumps({"model_version_status": entries}, indent=1).encode()


def _metadata_json(name: str, version: int, signatures: Mapping[str, FakeModel]) -> bytes:
    def side(specs: tuple[TensorSpec, ...]) -> Mapping[str, Any]:
        return {
            spec.name: {
                "dtype": _DT_WORDS.get(spec.datatype, f"DT_{spec.datatype}"),
                "tensor_shape": {
                    "dim": [{"size": str(size), "name": ""} for size in spec.shape],
                    "unknown_rank": False,
                },
                "name": f"{spec.name}:0",
            }
            for spec in specs
        }

    definitions = {
        signature: {
            "inputs": side(model.inputs),
            "outputs": side(model.outputs),
            "method_name": "tensorflow/serving/predict",
            "defaults": {},
        }
        for signature, model in signatures.items()
    }
    document = {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }
    return json.dumps(document).encode()
