"""One logical request, and how each front end's clients would send it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import grpc
import httpx
import numpy as np

from gateway._generated import oip_pb2, torchserve_pb2
from gateway.codecs import tfserving_proto
from gateway.core.errors import Cause
from gateway.core.messages import InferenceRequest, ModelSpec
from gateway.core.tensor import NUMPY_DTYPE, Tensor
from gateway.frontends.grpc import errors as grpc_errors
from gateway.frontends.rest import errors as rest_errors
from tests.contract.wire_forms import CONTENTS, flattened, nested, packed, unpacked

PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"


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
    """A logical request. `fields` are fields of `/predict`, and parameters of the Open Inference Protocol.

    `answers` names the model's outputs, for a protocol whose answers leave the name of a single one out.
    """

    inputs: tuple[Input, ...]
    model: str = "doubler"
    version: int | None = None
    wanted: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    garbage: bytes | None = None
    answers: tuple[str, ...] = ("y",)


@dataclass(frozen=True)
class Outcome:
    """What a client was told: outputs by name, or a status and a text that say why there are none."""

    status: object
    outputs: Mapping[str, Any]
    id: str
    request_id: str
    served_by: str
    text: str = ""


class Reachable(Protocol):
    """A gateway, as its clients reach it: wherever it runs."""

    def rest(self) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """A client of its REST front ends."""
        ...

    def grpc(self) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        """A channel to its gRPC front ends."""
        ...


class Door(Protocol):
    """One front end, from its clients' side."""

    name: str
    protocol: str

    def status(self, cause: Cause | None) -> object:
        """The status that stands for a cause here; None is a result."""
        ...

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """One request, and what came back."""
        ...


class Predict:
    """`POST /predict`."""

    name = protocol = "predict"

    def status(self, cause: Cause | None) -> object:
        """By the table of `/predict`."""
        return 200 if cause is None else rest_errors.PREDICT[cause][0]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
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
        return outcome(answer, document.get("outputs", {}), document.get("id", ""))


class OipRest:
    """`POST /v2/models/{model}[/versions/{version}]/infer`."""

    name = protocol = "oip-rest"

    def status(self, cause: Cause | None) -> object:
        """By the table of the Open Inference Protocol over REST."""
        return 200 if cause is None else rest_errors.OIP[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """Data nested, as it is; a scalar is a list of one."""
        body: dict[str, Any] = {
            "id": "7",
            "parameters": dict(asked.fields),
            "inputs": [
                {
                    "name": item.name,
                    "shape": item.shape,
                    "datatype": item.datatype,
                    "data": item.data if isinstance(item.data, list) else [item.data],
                }
                for item in asked.inputs
            ],
        }
        if asked.wanted:
            body["outputs"] = [{"name": name} for name in asked.wanted]
        version = "" if asked.version is None else f"/versions/{asked.version}"
        answer = await _post(world, f"/v2/models/{asked.model}{version}/infer", body, asked)
        document = answer.json()
        outputs = {item["name"]: nested(item["data"], item["shape"]) for item in document.get("outputs", [])}
        return outcome(answer, outputs, document.get("id", ""))


class OipBinary:
    """The same route, all tensors as binary data behind the JSON, in both directions."""

    name = "oip-binary"
    protocol = "oip-rest"
    wish = True
    """Whether outputs are wanted as binary data too."""

    def status(self, cause: Cause | None) -> object:
        """By the table of the Open Inference Protocol over REST."""
        return 200 if cause is None else rest_errors.OIP[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """Whatever the data's own shape, its elements go out in the datatype that is stated."""
        buffers = [packed(flattened(item.data), item.datatype) for item in asked.inputs]
        body: dict[str, Any] = {
            "id": "7",
            "parameters": {**asked.fields, "binary_data_output": self.wish},
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
            if not self.wish:
                outputs[item["name"]] = nested(item["data"], item["shape"])
                continue
            size = item["parameters"]["binary_data_size"]
            outputs[item["name"]] = nested(unpacked(data[:size], item["datatype"]), item["shape"])
            data = data[size:]
        assert data == b""
        return outcome(answer, outputs, document.get("id", ""))


class OipGrpc:
    """`inference.GRPCInferenceService/ModelInfer`."""

    name = protocol = "oip-grpc"

    def status(self, cause: Cause | None) -> object:
        """By the table of the Open Inference Protocol over gRPC."""
        return grpc.StatusCode.OK if cause is None else grpc_errors.OIP[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """One call."""
        reply, told = await called(world, "/inference.GRPCInferenceService/ModelInfer", self.message(asked), asked)
        return self.told(oip_pb2.ModelInferResponse.FromString(reply), told)

    def message(self, asked: Asked) -> bytes:
        """Contents as `fill` has them."""
        message = oip_pb2.ModelInferRequest(model_name=asked.model, id="7")
        message.model_version = "" if asked.version is None else str(asked.version)
        for name, value in asked.fields.items():
            message.parameters[name].string_param = value
        for item in asked.inputs:
            message.inputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
        self.fill(message, asked)
        for name in asked.wanted:
            message.outputs.add(name=name)
        return message.SerializeToString() if asked.garbage is None else asked.garbage

    def told(self, answer: oip_pb2.ModelInferResponse, told: Outcome) -> Outcome:
        """An answer, its contents as `read` has them."""
        pairs = zip(answer.outputs, self.read(answer), strict=True)
        return replace(told, outputs={item.name: nested(v, list(item.shape)) for item, v in pairs}, id=answer.id)

    def fill(self, message: oip_pb2.ModelInferRequest, asked: Asked) -> None:
        """Typed contents."""
        for tensor, item in zip(message.inputs, asked.inputs, strict=True):
            # 16-bit floats have no field of their own: a client that has only typed contents sends them as FP32.
            getattr(tensor.contents, CONTENTS.get(item.datatype, "fp32_contents")).extend(flattened(item.data))

    def read(self, answer: oip_pb2.ModelInferResponse) -> list[list[Any]]:
        """Typed contents."""
        return [list(getattr(item.contents, CONTENTS[item.datatype])) for item in answer.outputs]


class TorchServeRest:
    """`POST /predictions/{model}[/{version}]`."""

    name = protocol = "torchserve-rest"

    def status(self, cause: Cause | None) -> object:
        """By TorchServe's table over REST."""
        return 200 if cause is None else rest_errors.TORCHSERVE[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """Inputs by name."""
        version = "" if asked.version is None else f"/{asked.version}"
        answer = await _post(world, f"/predictions/{asked.model}{version}", _torchserve_body(asked), asked)
        document = answer.json() if answer.content else {}
        return outcome(answer, document.get("outputs", {}), document.get("id", ""))


class TorchServeGrpc:
    """`org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions`."""

    name = protocol = "torchserve-grpc"

    def status(self, cause: Cause | None) -> object:
        """By TorchServe's table over gRPC."""
        return grpc.StatusCode.OK if cause is None else grpc_errors.TORCHSERVE[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """The JSON of the REST door, under `data`."""
        message = torchserve_pb2.PredictionsRequest(
            model_name=asked.model, model_version="" if asked.version is None else f"{asked.version}.0"
        )
        message.input["data"] = json.dumps(_torchserve_body(asked), default=_text).encode()
        data = message.SerializeToString() if asked.garbage is None else asked.garbage
        reply, told = await called(world, PREDICTIONS, data, asked)
        document = json.loads(torchserve_pb2.PredictionResponse.FromString(reply).prediction or "{}")
        return replace(told, outputs=document.get("outputs", {}), id=document.get("id", ""))


class TfServingRest:
    """`POST /v1/models/{model}[/versions/{version} or /labels/{label}]:predict`, in column form."""

    name = protocol = "tfserving-rest"

    def status(self, cause: Cause | None) -> object:
        """By TF Serving's table over REST."""
        return 200 if cause is None else rest_errors.TFSERVING[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """The protocol has no request ids, and an answer with one output has no name for it."""
        body = self.body(asked)
        if "signature_name" in asked.fields:
            body["signature_name"] = asked.fields["signature_name"]
        choice = "" if asked.version is None else f"/versions/{asked.version}"
        choice += f"/labels/{asked.fields['label']}" if "label" in asked.fields else ""
        answer = await _post(world, f"/v1/models/{asked.model}{choice}:predict", body, asked)
        return outcome(answer, self.outputs(answer.json(), asked), "7")

    def body(self, asked: Asked) -> dict[str, Any]:
        """Columns."""
        return {"inputs": {item.name: item.data if item.plain is None else item.plain for item in asked.inputs}}

    def outputs(self, document: dict[str, Any], asked: Asked) -> Mapping[str, Any]:
        """Columns by name."""
        if "outputs" not in document:
            return {}
        return document["outputs"] if len(asked.answers) > 1 else {asked.answers[0]: document["outputs"]}


class TfServingGrpc:
    """`tensorflow.serving.PredictionService/Predict`."""

    name = protocol = "tfserving-grpc"

    def status(self, cause: Cause | None) -> object:
        """By TF Serving's table over gRPC."""
        return grpc.StatusCode.OK if cause is None else grpc_errors.TFSERVING[cause]

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """The protocol has no request ids."""
        data = self.message(asked) if asked.garbage is None else asked.garbage
        reply, told = await called(world, "/tensorflow.serving.PredictionService/Predict", data, asked)
        return replace(told, outputs=self.outputs(reply), id="7")

    def message(self, asked: Asked) -> bytes:
        """Whatever makes an array; what does not is no message either."""
        spec = ModelSpec(asked.model, asked.version, asked.fields.get("label"), asked.fields.get("signature_name"))
        tensors = tuple(
            Tensor(item.name, item.datatype, np.array(item.data, NUMPY_DTYPE[item.datatype])) for item in asked.inputs
        )
        return tfserving_proto.encode_request(InferenceRequest(spec, tensors, asked.wanted))

    def outputs(self, reply: bytes) -> Mapping[str, Any]:
        """The tensors of an answer, nested."""
        return {tensor.name: tensor.array.tolist() for tensor in tfserving_proto.decode_response(reply).outputs}


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


async def _post(world: Reachable, path: str, body: dict[str, Any], asked: Asked) -> httpx.Response:
    headers = {"content-type": "application/json", **asked.headers}
    if asked.timeout_s is not None:
        headers["x-request-timeout-ms"] = f"{asked.timeout_s * 1e3:g}"
    content = json.dumps(body, default=_text).encode() if asked.garbage is None else asked.garbage
    async with world.rest() as client:
        return await client.post(path, content=content, headers=headers)


async def called(world: Reachable, path: str, data: bytes, asked: Asked) -> tuple[bytes, Outcome]:
    """The answer's message, empty where there is none, and what its metadata and its status tell."""
    async with world.grpc() as channel:
        metadata = tuple(asked.headers.items())
        call = channel.unary_unary(path)(data, metadata=metadata, timeout=asked.timeout_s)
        try:
            reply = await call
        except grpc.aio.AioRpcError:
            reply = b""
        told = {key: str(value) for key, value in tuple(await call.trailing_metadata())}
        code, text = await call.code(), await call.details()
        return reply, Outcome(code, {}, "", told.get("x-request-id", ""), told.get("x-served-by", ""), text or "")


def _text(item: bytes) -> str:
    # As Python keeps bytes that are not UTF-8 in a string.
    return item.decode(errors="surrogateescape")


def outcome(answer: httpx.Response, outputs: Mapping[str, Any], identity: str) -> Outcome:
    """What a REST client was told."""
    headers = answer.headers
    text = "" if answer.is_success else answer.text
    return Outcome(
        answer.status_code, outputs, identity, headers.get("x-request-id", ""), headers.get("x-served-by", ""), text
    )
