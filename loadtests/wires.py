"""The protocols that the load tests speak, as pure pairs of functions: tensors -> request bytes, reply bytes -> arrays.

Requests are encoded before the timer starts and replies decoded after it stops, over REST and gRPC alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, NDArray, Tensor
from loadtests import protobuf
from loadtests.cell_spec import Transport
from loadtests.replies import BadReplyError, RefusedError

Encode = Callable[[str, Sequence[Tensor]], bytes]
Decode = Callable[[bytes, Sequence[TensorSpec]], dict[str, NDArray]]


@dataclass(frozen=True, slots=True)
class Wire:
    """One protocol. `target` gives the HTTP path or the full gRPC method for a model.

    `decode` raises BadReplyError for a reply that is none, RefusedError for an error inside a successful reply.
    """

    transport: Transport
    target: Callable[[str], str]
    encode: Encode
    decode: Decode


def _rows(tensors: Sequence[Tensor]) -> dict[str, NDArray]:
    return {tensor.name: tensor.array for tensor in tensors}


def _json(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadReplyError("the reply is not JSON") from exc
    if not isinstance(document, dict):
        raise BadReplyError("the reply is not a JSON object")
    return document


def _array(value: object, spec: TensorSpec) -> NDArray:
    try:
        return np.asarray(value, dtype=NUMPY_DTYPE[spec.datatype])
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadReplyError(f"output '{spec.name}' is not an array of {spec.datatype}") from exc


def _named_outputs(document: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    outputs = document.get("outputs")
    if not isinstance(outputs, dict):
        raise BadReplyError("the reply has no object `outputs`")
    return {spec.name: _array(outputs[spec.name], spec) for spec in specs if spec.name in outputs}


def encode_predict(model: str, tensors: Sequence[Tensor]) -> bytes:
    """The body of the gateway's `POST /predict`."""
    return _json({"model": model, "inputs": _rows(tensors)})


def encode_oip(model: str, tensors: Sequence[Tensor]) -> bytes:
    """The body of an Open Inference Protocol infer request: flat data, all outputs."""
    del model  # the path names it
    inputs = [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": tensor.array.ravel()}
        for tensor in tensors
    ]
    return _json({"inputs": inputs})


def decode_oip(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """The outputs of an Open Inference Protocol reply: a list of objects, their data flat or nested."""
    outputs = _parsed(body).get("outputs")
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise BadReplyError("the reply has no list `outputs`")
    found = {output.get("name"): output for output in outputs}
    answer = {}
    for spec in specs:
        output = found.get(spec.name)
        if output is None:
            continue
        if output.get("datatype") != spec.datatype:
            raise BadReplyError(f"output '{spec.name}' is not of datatype {spec.datatype}")
        try:
            answer[spec.name] = _array(output.get("data"), spec).reshape(output.get("shape"))
        except (TypeError, ValueError) as exc:
            raise BadReplyError(f"output '{spec.name}' does not fit its own shape") from exc
    return answer


def encode_inputs(model: str, tensors: Sequence[Tensor]) -> bytes:
    """`{"inputs": {name: rows}}`: our TorchServe handler's JSON, and TF Serving's column form."""
    del model  # the path names it
    return _json({"inputs": _rows(tensors)})


def decode_outputs(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """`{"outputs": {name: rows}}`."""
    return _named_outputs(_parsed(body), specs)


def decode_tfserving_columns(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """TF Serving's column form, which omits the name where the signature has one output."""
    document = _parsed(body)
    if len(specs) == 1 and not isinstance(document.get("outputs"), dict):
        if "outputs" not in document:
            raise BadReplyError("the reply has no `outputs`")
        return {specs[0].name: _array(document["outputs"], specs[0])}
    return _named_outputs(document, specs)


def encode_torchserve_grpc(model: str, tensors: Sequence[Tensor]) -> bytes:
    """`Predictions` with the handler's JSON under the map key `data`."""
    return protobuf.encode_predictions(model, {"data": encode_inputs(model, tensors)})


def decode_torchserve_grpc(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """TorchServe loses a handler's status over gRPC: the error's own JSON comes back as a success."""
    document = _parsed(protobuf.decode_prediction(body))
    code = document.get("code")
    if isinstance(code, int) and "outputs" not in document:
        raise RefusedError(code, str(document.get("message", ""))[:200])
    return _named_outputs(document, specs)


def _fixed(target: str) -> Callable[[str], str]:
    return lambda _model: target


WIRES: dict[str, Wire] = {
    "predict": Wire("rest", _fixed("/predict"), encode_predict, decode_outputs),
    "oip-rest": Wire("rest", lambda model: f"/v2/models/{quote(model, safe='')}/infer", encode_oip, decode_oip),
    "oip-grpc": Wire(
        "grpc",
        _fixed("/inference.GRPCInferenceService/ModelInfer"),
        protobuf.encode_model_infer,
        protobuf.decode_model_infer,
    ),
    "torchserve-rest": Wire(
        "rest", lambda model: f"/predictions/{quote(model, safe='')}", encode_inputs, decode_outputs
    ),
    "torchserve-grpc": Wire(
        "grpc",
        _fixed("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"),
        encode_torchserve_grpc,
        decode_torchserve_grpc,
    ),
    "tfserving-rest": Wire(
        "rest", lambda model: f"/v1/models/{quote(model, safe='')}:predict", encode_inputs, decode_tfserving_columns
    ),
    "tfserving-grpc": Wire(
        "grpc",
        _fixed("/tensorflow.serving.PredictionService/Predict"),
        protobuf.encode_predict_request,
        protobuf.decode_predict_response,
    ),
}
