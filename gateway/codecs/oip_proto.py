"""The Open Inference Protocol v2 over gRPC (specification/protocol/inference_grpc.md): ModelInfer's messages.

Contents are typed, in one repeated field by datatype, or raw, in one entry for each tensor; never both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from gateway._generated import oip_pb2
from gateway.codecs.fields import input_name, parameter, wanted_outputs
from gateway.codecs.json_tensors import SHORT_FLOATS
from gateway.codecs.oip_parameters import refuse_reserved
from gateway.codecs.selection import split_parameters, version_number
from gateway.codecs.wire import MAX_FIELDS, check_counts, check_sizes, fields, varint
from gateway.core.contract import ContractOf
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata, ModelSpec, Parameter, TensorSpec
from gateway.core.tensor import MAX_RANK, NDArray, Tensor, element_count, from_raw, numpy_dtype, to_raw

# Of one input: its name, its shape, its typed contents. Typed contents become objects one by one; raw ones do not.
_MOST_BYTES = {
    oip_pb2.ModelInferRequest.InferInputTensor.NAME_FIELD_NUMBER: 4096,
    oip_pb2.ModelInferRequest.InferInputTensor.SHAPE_FIELD_NUMBER: 10 * MAX_RANK,
    oip_pb2.ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER: 8 << 20,
}

# Datatype -> field of InferTensorContents. FP16 and BF16 have none: they are raw only.
_FIELD = {
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
    "BYTES": "bytes_contents",
}
# Integers that travel widened to 32 bits, as the dtype that they arrive in.
_WIDENED: dict[str, np.dtype[Any]] = {
    "INT8": np.dtype(np.int32),
    "INT16": np.dtype(np.int32),
    "UINT8": np.dtype(np.uint32),
    "UINT16": np.dtype(np.uint32),
}


# What stands before each of the raw contents: field and wire type, as all lengths have it.
_RAW_CONTENTS = bytes([oip_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
_NO_CONTENTS = oip_pb2.InferTensorContents()

# Both are described alike.
AnyTensor = oip_pb2.ModelInferRequest.InferInputTensor | oip_pb2.ModelInferResponse.InferOutputTensor


class _Described(NamedTuple):
    """What a tensor's message says of it, read once: each look into a message costs as much as a call."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    contents: oip_pb2.InferTensorContents | None


@dataclass(frozen=True, slots=True, eq=False)
class OipGrpcRequest:
    """A decoded ModelInfer request, and whether it carried raw contents: then its answer does too."""

    request: InferenceRequest
    raw: bool


def decode_request(data: bytes, contract_of: ContractOf | None = None) -> OipGrpcRequest:
    """The request that a serialised ModelInferRequest is.

    With `contract_of` the declared inputs are checked before arrays are made of them. Raises UNPARSEABLE where it is
    none, INVALID_INPUT naming the input, UNSUPPORTED_DATATYPE for typed 16-bit floats, VERSION_NOT_FOUND for a version
    that is no integer.
    """
    _check_wire(data)
    message = oip_pb2.ModelInferRequest()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise GatewayError(Cause.UNPARSEABLE, "the message is not a ModelInferRequest") from None
    if not message.model_name:
        raise GatewayError(Cause.INVALID_INPUT, "field 'model_name' is empty; expected the name of a model")
    version = version_number(message.model_version, message.model_name) if message.model_version else None
    inputs = [_described(tensor) for tensor in message.inputs]
    _check_outputs(message)
    model, selection, parameters = split_parameters(
        ModelSpec(message.model_name, version), _parameters(message.parameters)
    )
    if contract_of is not None:
        signature = model.signature_name
        contract = contract_of(model.name) if signature is None else contract_of(model.name, signature)
        for tensor in inputs:
            contract.check_declared(tensor.name, tensor.datatype, tensor.shape)
    raw = len(message.raw_input_contents) > 0
    return OipGrpcRequest(
        InferenceRequest(
            model=model,
            inputs=_raw_inputs(inputs, message.raw_input_contents)
            if raw
            else tuple([_typed(tensor) for tensor in inputs]),
            wanted=wanted_outputs([output.name for output in message.outputs]) if message.outputs else (),
            parameters=parameters,
            id=message.id,
            selection=selection,
        ),
        raw,
    )


def _check_wire(data: bytes) -> None:
    what = "ModelInferRequest"
    if len(data) <= MAX_FIELDS:
        # A field takes two bytes at least.
        return
    check_counts(data, MAX_FIELDS, what)
    for number, content in fields(data, what):
        if number == oip_pb2.ModelInferRequest.INPUTS_FIELD_NUMBER:
            check_counts(content, MAX_FIELDS, what)
            check_sizes(content, _MOST_BYTES, what)


def encode_response(response: InferenceResponse, *, raw: bool) -> bytes:
    """A serialised ModelInferResponse, with raw contents if `raw` or where an output is a 16-bit float."""
    raw = raw or any(tensor.datatype in SHORT_FLOATS for tensor in response.outputs)
    if raw and not response.parameters:
        return _raw_response(response)
    message = oip_pb2.ModelInferResponse(model_name=response.model, id=response.id)
    if response.version is not None:
        message.model_version = str(response.version)
    for name, value in response.parameters.items():
        set_parameter(message.parameters[name], value)
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            message.raw_output_contents.append(bytes(to_raw(tensor)))
        else:
            # Present though empty for a tensor without elements: contents, not their absence.
            output.contents.SetInParent()
            getattr(output.contents, _FIELD[tensor.datatype]).extend(tensor.array.reshape(-1).tolist())
    return message.SerializeToString()


def _raw_response(response: InferenceResponse) -> bytes:
    """The same of raw contents alone: what describes them, which many answers share, and then the contents.

    Written by hand, so that they are copied once. Messages that stand one behind the other are one message, with the
    fields of all (protobuf.dev/programming-guides/encoding).
    """
    described = tuple([(tensor.name, tensor.datatype, tensor.shape) for tensor in response.outputs])
    parts: list[bytes | memoryview] = [_description(response.model, response.version, described)]
    if response.id:
        parts.append(oip_pb2.ModelInferResponse(id=response.id).SerializeToString())
    for tensor in response.outputs:
        raw = to_raw(tensor)
        parts += (_RAW_CONTENTS, varint(len(raw)), raw)
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _description(model: str, version: int | None, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    message = oip_pb2.ModelInferResponse(model_name=model, model_version="" if version is None else str(version))
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    return message.SerializeToString()


def encode_model_metadata(metadata: ModelMetadata) -> bytes:
    """A serialised ModelMetadataResponse; variable dimensions are -1."""
    message = oip_pb2.ModelMetadataResponse(
        name=metadata.name,
        versions=[str(version) for version in metadata.versions],
        platform=metadata.platform,
        inputs=[_metadata(spec) for spec in metadata.inputs],
        outputs=[_metadata(spec) for spec in metadata.outputs],
        properties=dict(metadata.properties),
    )
    return message.SerializeToString()


def _described(tensor: AnyTensor) -> _Described:
    """An input; raises INVALID_INPUT where a parameter is no scalar, or of an extension that is not spoken."""
    described = _described_as(tensor)
    if tensor.parameters:
        refuse_reserved(f"input '{described.name}'", _parameters(tensor.parameters))
    return described


def _described_as(tensor: AnyTensor) -> _Described:
    contents = tensor.contents if tensor.HasField("contents") else None
    return _Described(input_name(tensor.name), tensor.datatype, tuple(tensor.shape), contents)


def _check_outputs(message: oip_pb2.ModelInferRequest) -> None:
    """Raises INVALID_INPUT as `_described` does."""
    for output in message.outputs:
        refuse_reserved("an item of 'outputs'", _parameters(output.parameters))


def _metadata(spec: TensorSpec) -> oip_pb2.ModelMetadataResponse.TensorMetadata:
    return oip_pb2.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _raw_inputs(inputs: Sequence[_Described], contents: Sequence[bytes]) -> tuple[Tensor, ...]:
    if len(contents) != len(inputs):
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"the number of inputs ({len(inputs)}) does not match the number of raw input contents "
            f"({len(contents)}); expected one for each input, in order",
        )
    return tuple([_raw(tensor, raw) for tensor, raw in zip(inputs, contents, strict=True)])


def raw_tensor(tensor: AnyTensor, raw: bytes) -> Tensor:
    """A tensor by its description and its raw contents; raises INVALID_INPUT where they do not fit."""
    return _raw(_described_as(tensor), raw)


def _raw(tensor: _Described, raw: bytes) -> Tensor:
    if tensor.contents is not None and tensor.contents.ByteSize():
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"input '{tensor.name}': contents field must not be specified when using raw_input_contents",
        )
    return from_raw(tensor.name, tensor.datatype, tensor.shape, raw)


def typed_tensor(tensor: AnyTensor) -> Tensor:
    """A tensor by its typed contents; raises INVALID_INPUT, and UNSUPPORTED_DATATYPE for 16-bit floats."""
    return _typed(_described_as(tensor))


def _typed(tensor: _Described) -> Tensor:
    name, datatype, shape = tensor.name, tensor.datatype, tensor.shape
    dtype = numpy_dtype(datatype, name)
    count = element_count(shape, name)
    field = _FIELD.get(datatype)
    if field is None:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"input '{name}': {datatype} has no typed contents; use raw_input_contents for every input",
        )
    contents = tensor.contents or _NO_CONTENTS
    for descriptor, values in contents.ListFields():
        if descriptor.name != field:
            raise GatewayError(Cause.INVALID_INPUT, f"input '{name}': {datatype} takes {field}, not {descriptor.name}")
        _check_count(name, shape, len(values), count)
    values = getattr(contents, field)
    _check_count(name, shape, len(values), count)
    if datatype == "BYTES":
        array: NDArray = np.empty(count, dtype=object)
        array[:] = list(values)
    else:
        array = np.array(values, dtype=_WIDENED.get(datatype, dtype))
    if datatype in _WIDENED:
        array = _narrowed(array, dtype, name, datatype)
    return Tensor(name, datatype, array.reshape(shape))


def _check_count(name: str, shape: tuple[int, ...], found: int, count: int) -> None:
    if found != count:
        raise GatewayError(
            Cause.INVALID_INPUT, f"input '{name}' holds {found} elements; shape {list(shape)} takes {count}"
        )


def _narrowed(array: NDArray, dtype: np.dtype[Any], name: str, datatype: str) -> NDArray:
    limits = np.iinfo(dtype)
    if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
        raise GatewayError(Cause.INVALID_INPUT, f"input '{name}' holds a number out of the range of {datatype}")
    return array.astype(dtype)


def _parameters(parameters: Mapping[str, oip_pb2.InferParameter]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    if not parameters:
        return found
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = parameter(name, None if kind is None else getattr(value, kind))
    return found


def set_parameter(message: oip_pb2.InferParameter, value: Parameter) -> None:
    """Fills in the one field that holds a value of its kind."""
    if isinstance(value, bool):
        message.bool_param = value
    elif isinstance(value, str):
        message.string_param = value
    elif isinstance(value, float):
        message.double_param = value
    elif value < 2**63:
        message.int64_param = value
    else:
        message.uint64_param = value
