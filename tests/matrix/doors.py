"""The clients of the matrix: those of `tests/contract`, and the ways that only differ in how tensors are written."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from gateway._generated import oip_pb2, torchserve_pb2
from gateway.core.tensor import NUMPY_DTYPE
from tests.contract import frontend_doors as doors
from tests.contract.frontend_doors import Asked, Door, Input, Outcome, Reachable
from tests.contract.stream_door import OipStream
from tests.contract.wire_forms import flattened, nested, packed, unpacked
from tests.matrix.cases import Case


class OipMixed(doors.OipBinary):
    """Inputs as binary data, outputs as JSON."""

    name = "oip-mixed"
    wish = False


class OipFlat(doors.OipRest):
    """JSON whose data is flat."""

    name = "oip-flat"

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """Flat in row-major order."""
        inputs = tuple(replace(item, data=flattened(item.data)) for item in asked.inputs)
        return await super().send(world, replace(asked, inputs=inputs))


class OipGrpcRaw(doors.OipGrpc):
    """Raw contents; the answer's may be typed all the same."""

    name = "oip-grpc-raw"

    def fill(self, message: oip_pb2.ModelInferRequest, asked: Asked) -> None:
        """One buffer for each input."""
        message.raw_input_contents.extend(packed(flattened(item.data), item.datatype) for item in asked.inputs)

    def read(self, answer: oip_pb2.ModelInferResponse) -> list[list[Any]]:
        """Buffers, where there are some."""
        if not answer.raw_output_contents:
            return super().read(answer)
        pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return [unpacked(raw, output.datatype) for output, raw in pairs]


class OipStreamRaw(OipStream, OipGrpcRaw):
    """Raw contents in a stream."""


class TfServingColumns(doors.TfServingRest):
    """Column form; BYTES as base64, which carries any."""

    name = "tfserving-columns"

    def body(self, asked: Asked) -> dict[str, Any]:
        """A column for each input, which one input needs no name for."""
        columns = {item.name: _coded(item.data) for item in asked.inputs}
        return {"inputs": columns if len(columns) > 1 else next(iter(columns.values()))}


class TfServingRows(doors.TfServingRest):
    """Row form; a scalar input is repeated in every row."""

    name = "tfserving-rows"

    def body(self, asked: Asked) -> dict[str, Any]:
        """Bare values for one input, an object a row for several."""
        columns = {item.name: _coded(item.data) for item in asked.inputs}
        count = max(len(column) if isinstance(column, list) else 1 for column in columns.values())
        rows = {name: column if isinstance(column, list) else [column] * count for name, column in columns.items()}
        if len(rows) == 1:
            return {"instances": next(iter(rows.values()))}
        return {"instances": [{name: column[row] for name, column in rows.items()} for row in range(count)]}

    def outputs(self, document: dict[str, Any], asked: Asked) -> Mapping[str, Any]:
        """Columns again."""
        if "predictions" not in document:
            return {}
        rows = document["predictions"]
        if len(asked.answers) == 1:
            return {asked.answers[0]: rows}
        return {name: [row[name] for row in rows] for name in asked.answers}


class TfServingOfficial(doors.TfServingGrpc):
    """TensorFlow's own messages and conversions."""

    name = "tfserving-grpc"

    def message(self, asked: Asked) -> bytes:
        """What `tf.make_tensor_proto` makes."""
        message = predict_pb2.PredictRequest(output_filter=asked.wanted)
        message.model_spec.name = asked.model
        for item in asked.inputs:
            array = np.empty(int(np.prod(item.shape, dtype=np.int64)), NUMPY_DTYPE[item.datatype])
            array[:] = flattened(item.data)
            message.inputs[item.name].CopyFrom(tf.make_tensor_proto(array.reshape(item.shape)))
        return message.SerializeToString()

    def outputs(self, reply: bytes) -> Mapping[str, Any]:
        """What `tf.make_ndarray` makes of it."""
        answer = predict_pb2.PredictResponse.FromString(reply)
        return {name: tf.make_ndarray(proto).tolist() for name, proto in answer.outputs.items()}


class TorchServeRestRaw(doors.TorchServeRest):
    """The one element of BYTES as the whole body, in and out."""

    name = "torchserve-rest-raw"

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """As `curl -T` does."""
        headers = {**asked.headers, "content-type": "application/octet-stream"}
        async with world.rest() as client:
            answer = await client.post(f"/predictions/{asked.model}", content=_element(asked), headers=headers)
        return _raw(asked, doors.outcome(answer, {}, ""), answer.content)


class TorchServeGrpcRaw(doors.TorchServeGrpc):
    """The same under `data`."""

    name = "torchserve-grpc-raw"

    async def send(self, world: Reachable, asked: Asked) -> Outcome:
        """The element is the message's one input."""
        message = torchserve_pb2.PredictionsRequest(model_name=asked.model, input={"data": _element(asked)})
        reply, told = await doors.called(world, doors.PREDICTIONS, message.SerializeToString(), asked)
        return _raw(asked, told, torchserve_pb2.PredictionResponse.FromString(reply).prediction)


@dataclass(frozen=True)
class Way:
    """A door with the name that the page gives it.

    `filters`: clients can ask for some outputs only. `names_server`: an answer says which endpoint gave it. `asks` says
    which cases it has a form for.
    """

    door: Door
    title: str
    filters: bool = True
    names_server: bool = True
    asks: Callable[[Case], bool] = lambda _: True


def _takes_raw(case: Case) -> bool:
    """Whether a model's one input may be one element of BYTES, which TorchServe's clients send as the body."""
    spec, *others = case.contract.inputs
    return not others and spec.datatype == "BYTES" and all(size in (-1, 1) for size in spec.shape)


def _is_element(case: Case) -> bool:
    return _takes_raw(case) and case.inputs[0].array.size == 1


WAYS: tuple[Way, ...] = (
    Way(doors.Predict(), "`/predict`"),
    Way(doors.OipRest(), "OIP REST JSON"),
    Way(doors.OipBinary(), "OIP REST binary"),
    Way(OipMixed(), "OIP REST binary in / JSON out"),
    Way(doors.OipGrpc(), "OIP gRPC typed"),
    Way(OipGrpcRaw(), "OIP gRPC raw"),
    Way(OipStreamRaw(), "OIP gRPC stream, raw", names_server=False),
    Way(TfServingRows(), "TF Serving REST rows", filters=False),
    Way(TfServingColumns(), "TF Serving REST columns", filters=False),
    Way(TfServingOfficial(), "TF Serving gRPC"),
    Way(doors.TorchServeRest(), "TorchServe REST JSON"),
    Way(TorchServeRestRaw(), "TorchServe REST raw body", asks=_is_element),
    # Over gRPC nothing says that the bytes are JSON: where they may be the element, they are.
    Way(doors.TorchServeGrpc(), "TorchServe gRPC JSON", asks=lambda case: not _takes_raw(case)),
    Way(TorchServeGrpcRaw(), "TorchServe gRPC raw body", asks=_is_element),
)


def question(case: Case, endpoint: str = "") -> Asked:
    """A case as a client puts it, to one endpoint of the gateway, or to a model server itself."""
    return Asked(
        tuple(Input(tensor.name, tensor.array.tolist(), tensor.shape, tensor.datatype) for tensor in case.inputs),
        model=case.contract.name,
        wanted=case.wanted,
        headers={"x-endpoint": endpoint} if endpoint else {},
        timeout_s=60.0,
        answers=tuple(spec.name for spec in case.contract.outputs),
    )


def _element(asked: Asked) -> bytes:
    (element,) = flattened(asked.inputs[0].data)
    return element


def _raw(asked: Asked, told: Outcome, element: bytes) -> Outcome:
    if told.text:
        return told
    return replace(told, outputs={asked.answers[0]: nested([element], list(asked.inputs[0].shape))})


def _coded(value: Any) -> Any:
    if isinstance(value, list):
        return [_coded(item) for item in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
