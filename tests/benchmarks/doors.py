"""Each door's way in and out for one FP32 tensor, and how one would do it by hand: the baselines check nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway._generated import oip_pb2, tfserving_pb2
from gateway.codecs import (
    oip_json,
    oip_proto,
    predict_json,
    tfserving_json_in,
    tfserving_proto_in,
    torchserve,
    torchserve_json,
)
from gateway.codecs.json_tensors import tensor_from_text, tensor_to_text
from gateway.codecs.oip_proto_raw import RawRequests
from gateway.codecs.tfserving_proto import encode_request as encode_tfserving_request
from gateway.core.contract import ModelContract
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec, TensorSpec
from gateway.core.tensor import NDArray, Tensor

SHAPES = ((1, 10), (1, 784), (1, 224, 224, 3), (64, 784))
SPEC = ModelSpec("m")

Way = Callable[[], object]
Loads = Callable[[bytes], Any]
Dumps = Callable[[object], bytes]


@dataclass(frozen=True)
class Case:
    """What is measured of one door and shape: the ways in and out by name, `ours` first; and the body's size."""

    door: str
    shape: tuple[int, ...]
    size: int
    ways_in: dict[str, Way]
    ways_out: dict[str, Way]


def contract(shape: tuple[int, ...]) -> ModelContract:
    """A model of one FP32 input and output with any number of rows."""
    row = (-1, *shape[1:])
    return ModelContract("m", 1, (TensorSpec("x", "FP32", row),), (TensorSpec("y", "FP32", row),), batch_cap=1024)


def values(shape: tuple[int, ...]) -> NDArray:
    """Numbers from 0 to 1, as pixels are."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def json_cases(shape: tuple[int, ...]) -> list[Case]:
    """The JSON doors."""
    array, model = values(shape), contract(shape)
    response = InferenceResponse("m", 1, (Tensor("y", "FP32", array),))
    nested = _nested(array)
    flat = _nested(array.reshape(-1))
    described = {"name": "x", "shape": list(shape), "datatype": "FP32", "data": flat}
    inputs, listed = (
        torchserve_json.Decoded(InferenceRequest(SPEC, ()), form, batched=True)
        for form in (torchserve_json.Form.INPUTS, torchserve_json.Form.LIST)
    )

    (spec,) = model.inputs

    def of(_: str) -> ModelContract:
        return model

    def case(
        door: str,
        document: object,
        decode: Callable[[bytes], object],
        find: Callable[[Any], Any],
        encode: Callable[[InferenceResponse], object],
        answer: Callable[[object], object],
    ) -> Case:
        body = orjson.dumps(document)

        def by_hand(loads: Loads) -> Way:
            return lambda: np.array(find(loads(body)), np.float32).reshape(shape)

        colons = body.count(b":")

        def checked() -> NDArray:
            found = np.array(find(orjson.loads(body)))
            # Numbers of one kind, none of them a boolean; no key twice; every FP32 finite.
            if found.dtype.kind not in "fiu" or b"true" in body or b"false" in body or body.count(b":") != colons:
                raise ValueError
            narrow = found.astype(np.float32)
            if not np.isfinite(narrow).all():
                raise ValueError
            return narrow.reshape(shape)

        def written() -> bytes:
            if not np.isfinite(array).all():
                raise ValueError
            return orjson.dumps(answer(array), option=orjson.OPT_SERIALIZE_NUMPY)

        return Case(
            door,
            shape,
            len(body),
            {
                "ours": lambda: decode(body),
                "orjson": by_hand(orjson.loads),
                "orjson, checked": checked,
                "json": by_hand(json.loads),
            },
            {
                "ours": lambda: encode(response),
                "orjson": lambda: orjson.dumps(answer(array), option=orjson.OPT_SERIALIZE_NUMPY),
                "orjson, checked": written,
                "json": lambda: json.dumps(answer(array.tolist())).encode(),
            },
        )

    return [
        case(
            "the tensor alone",
            nested,
            lambda body: tensor_from_text(body, spec),
            lambda found: found,
            lambda answer: tensor_to_text(answer.outputs[0]),
            lambda data: data,
        ),
        case(
            "/predict",
            {"model": "m", "inputs": {"x": nested}},
            lambda body: predict_json.decode_request(body, of),
            lambda found: found["inputs"]["x"],
            predict_json.encode_response,
            lambda data: {"model": "m", "version": 1, "stack": None, "outputs": {"y": data}, "id": None},
        ),
        case(
            "OIP",
            {"inputs": [described]},
            lambda body: oip_json.decode_request(body, SPEC, of),
            lambda found: found["inputs"][0]["data"],
            oip_json.encode_response,
            lambda data: {
                "model_name": "m",
                "model_version": "1",
                "outputs": [{"name": "y", "shape": shape, "datatype": "FP32", "data": data}],
            },
        ),
        case(
            "TF Serving rows",
            {"instances": nested},
            lambda body: tfserving_json_in.parse(body).tensors(model),
            lambda found: found["instances"],
            lambda answer: tfserving_json_in.encode_response(answer, row=True),
            lambda data: {"predictions": data},
        ),
        case(
            "TF Serving objects",
            {"instances": [{"x": row} for row in nested]},
            lambda body: tfserving_json_in.parse(body).tensors(model),
            lambda found: [row["x"] for row in found["instances"]],
            lambda answer: tfserving_json_in.encode_response(answer, row=True),
            lambda data: {"predictions": data},
        ),
        case(
            "TF Serving columns",
            {"inputs": {"x": nested}},
            lambda body: tfserving_json_in.parse(body).tensors(model),
            lambda found: found["inputs"]["x"],
            lambda answer: tfserving_json_in.encode_response(answer, row=False),
            lambda data: {"outputs": data},
        ),
        case(
            "TorchServe",
            {"inputs": {"x": nested}},
            lambda body: torchserve_json.decode_json(body, SPEC, of),
            lambda found: found["inputs"]["x"],
            lambda answer: torchserve_json.encode_response(answer, inputs),
            lambda data: {"outputs": {"y": data}},
        ),
        case(
            "TorchServe, bare list",
            nested,
            lambda body: torchserve_json.decode_json(body, SPEC, of),
            lambda found: found,
            lambda answer: torchserve_json.encode_response(answer, listed),
            lambda data: data,
        ),
    ]


def binary_cases(shape: tuple[int, ...]) -> list[Case]:
    """The protobuf doors, and the frame that our TorchServe handler takes."""
    return [_oip_grpc(shape, raw=False), _oip_grpc(shape, raw=True), _tfserving_grpc(shape), _frame(shape)]


def _oip_grpc(shape: tuple[int, ...], *, raw: bool) -> Case:
    array, model = values(shape), contract(shape)
    response = InferenceResponse("m", 1, (Tensor("y", "FP32", array),))
    message = oip_pb2.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=shape)
    if raw:
        message.raw_input_contents.append(array.tobytes())
    else:
        tensor.contents.fp32_contents.extend(array.reshape(-1).tolist())
    data = message.SerializeToString()
    requests = RawRequests()

    def read() -> NDArray:
        asked = oip_pb2.ModelInferRequest.FromString(data)
        if raw:
            return np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(asked.inputs[0].shape)
        return np.array(asked.inputs[0].contents.fp32_contents, np.float32).reshape(asked.inputs[0].shape)

    def write() -> bytes:
        answer = oip_pb2.ModelInferResponse(model_name="m", model_version="1")
        output = answer.outputs.add(name="y", datatype="FP32", shape=shape)
        if raw:
            answer.raw_output_contents.append(array.tobytes())
        else:
            output.contents.fp32_contents.extend(array.reshape(-1).tolist())
        return answer.SerializeToString()

    return Case(
        f"OIP gRPC {'raw' if raw else 'typed'}",
        shape,
        len(data),
        {"ours": lambda: requests.decode(data, lambda _model, _signature=None: model), "protobuf": read},
        {"ours": lambda: oip_proto.encode_response(response, raw=raw), "protobuf": write},
    )


def _tfserving_grpc(shape: tuple[int, ...]) -> Case:
    """A request's `tensor_content`, an answer's `float_val`: what TF Serving's own clients send and get."""
    array, model = values(shape), contract(shape)
    request = InferenceRequest(SPEC, (Tensor("x", "FP32", array),))
    response = InferenceResponse("m", 1, (Tensor("y", "FP32", array),))
    data = encode_tfserving_request(request)

    def ours() -> InferenceRequest:
        message = tfserving_pb2.PredictRequest.FromString(data)
        return tfserving_proto_in.decode_request(message, tfserving_proto_in.model_spec(message.model_spec), model)

    def read() -> NDArray:
        tensor = tfserving_pb2.PredictRequest.FromString(data).inputs["x"]
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        return np.frombuffer(tensor.tensor_content, np.float32).reshape(sizes)

    def write() -> bytes:
        answer = tfserving_pb2.PredictResponse()
        answer.model_spec.name = "m"
        tensor = answer.outputs["y"]
        tensor.dtype = 1
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.float_val.extend(array.reshape(-1).tolist())
        return answer.SerializeToString()

    return Case(
        "TF Serving gRPC",
        shape,
        len(data),
        {"ours": ours, "protobuf": read},
        {"ours": lambda: tfserving_proto_in.encode_response(response, None), "protobuf": write},
    )


def _frame(shape: tuple[int, ...]) -> Case:
    """Towards TorchServe, so the reply comes in and the request goes out."""
    array = values(shape)
    request = InferenceRequest(SPEC, (Tensor("x", "FP32", array),))
    described = {"shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": array.nbytes}}
    header = json.dumps({"model_name": "m", "outputs": [{"name": "y", **described}]}).encode()
    data = struct.pack("<I", len(header)) + header + array.tobytes()

    def read() -> NDArray:
        end = 4 + int.from_bytes(data[:4], "little")
        output = json.loads(data[4:end])["outputs"][0]
        return np.frombuffer(data, np.float32, offset=end).reshape(output["shape"])

    def write() -> bytes:
        head = json.dumps({"inputs": [{"name": "x", **described}]}).encode()
        return struct.pack("<I", len(head)) + head + array.tobytes()

    return Case(
        "TorchServe frame",
        shape,
        len(data),
        {"ours": lambda: torchserve.decode_frame(data), "by hand": read},
        {"ours": lambda: torchserve.encode_frame(request), "by hand": write},
    )


def _nested(array: NDArray) -> Any:
    # With the digits that an FP32 needs, not those of the double next to it.
    return orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))
