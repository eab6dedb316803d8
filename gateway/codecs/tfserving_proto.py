"""TF Serving over gRPC (tensorflow_serving/apis): Predict, GetModelMetadata and GetModelStatus messages.

A reply may hold a tensor as `tensor_content` or as typed values, whose last one stands for all that are missing
(tensorflow/core/framework/tensor.cc, FromProto); requests always use `tensor_content`, and `string_val` for BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from gateway._generated import tensorflow_pb2, tfserving_pb2
from gateway.codecs.replies import bad_reply, reading_reply
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    DEFAULT_SIGNATURE,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelSpec,
    TensorSpec,
)
from gateway.core.tensor import NUMPY_DTYPE, NDArray, Tensor, element_count, from_raw, to_raw

SERVER = "TF Serving"
PLATFORM = "tensorflow_savedmodel"
# Signatures of TensorFlow's own, such as __saved_model_init_op.
INTERNAL = "__"

# The messages are generated under a package of our own, so the type that an Any names is written out.
_SIGNATURES = "signature_def"
_SIGNATURES_TYPE = "tensorflow.serving.SignatureDefMap"
# One value can stand for any number of elements; this bounds what a reply of a few bytes makes us allocate.
_MAX_REPEATED_BYTES = 67_108_864

M = TypeVar("M", bound=Message)
S = TypeVar("S")

# Datatype -> TensorFlow's name, field of the typed values, and the dtype that these have.
FORMS: dict[str, tuple[str, str, Any]] = {
    "BOOL": ("DT_BOOL", "bool_val", np.bool_),
    "UINT8": ("DT_UINT8", "int_val", np.int32),
    "UINT16": ("DT_UINT16", "int_val", np.int32),
    "UINT32": ("DT_UINT32", "uint32_val", np.uint32),
    "UINT64": ("DT_UINT64", "uint64_val", np.uint64),
    "INT8": ("DT_INT8", "int_val", np.int32),
    "INT16": ("DT_INT16", "int_val", np.int32),
    "INT32": ("DT_INT32", "int_val", np.int32),
    "INT64": ("DT_INT64", "int64_val", np.int64),
    "FP16": ("DT_HALF", "half_val", np.int32),
    "BF16": ("DT_BFLOAT16", "half_val", np.int32),
    "FP32": ("DT_FLOAT", "float_val", np.float32),
    "FP64": ("DT_DOUBLE", "double_val", np.float64),
    "BYTES": ("DT_STRING", "string_val", object),
}
NUMBER: dict[str, Any] = {datatype: tensorflow_pb2.DataType.Value(form[0]) for datatype, form in FORMS.items()}
_DATATYPE = {int(number): datatype for datatype, number in NUMBER.items()}
DTYPE_NAME = {datatype: form[0] for datatype, form in FORMS.items()}
"""The Open Inference Protocol's datatype to TensorFlow's name of it."""
DATATYPE_OF_NAME = {name: datatype for datatype, name in DTYPE_NAME.items()}
"""TensorFlow's name of a dtype, such as DT_FLOAT, to the Open Inference Protocol's."""


def encode_request(request: InferenceRequest) -> bytes:
    """A serialised PredictRequest; the wanted outputs are its output filter."""
    message = tfserving_pb2.PredictRequest(output_filter=request.wanted)
    _set_spec(message.model_spec, request.model)
    for tensor in request.inputs:
        _set_tensor(message.inputs[tensor.name], tensor)
    return message.SerializeToString()


def decode_response(data: bytes) -> InferenceResponse:
    """The outputs of a serialised PredictResponse, by name, and the version that gave them.

    Raises UPSTREAM_BAD_REPLY where it is none or a tensor breaks the protocol, UNSUPPORTED_DATATYPE for a dtype that
    the gateway has no word for.
    """
    message = _parsed(tfserving_pb2.PredictResponse(), data)
    spec = message.model_spec
    return InferenceResponse(
        model=spec.name,
        version=spec.version.value if spec.HasField("version") else None,
        # A protobuf map has no order of its own.
        outputs=tuple(read_tensor(name, message.outputs[name]) for name in sorted(message.outputs)),
    )


def encode_metadata_request(spec: ModelSpec) -> bytes:
    """A serialised GetModelMetadataRequest for the signatures of a model."""
    message = tfserving_pb2.GetModelMetadataRequest(metadata_field=[_SIGNATURES])
    _set_spec(message.model_spec, spec)
    message.model_spec.signature_name = ""
    return message.SerializeToString()


def decode_signatures(data: bytes) -> dict[str, ModelMetadata]:
    """Each signature's tensors, by name, and the one version that was asked, from a GetModelMetadataResponse.

    TensorFlow's own signatures are left out, and those with tensors of a dtype that the gateway has no word for: where
    the default one is such, UNSUPPORTED_DATATYPE is raised. Raises UPSTREAM_BAD_REPLY.
    """
    message = _parsed(tfserving_pb2.GetModelMetadataResponse(), data)
    packed = message.metadata.get(_SIGNATURES)
    if packed is None or packed.type_url.rpartition("/")[2] != _SIGNATURES_TYPE:
        raise bad_reply(SERVER, "it holds no signatures")
    signatures = _parsed(tfserving_pb2.SignatureDefMap(), packed.value).signature_def
    spec = message.model_spec

    def described(signature: tfserving_pb2.SignatureDef) -> ModelMetadata:
        return ModelMetadata(
            name=spec.name,
            versions=(spec.version.value,) if spec.HasField("version") else (),
            platform=PLATFORM,
            inputs=tuple(_spec(name, signature.inputs[name]) for name in sorted(signature.inputs)),
            outputs=tuple(_spec(name, signature.outputs[name]) for name in sorted(signature.outputs)),
        )

    return usable(signatures, described)


def encode_status_request(spec: ModelSpec) -> bytes:
    """A serialised GetModelStatusRequest."""
    message = tfserving_pb2.GetModelStatusRequest()
    _set_spec(message.model_spec, spec)
    return message.SerializeToString()


def decode_status(data: bytes) -> tuple[int, ...]:
    """The AVAILABLE versions of a serialised GetModelStatusResponse, newest first; raises UPSTREAM_BAD_REPLY."""
    message = _parsed(tfserving_pb2.GetModelStatusResponse(), data)
    available = tfserving_pb2.ModelVersionStatus.AVAILABLE
    return tuple(
        sorted((status.version for status in message.model_version_status if status.state == available), reverse=True)
    )


def usable(signatures: Mapping[str, S], described: Callable[[S], ModelMetadata]) -> dict[str, ModelMetadata]:
    """Each signature's metadata, the default one first; raises as `decode_signatures` does.

    `described` raises UNSUPPORTED_DATATYPE for a signature that the gateway cannot carry.
    """
    found: dict[str, ModelMetadata] = {}
    for name in sorted(signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name)):
        if name.startswith(INTERNAL):
            continue
        try:
            metadata = described(signatures[name])
        except GatewayError as exc:
            if exc.cause is not Cause.UNSUPPORTED_DATATYPE or name == DEFAULT_SIGNATURE:
                raise
            continue
        if metadata.inputs and metadata.outputs:
            found[name] = metadata
    return found


def signature_not_found(model: str, signature: str, known: Iterable[str]) -> GatewayError:
    """The error for a signature that a model lacks, naming those that it has; internal ones begin with `__`."""
    listed = ", ".join(f"'{name}'" for name in sorted(known) if not name.startswith(INTERNAL)) or "none"
    return GatewayError(
        Cause.SIGNATURE_NOT_FOUND, f"model '{model}' has no signature '{signature[:64]}'; its signatures: {listed}"
    )


def no_datatype(name: str, dtype: str) -> GatewayError:
    """The error for a tensor whose dtype the Open Inference Protocol has no word for."""
    return GatewayError(
        Cause.UNSUPPORTED_DATATYPE, f"tensor '{name}' of the model is {dtype}, which the gateway cannot carry"
    )


def _parsed(message: M, data: bytes) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise bad_reply(SERVER, f"it is not a {message.DESCRIPTOR.name}") from None
    return message


def _set_spec(message: tfserving_pb2.ModelSpec, spec: ModelSpec) -> None:
    message.name = spec.name
    if spec.version is not None:
        message.version.value = spec.version
    elif spec.label is not None:
        message.version_label = spec.label
    if spec.signature_name is not None:
        message.signature_name = spec.signature_name


def _set_tensor(message: tensorflow_pb2.TensorProto, tensor: Tensor) -> None:
    message.dtype = NUMBER[tensor.datatype]
    # Present though empty for a scalar: its rank is known.
    message.tensor_shape.SetInParent()
    for size in tensor.shape:
        message.tensor_shape.dim.add(size=size)
    if tensor.datatype == "BYTES":
        message.string_val.extend(tensor.array.reshape(-1).tolist())
    else:
        message.tensor_content = bytes(to_raw(tensor))


def read_tensor(name: str, message: tensorflow_pb2.TensorProto) -> Tensor:
    """The tensor of a message; raises UPSTREAM_BAD_REPLY, UNSUPPORTED_DATATYPE as `decode_response` does."""
    datatype = _DATATYPE.get(message.dtype)
    if datatype is None:
        raise no_datatype(name, _dtype_name(message.dtype))
    if message.tensor_shape.unknown_rank:
        raise bad_reply(SERVER, f"output '{name}' has no shape")
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    with reading_reply(SERVER):
        count = element_count(shape, name)
        if not message.tensor_content:
            array = _typed(name, datatype, count, message)
        elif datatype == "BYTES":
            array = _strings(name, count, message.tensor_content)
        else:
            return from_raw(name, datatype, shape, message.tensor_content)
    return Tensor(name, datatype, array.reshape(shape))


def _typed(name: str, datatype: str, count: int, message: tensorflow_pb2.TensorProto) -> NDArray:
    _, field, wire_dtype = FORMS[datatype]
    dtype = NUMPY_DTYPE[datatype]
    values = getattr(message, field)
    if len(values) < count and count * dtype.itemsize > _MAX_REPEATED_BYTES:
        raise bad_reply(SERVER, f"output '{name}' holds {len(values)} values for {count} elements")
    array = np.array(values if datatype != "BYTES" else list(values), dtype=wire_dtype)[:count]
    if datatype in ("FP16", "BF16"):
        array = array.astype(np.uint16).view(dtype)
    elif array.dtype != dtype:
        # TensorFlow casts too: what does not fit wraps around.
        array = array.astype(dtype)
    if len(array) == count:
        return array
    full = np.zeros(count, dtype=dtype) if datatype != "BYTES" else np.full(count, b"", dtype=object)
    full[: len(array)] = array
    if len(array):
        full[len(array) :] = array[-1:]
    return full


def _strings(name: str, count: int, content: bytes) -> NDArray:
    """BYTES in `tensor_content`: all lengths as varints, then all bytes."""
    if count > len(content):
        raise bad_reply(SERVER, f"output '{name}' holds too few bytes for {count} elements")
    lengths = []
    offset = 0
    for _ in range(count):
        length, offset = _varint(name, content, offset)
        lengths.append(length)
    if offset + sum(lengths) != len(content):
        raise bad_reply(SERVER, f"the lengths of output '{name}' do not add up to its content")
    array = np.empty(count, dtype=object)
    for index, length in enumerate(lengths):
        array[index] = content[offset : offset + length]
        offset += length
    return array


def _varint(name: str, content: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(content[offset : offset + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, offset + index + 1
    raise bad_reply(SERVER, f"output '{name}' has a length that does not end")


def _spec(name: str, info: tensorflow_pb2.TensorInfo) -> TensorSpec:
    datatype = _DATATYPE.get(info.dtype)
    if datatype is None:
        raise no_datatype(name, _dtype_name(info.dtype))
    if info.tensor_shape.unknown_rank:
        return TensorSpec(name, datatype, (-1,), ranked=False)
    return TensorSpec(name, datatype, tuple(max(dim.size, -1) for dim in info.tensor_shape.dim))


def _dtype_name(number: int) -> str:
    try:
        return tensorflow_pb2.DataType.Name(number)
    except ValueError:
        return f"TensorFlow's dtype {number}"
