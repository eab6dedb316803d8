"""The three protobuf protocols of the load tests, over the gateway's generated messages.

Field rules: TF Serving's TensorProto (`tensor_content` wins; typed values repeat their last one), the Open Inference
Protocol's raw and typed contents, TorchServe's map of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from gateway._generated import oip_pb2, tensorflow_pb2, tfserving_pb2, torchserve_pb2
from gateway.core.errors import GatewayError
from gateway.core.messages import TensorSpec
from gateway.core.tensor import NUMPY_DTYPE, NDArray, Tensor, element_count, from_raw, to_raw
from loadtests.replies import BadReplyError

_MOST_ELEMENTS = 1 << 24
MessageT = TypeVar("MessageT", bound=Message)

# Datatype -> TensorFlow's DataType number and the TensorProto field of its typed values.
_TENSORFLOW: dict[str, tuple[Any, str]] = {
    "FP32": (1, "float_val"),
    "FP64": (2, "double_val"),
    "INT32": (3, "int_val"),
    "UINT8": (4, "int_val"),
    "INT16": (5, "int_val"),
    "INT8": (6, "int_val"),
    "INT64": (9, "int64_val"),
    "BOOL": (10, "bool_val"),
    "UINT16": (17, "int_val"),
    "FP16": (19, "half_val"),
    "UINT32": (22, "uint32_val"),
    "UINT64": (23, "uint64_val"),
}
# Datatype -> the field of InferTensorContents; the 16-bit floats exist in raw form only.
_OIP_CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def _filled(message: MessageT, body: bytes) -> MessageT:
    try:
        message.ParseFromString(body)
    except DecodeError as exc:
        raise BadReplyError("the reply is not the protobuf message that the protocol names") from exc
    return message


def _shaped(spec: TensorSpec, values: npt.ArrayLike, shape: Sequence[int]) -> NDArray:
    try:
        return np.asarray(values, dtype=NUMPY_DTYPE[spec.datatype]).reshape(tuple(shape))
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadReplyError(f"output '{spec.name}' does not fit its own shape {list(shape)}") from exc


def _raw(spec: TensorSpec, shape: Sequence[int], content: bytes) -> NDArray:
    try:
        return from_raw(spec.name, spec.datatype, shape, content).array
    except GatewayError as exc:
        raise BadReplyError(exc.detail.replace("input", "output", 1)) from exc


def _count(spec: TensorSpec, shape: Sequence[int]) -> int:
    try:
        count = element_count(shape, spec.name)
    except GatewayError as exc:
        raise BadReplyError(f"output '{spec.name}' has the impossible shape {list(shape)}") from exc
    # A repeated last value may stand for any number of elements; no golden answer is this long.
    if count > _MOST_ELEMENTS:
        raise BadReplyError(f"output '{spec.name}' claims {count} elements")
    return count


def encode_model_infer(model: str, tensors: Sequence[Tensor]) -> bytes:
    """An Open Inference Protocol ModelInfer request with raw contents."""
    request = oip_pb2.ModelInferRequest(model_name=model)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(bytes(to_raw(tensor)))
    return bytes(request.SerializeToString())


def decode_model_infer(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """The outputs of a ModelInfer reply, raw or typed."""
    reply = _filled(oip_pb2.ModelInferResponse(), body)
    if reply.raw_output_contents and len(reply.raw_output_contents) != len(reply.outputs):
        raise BadReplyError("the reply has another number of raw contents than of outputs")
    by_name = {spec.name: spec for spec in specs}
    answer: dict[str, NDArray] = {}
    for index, output in enumerate(reply.outputs):
        spec = by_name.get(output.name)
        if spec is None:
            continue
        if output.datatype != spec.datatype:
            raise BadReplyError(f"output '{spec.name}' is {output.datatype[:16]}; expected {spec.datatype}")
        if reply.raw_output_contents:
            answer[spec.name] = _raw(spec, output.shape, reply.raw_output_contents[index])
        else:
            values = getattr(output.contents, _OIP_CONTENTS.get(spec.datatype, "bytes_contents"))
            answer[spec.name] = _shaped(spec, list(values), output.shape)
    return answer


def encode_predict_request(model: str, tensors: Sequence[Tensor]) -> bytes:
    """A TF Serving Predict request with `tensor_content`."""
    request = tfserving_pb2.PredictRequest()
    request.model_spec.name = model
    for tensor in tensors:
        proto = request.inputs[tensor.name]
        proto.dtype = _TENSORFLOW[tensor.datatype][0]
        for size in tensor.shape:
            proto.tensor_shape.dim.add(size=size)
        proto.tensor_content = bytes(to_raw(tensor))
    return bytes(request.SerializeToString())


def decode_predict_response(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, NDArray]:
    """The outputs of a TF Serving Predict reply."""
    reply = _filled(tfserving_pb2.PredictResponse(), body)
    found = reply.outputs
    return {spec.name: _from_tensor_proto(spec, found[spec.name]) for spec in specs if spec.name in found}


def _from_tensor_proto(spec: TensorSpec, proto: tensorflow_pb2.TensorProto) -> NDArray:
    number, field = _TENSORFLOW[spec.datatype]
    if proto.dtype != number:
        raise BadReplyError(f"output '{spec.name}' has TensorFlow's dtype {proto.dtype}; expected {number}")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_content:
        return _raw(spec, shape, proto.tensor_content)
    values = list(getattr(proto, field))
    count = _count(spec, shape)
    if values and len(values) < count:
        values += values[-1:] * (count - len(values))
    if spec.datatype == "FP16":
        return _shaped(spec, np.asarray(values, dtype=np.uint16).view(np.float16), shape)
    return _shaped(spec, values[:count] if values else np.zeros(count), shape)


def encode_predictions(model: str, inputs: Mapping[str, bytes]) -> bytes:
    """A TorchServe Predictions request."""
    return bytes(torchserve_pb2.PredictionsRequest(model_name=model, input=dict(inputs)).SerializeToString())


def decode_prediction(body: bytes) -> bytes:
    """The bytes that the handler returned."""
    return bytes(_filled(torchserve_pb2.PredictionResponse(), body).prediction)
