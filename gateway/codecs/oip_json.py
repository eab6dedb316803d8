"""The Open Inference Protocol v2 over REST (specification/protocol/inference_rest.md), tensors as JSON.

Tensors are described in full, so that a request is decoded without its model's contract; `data` comes nested or flat.
Tensors as binary data, an extension that mixes with this form, are in `oip_binary`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.codecs.fields import input_name, parameter, refuse_unknown, request_id, shown, wanted_outputs
from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import JsonObject, JsonValue, plain, read_object
from gateway.codecs.json_tensors import SHORT_FLOATS, dumped, elements, written
from gateway.codecs.oip_parameters import refuse_reserved
from gateway.codecs.selection import split_parameters
from gateway.core.contract import ContractOf, ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelMetadata, ModelSpec, Parameter
from gateway.core.tensor import Tensor, element_count, numpy_dtype

_FIELDS = frozenset({"id", "inputs", "model_name", "outputs", "parameters"})
_INPUT_FIELDS = frozenset({"data", "datatype", "name", "parameters", "shape"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})

# Request parameter, output parameter and input parameter of the binary tensor data extension.
BINARY_OUTPUT = "binary_data_output"
BINARY_DATA = "binary_data"
BINARY_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class Described:
    """An input as its JSON describes it; `size` is its `binary_data_size`, None where it has none."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    item: JsonObject


def decode_request(body: bytes, model: ModelSpec, contract_of: ContractOf) -> InferenceRequest:
    """The request that `body` is, to the model and version of the path.

    Raises UNPARSEABLE, INVALID_INPUT naming the input, UNSUPPORTED_DATATYPE for 16-bit floats, VERSION_NOT_FOUND, and
    MODEL_NOT_FOUND from `contract_of`.
    """

    def take(document: JsonObject) -> InferenceRequest:
        contract_named(document, model, contract_of)
        return request_from(document, model, from_data)

    return read_object(body, take)


def request_from(document: JsonObject, model: ModelSpec, tensor_of: Callable[[Described], Tensor]) -> InferenceRequest:
    """The request that a JSON object is, whose inputs `tensor_of` finds; raises as `decode_request` does."""
    refuse_unknown("the body", document, _FIELDS)
    _check_model(document.get("model_name"), model.name)
    if "inputs" not in document:
        raise GatewayError(Cause.INVALID_INPUT, "field 'inputs' is missing; expected a list of tensors")
    spec, selection, parameters = split_parameters(model, parameters_of(document, "the body"))
    # How the answer travels is no business of the model's.
    parameters.pop(BINARY_OUTPUT, None)
    inputs = tuple([tensor_of(_described(item)) for item in _objects(document["inputs"], "inputs")])
    outputs = outputs_of(document)
    return InferenceRequest(
        model=spec,
        inputs=inputs,
        wanted=wanted_outputs(item.get("name") for item, _ in outputs) if outputs else (),
        parameters=parameters,
        id=request_id(document.get("id")),
        selection=selection,
    )


def contract_named(document: JsonObject, model: ModelSpec, contract_of: ContractOf) -> ModelContract:
    """The contract under the signature that a request names, if it does: its parameters are checked only later."""
    parameters = document.get("parameters")
    name = parameters.get("signature_name") if isinstance(parameters, dict) else None
    return contract_of(model.name, name) if isinstance(name, str) else contract_of(model.name)


def encode_response(response: InferenceResponse) -> bytes:
    """The answer, `data` flat in row-major order.

    Raises UNSUPPORTED_DATATYPE where an output holds what JSON cannot carry.
    """
    return dumped(answer_to(response, [encoded(tensor) for tensor in response.outputs]), response.outputs)


def answer_to(response: InferenceResponse, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON object that an answer is, around its encoded outputs."""
    document: dict[str, Any] = {"model_name": response.model}
    if response.version is not None:
        document["model_version"] = str(response.version)
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = dict(response.parameters)
    document["outputs"] = outputs
    return document


def encode_server_metadata(name: str, version: str, extensions: Sequence[str] = ()) -> bytes:
    """The answer to `GET /v2`."""
    return orjson.dumps({"name": name, "version": version, "extensions": list(extensions)})


def encode_model_metadata(metadata: ModelMetadata) -> bytes:
    """The answer to `GET /v2/models/{model}`; versions are strings, variable dimensions -1."""
    document: dict[str, Any] = {
        "name": metadata.name,
        "versions": [str(version) for version in metadata.versions],
        "platform": metadata.platform,
        "inputs": [spec.as_json() for spec in metadata.inputs],
        "outputs": [spec.as_json() for spec in metadata.outputs],
    }
    if metadata.properties:
        document["properties"] = dict(metadata.properties)
    return orjson.dumps(document)


def _check_model(stated: JsonValue, asked: str) -> None:
    """Raises INVALID_INPUT where the body names another model than the path.

    The protocol has no such field, but KServe's client writes it into every request.
    """
    if stated is not None and stated != asked:
        other = f"'{shown(stated)}'" if isinstance(stated, str) else "no name"
        raise GatewayError(
            Cause.INVALID_INPUT, f"field 'model_name' is {other}, but the path asks for '{shown(asked)}'; leave it out"
        )


def _objects(value: JsonValue, name: str) -> list[JsonObject]:
    # An array of objects has been read as a list; any other is a JsonArray, and right only if it is empty.
    items = value.as_list() if isinstance(value, JsonArray) else value
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise GatewayError(Cause.INVALID_INPUT, f"field '{name}': expected a list of objects")
    return items


def outputs_of(document: JsonObject) -> list[tuple[JsonObject, dict[str, Parameter]]]:
    """The outputs that a request asks for, each with its parameters; raises INVALID_INPUT."""
    outputs = _objects(document["outputs"], "outputs") if document.get("outputs") is not None else []
    found = []
    for item in outputs:
        refuse_unknown("an item of 'outputs'", item, _OUTPUT_FIELDS)
        parameters = parameters_of(item, "an item of 'outputs'")
        refuse_reserved("an item of 'outputs'", parameters)
        found.append((item, parameters))
    return found


def _described(item: JsonObject) -> Described:
    name = input_name(item.get("name"))
    what = f"input '{name}'"
    refuse_unknown(what, item, _INPUT_FIELDS)
    parameters = parameters_of(item, what)
    if parameters:
        refuse_reserved(what, parameters)
    size = parameters.get(BINARY_SIZE)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise GatewayError(Cause.INVALID_INPUT, f"{what}: expected 'binary_data_size' to be a number of bytes")
    datatype = item.get("datatype")
    if not isinstance(datatype, str):
        raise GatewayError(Cause.INVALID_INPUT, f"{what}: expected a datatype such as 'FP32'")
    numpy_dtype(datatype, name)
    return Described(name, datatype, _shape(item.get("shape"), what), size, item)


def from_data(described: Described) -> Tensor:
    """The tensor that an input's `data` is; raises INVALID_INPUT, and UNSUPPORTED_DATATYPE for 16-bit floats."""
    name, datatype, shape, item = described.name, described.datatype, described.shape, described.item
    what = f"input '{name}'"
    if described.size is not None:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"{what} has binary data, which comes behind the JSON; expected the header Inference-Header-Content-Length "
            "with the length of the JSON, or 'data'",
        )
    if datatype in SHORT_FLOATS:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"receiving {datatype} data via JSON is not supported; use binary tensor data, or raw contents over gRPC, "
            f"for {what}",
        )
    count = element_count(shape, name)
    if not isinstance(item.get("data"), JsonArray | list):
        raise GatewayError(Cause.INVALID_INPUT, f"{what}: expected 'data', a list of {count} elements, nested or flat")
    flat, nested = elements(item["data"], name, datatype)
    if flat.size != count:
        raise GatewayError(Cause.INVALID_INPUT, f"{what} holds {flat.size} elements; shape {list(shape)} takes {count}")
    # Below an empty list there is nothing to nest.
    agrees = nested == shape if count else nested == shape[: len(nested)]
    if len(nested) != 1 and not agrees:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"{what} is nested as {list(nested)}; expected data that is flat, or nested as its shape {list(shape)}",
        )
    return Tensor(name, datatype, flat.reshape(shape))


def _shape(value: JsonValue, what: str) -> tuple[int, ...]:
    dims = plain(value)
    if not isinstance(dims, list) or not {int}.issuperset(map(type, dims)):
        raise GatewayError(Cause.INVALID_INPUT, f"{what}: expected a shape, a list of integers")
    return tuple(dims)


def parameters_of(item: JsonObject, what: str) -> dict[str, Parameter]:
    """The `parameters` of a request or a tensor, `what` in messages; raises INVALID_INPUT for all but scalars."""
    value = item.get("parameters")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GatewayError(Cause.INVALID_INPUT, f"{what}: expected 'parameters' to be an object")
    return {name: parameter(name, item) for name, item in value.items()}


def encoded(tensor: Tensor) -> dict[str, Any]:
    """An output with its `data`, for `dumped`; raises UNSUPPORTED_DATATYPE where JSON cannot carry its datatype."""
    if tensor.datatype in SHORT_FLOATS:
        raise GatewayError(
            Cause.UNSUPPORTED_DATATYPE,
            f"sending {tensor.datatype} data via JSON is not supported; ask for output '{tensor.name}' as binary data "
            "(output parameter 'binary_data': true), or over gRPC",
        )
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": tensor.datatype,
        "data": written(tensor, flat=True),
    }
