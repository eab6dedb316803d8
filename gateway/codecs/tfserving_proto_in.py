"""TF Serving's gRPC as clients speak it: PredictRequest into a request, and an answer as PredictResponse.

Texts are those of tensorflow_serving/servables/tensorflow/predict_util.cc and tensorflow/cc/saved_model/util.cc.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gateway._generated import tensorflow_pb2, tfserving_pb2
from gateway.codecs.fields import shown
from gateway.codecs.tfserving_proto import DTYPE_NAME, FORMS, NUMBER, read_tensor
from gateway.codecs.wire import MAX_FIELDS, Tree, check_tree
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import DEFAULT_SIGNATURE, InferenceRequest, InferenceResponse, ModelSpec
from gateway.core.tensor import Tensor, to_raw

# Strings are a field each; a request of this many takes 0.1 s to look through.
_MOST_FIELDS = 1 << 18
# Where fields can be many: an input's tensor, and its shape.
_NESTED: Tree = {
    tfserving_pb2.PredictRequest.INPUTS_FIELD_NUMBER: {2: {tensorflow_pb2.TensorProto.TENSOR_SHAPE_FIELD_NUMBER: {}}}
}
# Typed fields whose packed form is the raw layout itself: fixed-width floats, and booleans of one byte each.
_RAW_TAGS = {"FP32": b"\x2a", "FP64": b"\x32", "BOOL": b"\x5a"}
_SHORT_FLOATS = frozenset({"FP16", "BF16"})


def model_spec(message: tfserving_pb2.ModelSpec) -> ModelSpec:
    """The model that a message asks for; raises INVALID_INPUT where it names none."""
    if not message.name:
        raise _invalid("ModelSpec has no name specified.")
    return ModelSpec(
        message.name,
        version=message.version.value if message.HasField("version") else None,
        label=message.version_label if message.HasField("version_label") else None,
        signature_name=message.signature_name or None,
    )


def check_wire(data: bytes) -> None:
    """Looks at a PredictRequest before it is parsed; raises INVALID_INPUT where no request needs so many fields."""
    if len(data) > MAX_FIELDS:
        check_tree(data, _MOST_FIELDS, "PredictRequest", _NESTED)


def decode_request(message: tfserving_pb2.PredictRequest, spec: ModelSpec, contract: ModelContract) -> InferenceRequest:
    """The request, its tensors checked against the contract's names and shapes before anything is allocated.

    Raises INVALID_INPUT, and UNSUPPORTED_DATATYPE for a dtype that the gateway has no word for.
    """
    _check_names(message.inputs.keys(), [spec.name for spec in contract.inputs])
    inputs = tuple(_input(message.inputs[item.name], contract, item.name) for item in contract.inputs)
    _check_filter(message.output_filter, [item.name for item in contract.outputs])
    return InferenceRequest(spec, inputs, wanted=tuple(message.output_filter))


def encode_response(response: InferenceResponse, signature: str | None) -> bytes:
    """A serialised PredictResponse with typed values, as TF Serving's own: many clients read no other form."""
    message = tfserving_pb2.PredictResponse()
    message.model_spec.name = response.model
    message.model_spec.signature_name = signature or DEFAULT_SIGNATURE
    if response.version is not None:
        message.model_spec.version.value = response.version
    for tensor in response.outputs:
        _fill(message.outputs[tensor.name], tensor)
    return message.SerializeToString()


def _input(message: tensorflow_pb2.TensorProto, contract: ModelContract, name: str) -> Tensor:
    spec = contract.input(name)
    if message.dtype == tensorflow_pb2.DT_INVALID or message.tensor_shape.unknown_rank:
        raise _unreadable(name)
    sizes = [dim.size for dim in message.tensor_shape.dim]
    # One value can stand for any number of elements, so the shape is looked at first.
    if not spec.fits(sizes) or (contract.batch_cap is not None and sizes and sizes[0] > contract.batch_cap):
        rows = "" if contract.batch_cap is None else f", of at most {contract.batch_cap} rows"
        raise _invalid(f"input '{name}' has shape {sizes[:32]}; expected {list(spec.shape)} (-1: any size){rows}")
    if message.dtype in _NAME_OF and _NAME_OF[message.dtype] != DTYPE_NAME[spec.datatype]:
        raise _invalid(
            f"Expects arg[0] to be {_word(DTYPE_NAME[spec.datatype])} but {_word(_NAME_OF[message.dtype])} is provided "
            f"(input '{name}')"
        )
    try:
        return read_tensor(name, message)
    except GatewayError as exc:
        if exc.cause is Cause.UNSUPPORTED_DATATYPE:
            raise GatewayError(exc.cause, exc.detail.replace(" of the model", "", 1)) from exc
        raise _unreadable(name) from exc


def _check_names(given: Iterable[str], expected: Iterable[str]) -> None:
    names, wanted = set(given), set(expected)
    if len(names) != len(wanted):
        raise _invalid(
            f"input size does not match signature: {len(names)}!={len(wanted)} len({_set(names)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(names - wanted)}. Missing but required: {_set(wanted - names)}."
        )
    if names != wanted:
        raise _invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(names & wanted))}, request input: "
            f"{_set(names)[1:-1]}; expected {','.join(sorted(wanted))}"
        )


def _check_filter(wanted: Iterable[str], outputs: list[str]) -> None:
    seen: set[str] = set()
    for name in wanted:
        if name not in outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {shown(name)} Outputs expected to be in the set "
                f"{_set(set(outputs))}."
            )
        if name in seen:
            raise _invalid(f"duplicate output tensor alias: {shown(name)}")
        seen.add(name)


def _fill(message: tensorflow_pb2.TensorProto, tensor: Tensor) -> None:
    _, field, _ = FORMS[tensor.datatype]
    message.dtype = NUMBER[tensor.datatype]
    # Present though empty for a scalar: its rank is known.
    message.tensor_shape.SetInParent()
    for size in tensor.shape:
        message.tensor_shape.dim.add(size=size)
    tag = _RAW_TAGS.get(tensor.datatype)
    if tag is not None:
        raw = to_raw(tensor)
        if raw:
            message.MergeFromString(b"".join((tag, _varint(len(raw)), raw)))
        return
    flat = np.ascontiguousarray(tensor.array).reshape(-1) if tensor.datatype != "BYTES" else tensor.array.reshape(-1)
    if tensor.datatype in _SHORT_FLOATS:
        flat = flat.view(np.uint16)
    getattr(message, field).extend(flat.tolist())


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_NAME_OF = {int(NUMBER[datatype]): name for datatype, name in DTYPE_NAME.items()}


def _word(dtype: str) -> str:
    return dtype.removeprefix("DT_").lower()


def _set(names: set[str]) -> str:
    return "{" + ",".join(shown(name) for name in sorted(names)[:16]) + "}"


def _unreadable(name: str) -> GatewayError:
    return _invalid(f"tensor parsing error: {name}")


def _invalid(detail: str) -> GatewayError:
    return GatewayError(Cause.INVALID_INPUT, detail)
