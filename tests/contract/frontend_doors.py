"""One logical request, and how each front end's clients would send it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import grpc
import httpx
import numpy as np

from gateway._generated import oip_pb2, tfserving_pb2, torchserve_pb2
from gateway.codecs import tfserving_proto
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from gateway.frontends.grpc import errors as grpc_errors
from gateway.frontends.rest import errors as rest_errors
from tests.unit.gateway.frontends.world import World

CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BYTES": "bytes_contents"}
FORMATS = {"FP32": "f", "FP64": "d", "INT64": "q"}


@dataclass(frozen=True)
class Input:
    """A tensor as a client states it; `data` is a nested list, which need not fit `shape` or `datatype`.

    `plain` is what a client of `/predict` would send, who states no datatype.
    """

    name: str
    data: Any
    shape: tuple[int, ...]
    datatype: str = "FP32"
    plain: Any = None


@dataclass(frozen=True)
class Asked:
    """A logical request. `fields` are fields of `/predict`, and parameters of the Open Inference Protocol."""

    inputs: tuple[Input, ...]
    model: str = "doubler"
    version: int | None = None
    wanted: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    garbage: bytes | None = None


@dataclass(frozen=True)
class Outcome:
    """What a client was told: outputs by name, or a status that says `cause`."""

    status: object
    outputs: Mapping[str, Any]
    id: str
    request_id: str
    served_by: str


class Door(Protocol):
    """One front end, from its clients' side."""

    name: str
    protocol: str

    def status(self, cause: Cause | None) -> object:
        """The status that stands for a cause here; None is a result."""
        ...

    async def send(self, world: World, asked: Asked) -> Outcome:
        """One request, and what came back."""
        ...


class Predict:
    """`POST /predict`."""

    name = protocol = "predict"

    def status(self, cause: Cause | None) -> object:
        """By the table of `/predict`."""
        return 200 if cause is None else rest_errors.PREDICT[cause][0]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """Datatypes are left to the contract."""
        body: dict[str, Any] = {
            "model": asked.model,
            "inputs": {item.name: item.data if item.plain is None else item.plain for item in asked.inputs},
            "id": "7",
            **asked.fields,
        }
        if asked.version is not None:
            body["version"] = asked.version
        if asked.wanted:
            body["outputs"] = asked.wanted
        answer = await _post(world, "/predict", body, asked)
        document = answer.json()
        return _outcome(answer, document.get("outputs", {}), document.get("id", ""))


class OipRest:
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    name = protocol = "oip-rest"

    def status(self, cause: Cause | None) -> object:
        """By the table of the Open Inference Protocol over REST."""
        return 200 if cause is None else rest_errors.OIP[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """Data nested, as it is; whatever fits goes flat."""
        body: dict[str, Any] = {
            "id": "7",
            "parameters": dict(asked.fields),
            "inputs": [
                {"name": item.name, "shape": item.shape, "datatype": item.datatype, "data": item.data}
                for item in asked.inputs
            ],
        }
        if asked.wanted:
            body["outputs"] = [{"name": name} for name in asked.wanted]
        version = "" if asked.version is None else f"/versions/{asked.version}"
        answer = await _post(world, f"/v2/models/{asked.model}{version}/infer", body, asked)
        document = answer.json()
        outputs = {item["name"]: nested(item["data"], item["shape"]) for item in document.get("outputs", [])}
        return _outcome(answer, outputs, document.get("id", ""))


class OipBinary:
    """The same route, all tensors as binary data behind the JSON, in both directions."""

    name = "oip-binary"
    protocol = "oip-rest"

    def status(self, cause: Cause | None) -> object:
        """By the table of the Open Inference Protocol over REST."""
        return 200 if cause is None else rest_errors.OIP[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """Whatever the data's own shape, its elements go out in the datatype that is stated."""
        buffers = [packed(_flat(item.data), item.datatype) for item in asked.inputs]
        body: dict[str, Any] = {
            "id": "7",
            "parameters": {**asked.fields, "binary_data_output": True},
            "inputs": [
                {
                    "name": item.name,
                    "shape": item.shape,
                    "datatype": item.datatype,
                    "parameters": {"binary_data_size": len(buffer)},
                }
                for item, buffer in zip(asked.inputs, buffers, strict=True)
            ],
            "outputs": [{"name": name} for name in asked.wanted],
        }
        header = json.dumps(body).encode() if asked.garbage is None else asked.garbage
        content = header + (b"".join(buffers) if asked.garbage is None else b"")
        version = "" if asked.version is None else f"/versions/{asked.version}"
        binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
        asked = replace(asked, headers={**asked.headers, **binary}, garbage=content)
        answer = await _post(world, f"/v2/models/{asked.model}{version}/infer", {}, asked)
        length = int(answer.headers.get("inference-header-content-length", len(answer.content)))
        document, data = json.loads(answer.content[:length]), answer.content[length:]
        outputs = {}
        for item in document.get("outputs", []):
            size = item["parameters"]["binary_data_size"]
            outputs[item["name"]] = nested(unpacked(data[:size], item["datatype"]), item["shape"])
            data = data[size:]
        assert data == b""
        return _outcome(answer, outputs, document.get("id", ""))


class OipGrpc:
    """`inference.GRPCInferenceService/ModelInfer`."""

    name = protocol = "oip-grpc"

    def status(self, cause: Cause | None) -> object:
        """By the table of the Open Inference Protocol over gRPC."""
        return grpc.StatusCode.OK if cause is None else grpc_errors.OIP[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """Typed contents."""
        message = oip_pb2.ModelInferRequest(model_name=asked.model, id="7")
        message.model_version = "" if asked.version is None else str(asked.version)
        for name, value in asked.fields.items():
            message.parameters[name].string_param = value
        for item in asked.inputs:
            tensor = message.inputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
            getattr(tensor.contents, CONTENTS[item.datatype]).extend(_flat(item.data))
        for name in asked.wanted:
            message.outputs.add(name=name)
        data = message.SerializeToString() if asked.garbage is None else asked.garbage
        async with world.grpc() as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                data, metadata=tuple(asked.headers.items()), timeout=asked.timeout_s
            )
            try:
                answer = oip_pb2.ModelInferResponse.FromString(await call)
            except grpc.aio.AioRpcError:
                answer = oip_pb2.ModelInferResponse()
            trailing = dict(tuple(await call.trailing_metadata()))
            outputs = {
                item.name: nested(list(getattr(item.contents, CONTENTS[item.datatype])), list(item.shape))
                for item in answer.outputs
            }
            return Outcome(
                await call.code(),
                outputs,
                answer.id,
                str(trailing.get("x-request-id", "")),
                str(trailing.get("x-served-by", "")),
            )


class TorchServeRest:
    """`POST /predictions/{model}[/{version}]`."""

    name = protocol = "torchserve-rest"

    def status(self, cause: Cause | None) -> object:
        """By TorchServe's table over REST."""
        return 200 if cause is None else rest_errors.TORCHSERVE[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """Inputs by name."""
        version = "" if asked.version is None else f"/{asked.version}"
        answer = await _post(world, f"/predictions/{asked.model}{version}", _torchserve_body(asked), asked)
        document = answer.json() if answer.content else {}
        return _outcome(answer, document.get("outputs", {}), document.get("id", ""))


class TorchServeGrpc:
    """`org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions`."""

    name = protocol = "torchserve-grpc"

    def status(self, cause: Cause | None) -> object:
        """By TorchServe's table over gRPC."""
        return grpc.StatusCode.OK if cause is None else grpc_errors.TORCHSERVE[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """The JSON of the REST door, under `data`."""
        message = torchserve_pb2.PredictionsRequest(
            model_name=asked.model, model_version="" if asked.version is None else f"{asked.version}.0"
        )
        message.input["data"] = json.dumps(_torchserve_body(asked), default=lambda item: item.decode()).encode()
        data = message.SerializeToString() if asked.garbage is None else asked.garbage
        async with world.grpc() as channel:
            call = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")(
                data, metadata=tuple(asked.headers.items()), timeout=asked.timeout_s
            )
            try:
                document = json.loads(torchserve_pb2.PredictionResponse.FromString(await call).prediction)
            except grpc.aio.AioRpcError:
                document = {}
            trailing = dict(tuple(await call.trailing_metadata()))
            return Outcome(
                await call.code(),
                document.get("outputs", {}),
                document.get("id", ""),
                str(trailing.get("x-request-id", "")),
                str(trailing.get("x-served-by", "")),
            )


class TfServingRest:
    """`POST /v1/models/{model}[/versions/{version} or /labels/{label}]:predict`, in column form."""

    name = protocol = "tfserving-rest"

    def status(self, cause: Cause | None) -> object:
        """By TF Serving's table over REST."""
        return 200 if cause is None else rest_errors.TFSERVING[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """The protocol has no request ids, and an answer with one output has no name for it."""
        body: dict[str, Any] = {
            "inputs": {item.name: item.data if item.plain is None else item.plain for item in asked.inputs}
        }
        if "signature_name" in asked.fields:
            body["signature_name"] = asked.fields["signature_name"]
        choice = "" if asked.version is None else f"/versions/{asked.version}"
        choice += f"/labels/{asked.fields['label']}" if "label" in asked.fields else ""
        answer = await _post(world, f"/v1/models/{asked.model}{choice}:predict", body, asked)
        document = answer.json()
        outputs = {"c" if asked.model == "pair" else "y": document["outputs"]} if "outputs" in document else {}
        return _outcome(answer, outputs, "7")


class TfServingGrpc:
    """`tensorflow.serving.PredictionService/Predict`."""

    name = protocol = "tfserving-grpc"

    def status(self, cause: Cause | None) -> object:
        """By TF Serving's table over gRPC."""
        return grpc.StatusCode.OK if cause is None else grpc_errors.TFSERVING[cause]

    async def send(self, world: World, asked: Asked) -> Outcome:
        """Whatever makes an array; what does not is no message either."""
        spec = ModelSpec(asked.model, asked.version, asked.fields.get("label"), asked.fields.get("signature_name"))
        tensors = tuple(
            Tensor(item.name, item.datatype, np.array(item.data, NUMPY_DTYPE[item.datatype]))
            for item in asked.inputs
            if asked.garbage is None
        )
        data = tfserving_proto.encode_request(InferenceRequest(spec, tensors, asked.wanted))
        async with world.grpc() as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(
                data if asked.garbage is None else asked.garbage,
                metadata=tuple(asked.headers.items()),
                timeout=asked.timeout_s,
            )
            try:
                answer = await call
            except grpc.aio.AioRpcError:
                answer = tfserving_pb2.PredictResponse().SerializeToString()
            trailing = dict(tuple(await call.trailing_metadata()))
            outputs = tfserving_proto.decode_response(answer).outputs
            return Outcome(
                await call.code(),
                {tensor.name: tensor.array.tolist() for tensor in outputs},
                "7",
                str(trailing.get("x-request-id", "")),
                str(trailing.get("x-served-by", "")),
            )


DOORS: tuple[Door, ...] = (
    Predict(),
    OipRest(),
    OipBinary(),
    OipGrpc(),
    TorchServeRest(),
    TorchServeGrpc(),
    TfServingRest(),
    TfServingGrpc(),
)


def _torchserve_body(asked: Asked) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": "7",
        "parameters": dict(asked.fields),
        "inputs": {item.name: item.data if item.plain is None else item.plain for item in asked.inputs},
    }
    return {**body, "outputs": asked.wanted} if asked.wanted else body


async def _post(world: World, path: str, body: dict[str, Any], asked: Asked) -> httpx.Response:
    headers = {"content-type": "application/json", **asked.headers}
    if asked.timeout_s is not None:
        headers["x-request-timeout-ms"] = f"{asked.timeout_s * 1e3:g}"
    content = json.dumps(body, default=lambda item: item.decode()).encode() if asked.garbage is None else asked.garbage
    async with world.rest() as client:
        return await client.post(path, content=content, headers=headers)


def _outcome(answer: httpx.Response, outputs: Mapping[str, Any], identity: str) -> Outcome:
    headers = answer.headers
    return Outcome(answer.status_code, outputs, identity, headers["x-request-id"], headers.get("x-served-by", ""))


def packed(values: list[Any], datatype: str) -> bytes:
    """Elements in the protocol's raw layout."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def unpacked(data: bytes, datatype: str) -> list[Any]:
    """Numbers from the protocol's raw layout."""
    return [value for (value,) in struct.iter_unpack(f"<{FORMATS[datatype]}", data)]


def nested(flat: list[Any], shape: list[int]) -> list[Any]:
    """A flat list as deep as its shape."""
    for dim in reversed(shape[1:]):
        flat = [flat[start : start + dim] for start in range(0, len(flat), dim)]
    return flat


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list) else [value]
