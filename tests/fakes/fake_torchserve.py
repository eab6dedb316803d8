"""A scripted TorchServe, by default with the gateway's handler in it: REST inference and management, gRPC inference."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp.web
import grpc
import numpy as np
import numpy.typing as npt

from gateway._generated import torchserve_pb2 as pb
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

_GRPC = {400: Code.INVALID_ARGUMENT, 503: Code.UNAVAILABLE, 500: Code.INTERNAL, 507: Code.INTERNAL, 404: Code.INTERNAL}
_PACKAGE = "org.pytorch.serve.http."
_REQUEST_ID = {"x-request-id": "5a9cc5b7-0000-0000-0000-000000000000"}


class ServeError(Exception):
    """TorchServe's error triple; `rpc` is the gRPC code where it is not the one of the HTTP status."""

    def __init__(self, status: int, kind: str, message: str, rpc: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.rpc = rpc or _GRPC.get(status, Code.INTERNAL)

    def body(self) -> bytes:
        """The pretty-printed JSON, with TorchServe's newline."""
        return (json.dumps({"code": self.status, "type": self.kind, "message": self.message}, indent=2) + "\n").encode()


class FakeTorchServe(Script):
    """Serves `models`; use as an async context manager.

    `spellings` maps a version to how it is spelled, `N` unless given. `workers` and `queue_room` are what the
    describe call tells; `page` is how many models it lists at once; `api_version` is what `/api-description` states,
    None for nothing. `frame_error` (text and cause) makes the handler answer with an error in its frame. `paths` lists
    the inference requests' paths.

    `handler` answers a body in place of the gateway's own. `bodies` lists the requests' bodies, each with its content
    type over REST and its map's key over gRPC. `keys` turns token authorization on: those of `inference` and
    `management`.
    """

    def __init__(
        self,
        *models: FakeModel,
        api_version: str | None = "0.12.0",
        handler: Callable[[FakeModel, bytes], bytes] | None = None,
    ) -> None:
        super().__init__()
        self.handler = handler
        self.keys: dict[str, str] = {}
        self.bodies: list[tuple[str, bytes]] = []
        self.models = {model.name: model for model in models}
        self.api_version = api_version
        self.spellings: dict[int, str] = {}
        self.workers: list[str] = ["READY"]
        self.queue_room = 100
        self.page = 100
        self.frame_error: tuple[str, str] | None = None
        self.paths: list[str] = []
        self._open = AsyncExitStack()

    async def __aenter__(self) -> FakeTorchServe:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((_Handlers(self),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._open.push_async_callback(server.stop, 0)
        self.grpc_relay = await self._open.enter_async_context(Relay(port))
        self.rest_relay = await self._site(self._inference)
        self.management_relay = await self._site(self._management)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection; all ports refuse from now on."""
        await self._open.aclose()

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC inference port."""
        return f"127.0.0.1:{self.grpc_relay.port}"

    @property
    def rest_url(self) -> str:
        """The base URL of the inference port."""
        return f"http://127.0.0.1:{self.rest_relay.port}"

    @property
    def management_url(self) -> str:
        """The base URL of the management port."""
        return f"http://127.0.0.1:{self.management_relay.port}"

    def write_keys(self, path: Path, **keys: str) -> None:
        """Turns token authorization on with these keys, and writes them as TorchServe does, at once."""
        self.keys = {"inference": "inf-key-1", "management": "man-key-1", **keys}
        entries = {kind: {"key": key, "expiration time": "2026-01-01T01:00:00Z"} for kind, key in self.keys.items()}
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({**entries, "API": {"key": "api-key-1"}}))
        fresh.replace(path)

    def check_key(self, kind: str, authorization: object) -> None:
        """Raises ServeError where token authorization is on and this is not the key's header."""
        if self.keys and authorization != f"Bearer {self.keys[kind]}":
            text = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
            raise ServeError(400, "InvalidKeyException", text, Code.PERMISSION_DENIED)

    def answer(self, name: str, spelling: str | None, frame: bytes) -> bytes:
        """The handler's reply of one prediction; raises ServeError for what TorchServe does not have."""
        model, version = self._find(name, spelling)
        if self.handler is not None:
            return self.handler(model, frame)
        if self.frame_error is not None:
            text, cause = self.frame_error
            return _frame({"error": text, "cause": cause}, [])
        header, arrays = _read_frame(frame)
        outputs = model.compute(arrays)
        wanted = [entry["name"] for entry in header.get("outputs", [])]
        specs = [spec for spec in model.outputs if not wanted or spec.name in wanted]
        reply = {"model_name": name, "model_version": self._spelled(version), "outputs": []}
        if "id" in header:
            reply["id"] = header["id"]
        return _frame(reply, [(spec, outputs[spec.name]) for spec in specs])

    async def act(self, behaviour: Behaviour, relay: Relay, name: str) -> None:
        """Raises or waits as scripted; returns where the handler shall answer."""
        match behaviour:
            case Refuse(text):
                raise ServeError(400, "InternalServerException", text)
            case Fail():
                raise ServeError(503, "InternalServerException", "Prediction failed")
            case QueueFull():
                self.queue_room = 0
                raise ServeError(
                    503,
                    "ServiceUnavailableException",
                    f'Model "{name}" has no worker to serve inference request. Please use scale workers API to add '
                    "workers. If this is a sequence inference, please check if it is closed, or expired; or exceeds "
                    "maxSequenceJobQueueSize",
                    Code.INTERNAL,
                )
            case Lose():
                relay.cut()
                await forever()
            case Hang():
                await forever()
            case Hold():
                await behaviour.wait()

    def _find(self, name: str, spelling: str | None) -> tuple[FakeModel, int]:
        model = self.models.get(name)
        if model is None:
            raise ServeError(404, "ModelNotFoundException", f"Model not found: {name}")
        if spelling is None:
            return model, model.versions[0]
        for version in model.versions:
            if self._spelled(version) == spelling:
                return model, version
        raise ServeError(
            404, "ModelVersionNotFoundException", f"Model version: {spelling} does not exist for model: {name}"
        )

    def _spelled(self, version: int) -> str:
        return self.spellings.get(version, str(version))

    async def _site(self, handler: Any) -> Relay:
        app = aiohttp.web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = aiohttp.web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        return await self._open.enter_async_context(Relay(runner.addresses[0][1]))

    async def _inference(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        try:
            return aiohttp.web.Response(status=200, body=await self._predict(request), headers=_REQUEST_ID)
        except ServeError as exc:
            # A status without a type is a handler's own, whose body is its text.
            body = exc.body() if exc.kind else exc.message.encode()
            response = aiohttp.web.Response(status=exc.status, body=body, content_type="application/json")
            response.headers.update(_REQUEST_ID)
            response.force_close()
            return response

    async def _predict(self, request: aiohttp.web.Request) -> bytes:
        parts = [part for part in request.rel_url.parts if part != "/"]
        if parts == ["api-description"]:
            self.calls["server"] += 1
            info = {"title": "TorchServe APIs", "version": self.api_version}
            return json.dumps({"openapi": "3.0.1", "info": info if self.api_version else {}}).encode()
        if parts == ["ping"]:
            self.calls["ping"] += 1
            self.check_key("inference", request.headers.get("Authorization"))
            return b'{\n  "status": "Healthy"\n}\n'
        if not parts or parts[0] != "predictions" or len(parts) < 2:
            text = "Requested resource is not found, please refer to API document."
            raise ServeError(404, "ResourceNotFoundException", text)
        self.paths.append(request.rel_url.raw_path)
        self.hear(request.headers.items())
        body = await request.read()
        self.bodies.append((request.headers.get("Content-Type", ""), body))
        self.check_key("inference", request.headers.get("Authorization"))
        with self.serving() as behaviour:
            match behaviour:
                case Status(int(status), text, kind):
                    raise ServeError(status, kind, text)
                case Garbage(data):
                    return data
                case Oversized(size):
                    return b"x" * size
            await self.act(behaviour, self.rest_relay, parts[1])
            return self.answer(parts[1], parts[2] if len(parts) > 2 else None, body)

    async def _management(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        parts = [part for part in request.rel_url.parts if part != "/"]
        if parts == ["models"]:
            self.calls["list"] += 1
            return self._listed(int(request.query.get("limit", 100)), int(request.query.get("next_page_token", 0)))
        self.calls["describe"] += 1
        try:
            self.check_key("management", request.headers.get("Authorization"))
            spelling = parts[2] if len(parts) > 2 and parts[2] != "all" else None
            model, default = self._find(parts[1], spelling)
        except ServeError as exc:
            return aiohttp.web.Response(status=exc.status, body=exc.body(), content_type="application/json")
        versions = model.versions if parts[2:] == ["all"] else (default,)
        return aiohttp.web.json_response([self._described(model, version) for version in versions])

    def _listed(self, limit: int, start: int) -> aiohttp.web.Response:
        names = sorted(self.models)
        end = start + min(limit, self.page)
        page = {"models": [{"modelName": name, "modelUrl": f"{name}.mar"} for name in names[start:end]]}
        more = {"nextPageToken": str(end)} if end < len(names) else {}
        return aiohttp.web.json_response({**more, **page})

    def _described(self, model: FakeModel, version: int) -> Mapping[str, Any]:
        return {
            "modelName": model.name,
            "modelVersion": self._spelled(version),
            "minWorkers": 1,
            "workers": [{"id": str(9000 + i), "status": status} for i, status in enumerate(self.workers)],
            "jobQueueStatus": {"remainingCapacity": self.queue_room, "pendingRequests": 100 - self.queue_room},
        }


class _Handlers(grpc.GenericRpcHandler):
    """Predictions as raw bytes; everything else is UNIMPLEMENTED."""

    def __init__(self, fake: FakeTorchServe) -> None:
        self._fake = fake

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a full method name."""
        if handler_call_details.method != "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions":
            return None
        return grpc.unary_unary_rpc_method_handler(self._call)

    async def _call(self, message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self._fake.hear(context.invocation_metadata())
        try:
            self._fake.check_key("inference", dict(context.invocation_metadata() or ()).get("authorization"))
            return await self._predict(message)
        except ServeError as exc:
            # InferenceImpl.java names queue trouble after a class of its own.
            queue = exc.kind == "ServiceUnavailableException"
            kind = "InternalServerException.()" if queue else _PACKAGE + exc.kind
            # The interceptor of tokens names no class.
            await context.abort(exc.rpc, exc.message if exc.rpc is Code.PERMISSION_DENIED else f"{exc.message}\n{kind}")

    async def _predict(self, message: bytes) -> bytes:
        request = pb.PredictionsRequest.FromString(message)
        self._fake.paths.append(f"/{request.model_name}/{request.model_version}".rstrip("/"))
        with self._fake.serving() as behaviour:
            match behaviour:
                case Status(int(status), text, kind):
                    raise ServeError(status, kind, text)
                case Status(str(code), text, kind):
                    raise ServeError(500, kind, text, grpc.StatusCode[code])
                case Garbage(data):
                    return data
                case Oversized(size):
                    return b"x" * size
            await self._fake.act(behaviour, self._fake.grpc_relay, request.model_name)
            ((key, body),) = request.input.items()
            self._fake.bodies.append((key, body))
            frame = self._fake.answer(request.model_name, request.model_version or None, body)
            return pb.PredictionResponse(prediction=frame).SerializeToString()


def _read_frame(frame: bytes) -> tuple[dict[str, Any], dict[str, NDArray]]:
    (length,) = struct.unpack_from("<I", frame)
    header = json.loads(frame[4 : 4 + length])
    offset, arrays = 4 + length, {}
    for entry in header["inputs"]:
        size = entry["parameters"]["binary_data_size"]
        raw = frame[offset : offset + size]
        offset += size
        if entry["datatype"] == "BYTES":
            arrays[entry["name"]] = np.array(_split(raw), object).reshape(entry["shape"])
        else:
            arrays[entry["name"]] = np.frombuffer(raw, NUMPY_DTYPE[entry["datatype"]]).reshape(entry["shape"])
    assert offset == len(frame), "bytes left over after the last buffer"
    return header, arrays


def _split(raw: bytes) -> list[bytes]:
    items, offset = [], 0
    while offset < len(raw):
        (size,) = struct.unpack_from("<I", raw, offset)
        items.append(raw[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return items


def _frame(header: dict[str, Any], outputs: list[tuple[TensorSpec, NDArray]]) -> bytes:
    buffers = []
    for spec, array in outputs:
        if spec.datatype == "BYTES":
            raw = b"".join(struct.pack("<I", len(item)) + item for item in array.flat)
        else:
            raw = np.ascontiguousarray(array).tobytes()
        buffers.append(raw)
        header["outputs"].append(
            {
                "name": spec.name,
                "shape": list(array.shape),
                "datatype": spec.datatype,
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + b"".join(buffers)
