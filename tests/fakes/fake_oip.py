"""A scripted Open Inference Protocol server: REST, with and without the binary extension, and gRPC, raw and typed."""

from __future__ import annotations

import json
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import aiohttp.web
import grpc
import numpy as np
import numpy.typing as npt

from gateway._generated import oip_pb2 as pb
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
Raw = tuple[TensorSpec, NDArray]

LENGTH = "Inference-Header-Content-Length"
_HTTP = {Code.INVALID_ARGUMENT: 400, Code.NOT_FOUND: 404, Code.INTERNAL: 500, Code.UNAVAILABLE: 503}
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class OipError(Exception):
    """An error that both doors answer."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class FakeOip(Script):
    """Serves `models`; use as an async context manager.

    `binary` is whether it advertises and answers in the binary extension, `typed` whether gRPC answers are typed.
    `spellings` are its own words for versions; `unversioned` models have none, `unlisted` ones do not list theirs, as
    MLServer's; `loading` ones are not ready. `lists` is how it lists its models: by the repository `index`, by the list
    of `kserve`, or not at all; `unloaded` ones are in the index and can be had no more. `sent` holds each inference
    call's path and, for REST, content type.
    """

    def __init__(
        self,
        *models: FakeModel,
        binary: bool = True,
        typed: bool = False,
        name: str = "fakeserver",
        version: str = "2.1",
    ) -> None:
        super().__init__()
        self.models = {model.name: model for model in models}
        self.name, self.version = name, version
        self.binary, self.typed = binary, typed
        self.describes_tensors = True
        self.spellings: dict[int, str] = {}
        self.unversioned: set[str] = set()
        self.unlisted: set[str] = set()
        self.loading: set[str] = set()
        self.lists: str | None = "index"
        self.unloaded: set[str] = set()
        self.sent: list[tuple[str, str]] = []
        self._open = AsyncExitStack()

    async def __aenter__(self) -> FakeOip:
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

    def find(self, name: str, spelling: str) -> tuple[FakeModel, str]:
        """The model, and its version as it is spelled; raises OipError with MLServer's texts."""
        model = self.models.get(name)
        if model is None:
            raise OipError(Code.NOT_FOUND, f"Model {name} not found")
        versions = self._versions(model)
        if spelling and spelling not in versions:
            raise OipError(Code.NOT_FOUND, f"Model {name} with version {spelling} not found")
        return model, spelling or (versions[-1] if versions else "")

    def listed(self, model: FakeModel) -> list[str]:
        """The versions that a model's metadata lists."""
        return [] if model.name in self.unlisted else self._versions(model)

    def _versions(self, model: FakeModel) -> list[str]:
        if model.name in self.unversioned:
            return []
        return [self.spellings.get(number, str(number)) for number in sorted(model.versions)]

    def extensions(self) -> list[str]:
        """The extensions that the server's metadata lists."""
        return ["model_repository", *(["binary_tensor_data"] if self.binary else [])]

    def index(self) -> list[tuple[str, str]]:
        """Each model in the repository index, with its state."""
        return [*((name, "READY") for name in self.models), *((name, "UNAVAILABLE") for name in self.unloaded)]

    async def act(self, behaviour: Behaviour, relay: Relay) -> None:
        """Raises or waits as scripted; returns where the model shall compute."""
        match behaviour:
            case Refuse(text):
                raise OipError(Code.INVALID_ARGUMENT, text)
            case Fail():
                raise OipError(Code.INTERNAL, "ValueError : the model failed")
            case QueueFull():
                raise OipError(Code.UNAVAILABLE, "Exceeds maximum queue size")
            case Lose():
                relay.cut()
                await forever()
            case Hang():
                await forever()
            case Hold():
                await behaviour.wait()

    def computed(self, model: FakeModel, arrays: dict[str, NDArray], wanted: list[str]) -> list[Raw]:
        """The wanted outputs, with their specs."""
        outputs = model.compute(arrays)
        return [(spec, outputs[spec.name]) for spec in model.outputs if not wanted or spec.name in wanted]

    # -- REST --

    async def _rest(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        path = request.rel_url.raw_path
        parts = [unquote(part) for part in path.strip("/").split("/")]
        try:
            if parts == ["v2"]:
                self.calls["server"] += 1
                return _json({"name": self.name, "version": self.version, "extensions": self.extensions()})
            if parts == ["v2", "repository", "index"] or parts == ["v2", "models"]:
                self.calls["list"] += 1
                if self.lists == "index" and parts[1] == "repository" and request.method == "POST":
                    return _json([{"name": name, "version": "", "state": state} for name, state in self.index()])
                if self.lists == "kserve" and parts[1] == "models" and request.method == "GET":
                    return _json({"models": list(self.models)})
                return _json({"error": "Not Found"}, 404)
            if parts[:2] != ["v2", "models"] or len(parts) < 3:
                return _json({"error": "Not Found"}, 404)
            last = parts[-1] if parts[-1] in ("ready", "infer") and len(parts) > 3 else ""
            spelling = parts[4] if parts[3:4] == ["versions"] else ""
            if last == "infer":
                self.sent.append((path, request.content_type))
                self.hear(request.headers.items())
                return await self._infer(parts[2], spelling, request)
            model, _ = self.find(parts[2], spelling)
            if last == "ready":
                self.calls["status"] += 1
                return aiohttp.web.Response(status=400 if model.name in self.loading else 200)
            self.calls["metadata"] += 1
            return _json(self._described(model))
        except OipError as exc:
            return _json({"error": exc.text}, _HTTP[exc.code])

    def _described(self, model: FakeModel) -> dict[str, Any]:
        specs = (model.inputs, model.outputs) if self.describes_tensors else ((), ())
        inputs, outputs = ([spec.as_json() for spec in side] for side in specs)
        return {
            "name": model.name,
            "versions": self.listed(model),
            "platform": "",
            "inputs": inputs,
            "outputs": outputs,
            "parameters": {},
        }

    async def _infer(self, name: str, spelling: str, request: aiohttp.web.Request) -> aiohttp.web.Response:
        body = await request.read()
        with self.serving() as behaviour:
            match behaviour:
                case Status(int(status), text):
                    return _json({"error": text}, status)
                case Garbage(data):
                    return aiohttp.web.Response(body=data, content_type="application/json")
                case Oversized(size):
                    return aiohttp.web.Response(body=b'{"outputs": [' + b"1," * (size // 2) + b"1]}")
            await self.act(behaviour, self.rest_relay)
            model, version = self.find(name, spelling)
            length = request.headers.get(LENGTH)
            asked, arrays = _read_body(body, None if length is None else int(length))
            outputs = self.computed(model, arrays, [output["name"] for output in asked.get("outputs", ())])
            document: dict[str, Any] = {"model_name": name, "id": asked.get("id"), "parameters": {"nested": {}}}
            if version:
                document["model_version"] = version
            asks = asked.get("parameters", {}).get("binary_data_output", False)
            return _reply(document, outputs, binary=self.binary and asks)


class _Handlers(grpc.GenericRpcHandler):
    """The methods that the gateway calls, as raw bytes; everything else is UNIMPLEMENTED."""

    def __init__(self, fake: FakeOip) -> None:
        self._fake = fake

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a full method name."""
        method = {
            "/inference.GRPCInferenceService/ModelInfer": self._infer,
            "/inference.GRPCInferenceService/ModelMetadata": self._metadata,
            "/inference.GRPCInferenceService/ModelReady": self._ready,
            "/inference.GRPCInferenceService/ServerMetadata": self._server,
            **({"/inference.GRPCInferenceService/RepositoryIndex": self._index} if self._fake.lists == "index" else {}),
        }.get(handler_call_details.method)
        return method and grpc.unary_unary_rpc_method_handler(_answering(self._fake, method))

    async def _infer(self, message: bytes) -> bytes:
        request = pb.ModelInferRequest.FromString(message)
        fake = self._fake
        fake.sent.append((f"/{request.model_name}/{request.model_version}".rstrip("/"), ""))
        with fake.serving() as behaviour:
            match behaviour:
                case Status(str(status), text):
                    raise OipError(Code[status], text)
                case Garbage(data):
                    return data
                case Oversized(size):
                    return b"x" * size
            await fake.act(behaviour, fake.grpc_relay)
            model, version = fake.find(request.model_name, request.model_version)
            assert len(request.raw_input_contents) == len(request.inputs), "the gateway sends raw contents"
            arrays = {
                tensor.name: _from_raw(tensor.datatype, list(tensor.shape), raw)
                for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
            }
            outputs = fake.computed(model, arrays, [output.name for output in request.outputs])
            reply = pb.ModelInferResponse(model_name=model.name, model_version=version, id=request.id)
            # 16-bit floats have no typed contents.
            raw = not fake.typed or any(spec.datatype not in _FIELDS for spec, _ in outputs)
            for spec, array in outputs:
                output = reply.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
                if raw:
                    reply.raw_output_contents.append(_to_raw(spec.datatype, array))
                else:
                    getattr(output.contents, _FIELDS[spec.datatype]).extend(array.reshape(-1).tolist())
            return reply.SerializeToString()

    async def _metadata(self, message: bytes) -> bytes:
        self._fake.calls["metadata"] += 1
        request = pb.ModelMetadataRequest.FromString(message)
        model, _ = self._fake.find(request.name, request.version)
        reply = pb.ModelMetadataResponse(name=model.name, versions=self._fake.listed(model))
        if self._fake.describes_tensors:
            for side, specs in ((reply.inputs, model.inputs), (reply.outputs, model.outputs)):
                for spec in specs:
                    side.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return reply.SerializeToString()

    async def _ready(self, message: bytes) -> bytes:
        self._fake.calls["status"] += 1
        request = pb.ModelReadyRequest.FromString(message)
        model, _ = self._fake.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=model.name not in self._fake.loading).SerializeToString()

    async def _index(self, message: bytes) -> bytes:
        self._fake.calls["list"] += 1
        pb.RepositoryIndexRequest.FromString(message)
        entries = [pb.RepositoryIndexResponse.ModelIndex(name=name, state=state) for name, state in self._fake.index()]
        return pb.RepositoryIndexResponse(models=entries).SerializeToString()

    async def _server(self, message: bytes) -> bytes:
        self._fake.calls["server"] += 1
        pb.ServerMetadataRequest.FromString(message)
        return pb.ServerMetadataResponse(
            name=self._fake.name, version=self._fake.version, extensions=self._fake.extensions()
        ).SerializeToString()


def _answering(fake: FakeOip, method: Callable[[bytes], Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
    async def call(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        fake.hear(context.invocation_metadata())
        try:
            return await method(message)
        except OipError as exc:
            await context.abort(exc.code, exc.text)

    return call


def _json(document: dict[str, Any], status: int = 200) -> aiohttp.web.Response:
    return aiohttp.web.json_response(document, status=status)


def _read_body(body: bytes, length: int | None) -> tuple[dict[str, Any], dict[str, NDArray]]:
    asked = json.loads(body if length is None else body[:length])
    offset, arrays = length or 0, {}
    for entry in asked["inputs"]:
        datatype, shape = entry["datatype"], entry["shape"]
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is not None:
            arrays[entry["name"]] = _from_raw(datatype, shape, body[offset : offset + size])
            offset += size
            continue
        values = [item.encode() for item in entry["data"]] if datatype == "BYTES" else entry["data"]
        arrays[entry["name"]] = np.array(values, NUMPY_DTYPE[datatype]).reshape(shape)
    assert length is None or offset == len(body), "bytes left over after the last buffer"
    return asked, arrays


def _reply(document: dict[str, Any], outputs: list[Raw], *, binary: bool) -> aiohttp.web.Response:
    buffers = []
    document["outputs"] = []
    for spec, array in outputs:
        entry: dict[str, Any] = {"name": spec.name, "shape": list(array.shape), "datatype": spec.datatype}
        if binary:
            buffers.append(_to_raw(spec.datatype, array))
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            flat = array.reshape(-1).tolist()
            entry["data"] = [item.decode() for item in flat] if spec.datatype == "BYTES" else flat
        document["outputs"].append(entry)
    text = json.dumps(document).encode()
    if not binary:
        return aiohttp.web.Response(body=text, content_type="application/json")
    headers = {LENGTH: str(len(text))}
    body = b"".join([text, *buffers])
    return aiohttp.web.Response(body=body, content_type="application/octet-stream", headers=headers)


def _from_raw(datatype: str, shape: list[int], raw: bytes) -> NDArray:
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY_DTYPE[datatype]).reshape(shape)
    items, offset = [], 0
    while offset < len(raw):
        (size,) = struct.unpack_from("<I", raw, offset)
        items.append(raw[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return np.array(items, object).reshape(shape)


def _to_raw(datatype: str, array: NDArray) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.flat)
    return np.ascontiguousarray(array).tobytes()
