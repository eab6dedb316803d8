"""TF Serving over REST (model_servers/http_rest_api_handler.cc, util/json_tensor.cc), requests in column form.

The column form keeps ranks, scalars and inputs whose first dimensions differ. REST carries no datatypes, no output
filter, no 16-bit floats or UINT16, and no shape below an empty list.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from gateway.codecs.json_document import JsonObject, JsonValue, parse_object, plain, read_object
from gateway.codecs.json_tensors import elements, flatten, only_row, tensor_to_text, written
from gateway.codecs.replies import bad_reply, reading_reply
from gateway.codecs.tfserving_proto import (
    DATATYPE_OF_NAME,
    PLATFORM,
    SERVER,
    no_datatype,
    usable,
)
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata, TensorSpec
from gateway.core.tensor import NDArray, Tensor, all_finite, few_and_finite

# TF Serving answers 501 to them: its JSON has no form for these dtypes.
_NOT_OVER_REST = frozenset({"FP16", "BF16", "UINT16"})
# As others write an answer, and as TF Serving does.
_FORMS = ((b'{"outputs":', b"}"), (b'{\n    "outputs":', b"}"))
_LARGEST_FP32 = np.finfo(np.float32).max
# What reading a document of another structure raises.
_NOT_AS_EXPECTED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def encode_request(request: InferenceRequest) -> bytes:
    """The body of a `:predict` request; version and label are in its path.

    Raises UNSUPPORTED_DATATYPE for inputs that TF Serving's REST cannot carry.
    """
    inputs: dict[str, object] = {}
    finite = True
    if len(request.inputs) == 1 and request.model.signature_name is None:
        tensor = request.inputs[0]
        if tensor.datatype == "FP32" and tensor.array.ndim and few_and_finite(tensor):
            return _begin(tensor.name) + tensor_to_text(tensor) + b"}}"
    for tensor in request.inputs:
        inputs[tensor.name], digits = _column(tensor)
        finite = finite and digits
    document: dict[str, Any] = {"inputs": inputs}
    if request.model.signature_name is not None:
        document["signature_name"] = request.model.signature_name
    if finite:
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson writes null for NaN. TF Serving takes the bare tokens, as Python's json writes them.
    return json.dumps(document, default=_as_list).encode()


def decode_response(body: bytes, request: InferenceRequest, outputs: tuple[TensorSpec, ...]) -> InferenceResponse:
    """The wanted outputs of a `:predict` answer, by the datatypes and names that `outputs`, the metadata, states.

    The version is the one that was asked for: the answer does not tell. Raises UPSTREAM_BAD_REPLY, and
    UNSUPPORTED_DATATYPE for BYTES beyond UTF-8, which TF Serving writes into its JSON as they are.
    """
    if len(outputs) == 1 and not request.wanted:
        row = only_row(body, _FORMS, outputs[0])
        if row is not None:
            return InferenceResponse(request.model.name, request.model.version, (row,), {}, request.id)
    _check_text(body, outputs)

    def take(document: JsonObject) -> InferenceResponse:
        if "outputs" not in document:
            raise bad_reply(SERVER, "it has no 'outputs'")
        values = _by_name(document["outputs"], outputs)
        wanted = [spec for spec in outputs if not request.wanted or spec.name in request.wanted]
        return InferenceResponse(
            model=request.model.name,
            version=request.model.version,
            outputs=tuple([_output(values, spec) for spec in wanted]),
            id=request.id,
        )

    with reading_reply(SERVER):
        return read_object(body, take, nan_tokens=True)


def decode_signatures(body: bytes) -> dict[str, ModelMetadata]:
    """Each signature's tensors, by name, and the version that was asked, from a `/metadata` answer.

    Left out, and raised, is what `tfserving_proto.decode_signatures` leaves out and raises.
    """
    with reading_reply(SERVER):
        document = plain(parse_object(body))
    try:
        spec = document["model_spec"]
        signatures: JsonObject = dict(document["metadata"]["signature_def"]["signature_def"])
        model, version = str(spec["name"]), spec.get("version")
        versions = () if version is None else (int(version),)

        def described(signature: JsonObject) -> ModelMetadata:
            inputs, outputs = _specs(signature["inputs"]), _specs(signature["outputs"])
            return ModelMetadata(model, versions, PLATFORM, inputs, outputs)

        return usable(signatures, described)
    except _NOT_AS_EXPECTED as exc:
        raise bad_reply(SERVER, "it is not model metadata") from exc


def decode_status(body: bytes) -> tuple[int, ...]:
    """The AVAILABLE versions of a status answer, newest first; raises UPSTREAM_BAD_REPLY."""
    with reading_reply(SERVER):
        document = plain(parse_object(body))
    try:
        states = [(int(status["version"]), status["state"]) for status in document["model_version_status"]]
    except _NOT_AS_EXPECTED as exc:
        raise bad_reply(SERVER, "it is not a model's status") from exc
    return tuple(sorted((version for version, state in states if state == "AVAILABLE"), reverse=True))


def error_text(body: bytes) -> str:
    """The text of an error answer, capped; of anything but `{"error": text}` the text as it is."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        for key in ("error", "message"):
            if isinstance(document.get(key), str):
                return capped(document[key].strip())
    return capped(body.decode(errors="replace").strip())


@lru_cache(maxsize=1024)
def _begin(name: str) -> bytes:
    """How a request of one input begins: all that comes before its numbers."""
    return orjson.dumps({"inputs": {name: 0}})[: -len(b"0}}")]


def _check_text(body: bytes, outputs: tuple[TensorSpec, ...]) -> None:
    texts = [spec.name for spec in outputs if spec.datatype == "BYTES" and not spec.name.endswith("_bytes")]
    try:
        if texts:
            body.decode()
    except UnicodeDecodeError:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"{SERVER}'s REST answered BYTES that are not UTF-8 as text (output '{texts[0]}'); its gRPC carries them, "
            "and its REST does where the output's name ends in _bytes",
        ) from None


def _column(tensor: Tensor) -> tuple[object, bool]:
    """What is written as an input, with digits that TF Serving takes for it, and whether all of it is finite."""
    if tensor.datatype in _NOT_OVER_REST:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"input '{tensor.name}': {SERVER}'s REST does not take {tensor.datatype}; its gRPC does",
        )
    if 0 in tensor.shape[:-1]:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"input '{tensor.name}': {SERVER}'s REST cannot tell the shape {list(tensor.shape)} from []; its gRPC can",
        )
    if tensor.datatype == "BYTES":
        coded = np.empty(tensor.array.size, dtype=object)
        coded[:] = [{"b64": base64.b64encode(item).decode()} for item in tensor.array.flat]
        return coded.reshape(tensor.shape).tolist(), True
    if tensor.datatype == "FP32":
        sizes = np.abs(tensor.array)
        if b"\0" not in (sizes < _LARGEST_FP32).tobytes():
            return written(tensor), True
        if (sizes == _LARGEST_FP32).any():
            # Refused is what is beyond FP32 as a double, as the shortest digits of its largest are, 3.4028235e38.
            tensor = Tensor(tensor.name, "FP64", tensor.array.astype(np.float64))
    finite = all_finite(tensor)
    return (written(tensor) if finite else tensor.array), finite


def _as_list(value: NDArray) -> object:
    return value.tolist()


def _by_name(value: JsonValue, outputs: tuple[TensorSpec, ...]) -> Mapping[str, Any]:
    """A model with one output answers with its bare value, any other with an object."""
    if len(outputs) == 1:
        return {outputs[0].name: value}
    if not isinstance(value, dict):
        raise bad_reply(SERVER, f"its 'outputs' are no object, and the model has {len(outputs)} outputs")
    return value


def _output(values: Mapping[str, Any], spec: TensorSpec) -> Tensor:
    if spec.name not in values:
        raise bad_reply(SERVER, f"output '{spec.name}' is missing")
    value = values[spec.name]
    if spec.datatype == "BYTES":
        flat, shape = _strings(value, spec.name)
    else:
        flat, shape = elements(value, spec.name, spec.datatype, finite=False)
    if shape and shape[-1] == 0:
        shape += tuple(max(dim, 0) for dim in spec.shape[len(shape) :])
    if flat.size != math.prod(shape):
        raise bad_reply(SERVER, f"output '{spec.name}' is no {spec.datatype} {list(spec.shape)}")
    return Tensor(spec.name, spec.datatype, flat.reshape(shape))


def _strings(value: JsonValue, name: str) -> tuple[NDArray, tuple[int, ...]]:
    # Outputs whose name ends in `_bytes` come as {"b64": text}, all others as plain strings.
    leaves, shape = flatten(value, name)
    flat = np.empty(len(leaves), dtype=object)
    for index, leaf in enumerate(leaves):
        flat[index] = _string(leaf, name)
    return flat, shape


def _string(leaf: JsonValue, name: str) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, dict) and leaf.keys() == {"b64"} and isinstance(leaf["b64"], str):
        try:
            return base64.b64decode(leaf["b64"], validate=True)
        except ValueError as exc:
            raise bad_reply(SERVER, f"output '{name}' holds what is not base64") from exc
    raise bad_reply(SERVER, f"output '{name}' holds something other than strings")


def _specs(tensors: JsonObject) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, info) for name, info in sorted(tensors.items()))


def _spec(name: str, info: Mapping[str, Any]) -> TensorSpec:
    datatype = DATATYPE_OF_NAME.get(info["dtype"])
    if datatype is None:
        raise no_datatype(name, str(info["dtype"])[:32])
    shape = info["tensor_shape"]
    if shape.get("unknown_rank"):
        return TensorSpec(name, datatype, (-1,), ranked=False)
    return TensorSpec(name, datatype, tuple(max(int(dim["size"]), -1) for dim in shape.get("dim", ())))
