"""The bodies that TorchServe's clients send, which TorchServe itself leaves to a model's handler.

Four JSON forms, each answered in kind: `{"inputs": ..}` by `{"outputs": {..}}`, `{"instances": [..]}` (KServe v1) by
`{"predictions": [..]}`, a bare list of instances by a bare list, and an Open Inference Protocol request by its
response. A model whose only input is one BYTES element also takes the raw body, which a handler gets as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import orjson

from gateway.codecs import oip_json
from gateway.codecs.fields import parameter, refuse_unknown, request_id, shown, wanted_outputs
from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import JsonObject, JsonValue, plain, read_value
from gateway.codecs.json_small import MAX_BYTES
from gateway.codecs.json_tensors import (
    dumped,
    tensor_from_json,
    tensor_from_text,
    tensor_to_text,
    to_json_array,
    written,
)
from gateway.codecs.selection import split_parameters
from gateway.core.contract import ContractOf, ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse, ModelSpec
from gateway.core.tensor import Tensor

JSON = "application/json"
OCTET_STREAM = "application/octet-stream"

# What TorchServe's own handlers call their one input.
KEYS = ("data", "body")

# TorchServe's archiver writes 1.0 where nothing else is said; to the gateway both are version 1.
_VERSION = re.compile(r"(0|[1-9][0-9]{0,17})(\.0)?")
# Form -> the fields of its object.
_FIELDS = {form: frozenset({form, "id", "outputs", "parameters"}) for form in ("inputs", "instances")}
_FORMS = '{"inputs": ..}, {"instances": [..]}, a list of instances, or an Open Inference Protocol request'


class Form(Enum):
    """How a request was put, and so how its answer is."""

    INPUTS = "inputs"
    INSTANCES = "instances"
    LIST = "list"
    OIP = "oip"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request and its form. `batched`: dimension 0 of the model's tensors counts instances."""

    request: InferenceRequest
    form: Form
    batched: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """The body of an answer, and its content type."""

    body: bytes
    media_type: str


def model_spec(model: str, version: str, names: Mapping[str, int]) -> ModelSpec:
    """A model and its version as clients write them: `N`, `N.0`, one of `names`, or '' for any.

    `names` are the numbers of version names that are none. Raises VERSION_NOT_FOUND.
    """
    if not version:
        return ModelSpec(model)
    if version in names:
        return ModelSpec(model, names[version])
    match = _VERSION.fullmatch(version)
    if match is None:
        raise GatewayError(
            Cause.VERSION_NOT_FOUND, f"Model version: {shown(version)} does not exist for model: {shown(model)}"
        )
    return ModelSpec(model, int(match[1]))


def only_body(fields: Mapping[str, bytes]) -> bytes:
    """The body, from named ones as a form or a gRPC message has them; raises INVALID_INPUT for other keys or more."""
    names = list(fields)
    if len(names) != 1 or names[0] not in KEYS:
        found = ", ".join(f"'{shown(name)}'" for name in sorted(names)[:4]) or "nothing"
        raise GatewayError(
            Cause.INVALID_INPUT, f"input: expected the body under one of the keys 'data' and 'body', found {found}"
        )
    return fields[names[0]]


def takes_raw(contract: ModelContract) -> bool:
    """Whether the model's only input is BYTES and can be one element: then a body may be just that element."""
    spec = contract.inputs[0]
    return len(contract.inputs) == 1 and spec.datatype == "BYTES" and all(dim in (-1, 1) for dim in spec.shape)


def decode_raw(body: bytes, model: ModelSpec, contract: ModelContract) -> Decoded:
    """The request of a model that `takes_raw` whose one element is `body`."""
    spec = contract.inputs[0]
    element = np.empty(1, dtype=object)
    element[0] = body
    tensor = Tensor(spec.name, "BYTES", element.reshape((1,) * len(spec.shape)))
    return Decoded(InferenceRequest(model, (tensor,)), Form.RAW, contract.batch_cap is not None)


def decode_json(body: bytes, model: ModelSpec, contract_of: ContractOf) -> Decoded:
    """The request that `body` is, to the model and version of the path.

    Objects may also have `id`, `outputs` (names) and `parameters`, as in the Open Inference Protocol. Raises
    UNPARSEABLE, INVALID_INPUT naming the input or the forms, VERSION_NOT_FOUND, UNSUPPORTED_DATATYPE for 16-bit floats
    in an Open Inference Protocol request, and MODEL_NOT_FOUND from `contract_of`.
    """
    contract = contract_of(model.name)
    if len(contract.inputs) == 1 and len(body) <= MAX_BYTES and body.startswith(b"[["):
        try:
            return _listed((tensor_from_text(body, contract.inputs[0]),), model, contract)
        except GatewayError:
            # Whatever it is refused for is for the reading of every form to say.
            pass
    return read_value(body, lambda document: _decoded(document, body, model, contract, contract_of))


def encode_response(response: InferenceResponse, decoded: Decoded) -> Encoded:
    """The answer in the form that was asked.

    A raw request's is one BYTES element as it is, or else its one prediction as JSON. Raises UNSUPPORTED_DATATYPE
    where an output holds what JSON cannot carry, UPSTREAM_BAD_REPLY where outputs differ in instances.
    """
    outputs = response.outputs
    if decoded.form is Form.OIP:
        return Encoded(oip_json.encode_response(response), JSON)
    if decoded.form is Form.RAW:
        if len(outputs) == 1 and outputs[0].datatype == "BYTES" and outputs[0].array.size == 1:
            return Encoded(outputs[0].array.flat[0], OCTET_STREAM)
        one = orjson.dumps(_prediction(outputs, decoded.batched), option=orjson.OPT_SERIALIZE_NUMPY)
        return Encoded(one, JSON)
    if decoded.form is Form.LIST:
        alone = len(outputs) == 1
        return Encoded(tensor_to_text(outputs[0]) if alone else dumped(_predictions(outputs), outputs), JSON)
    document: dict[str, Any] = {"id": response.id} if response.id else {}
    if decoded.form is Form.INSTANCES:
        document["predictions"] = _predictions(outputs)
    else:
        document["outputs"] = {tensor.name: written(tensor) for tensor in outputs}
    return Encoded(dumped(document, outputs), JSON)


def _decoded(
    document: JsonValue, body: bytes, model: ModelSpec, contract: ModelContract, contract_of: ContractOf
) -> Decoded:
    batched = contract.batch_cap is not None
    if isinstance(document, (JsonArray, list)):
        return _listed(_instances(document, contract, "the list"), model, contract)
    if not isinstance(document, dict) or ("inputs" in document) is ("instances" in document):
        raise GatewayError(Cause.INVALID_INPUT, f"the body is in none of the known forms; expected {_FORMS}")
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, (JsonArray, list)):
            raise GatewayError(Cause.INVALID_INPUT, "field 'instances': expected a list")
        request = _request(document, "instances", model, _instances(instances, contract, "field 'instances'"))
        _check_rows(request, contract)
        return Decoded(request, Form.INSTANCES, batched)
    if _described(document["inputs"]):
        return Decoded(oip_json.decode_request(body, model, contract_of), Form.OIP, batched)
    request = _request(document, "inputs", model, _inputs(document["inputs"], contract))
    return Decoded(request, Form.INPUTS, batched)


def _listed(inputs: tuple[Tensor, ...], model: ModelSpec, contract: ModelContract) -> Decoded:
    request = InferenceRequest(model, inputs)
    _check_rows(request, contract)
    return Decoded(request, Form.LIST, contract.batch_cap is not None)


def _request(document: JsonObject, form: str, model: ModelSpec, inputs: tuple[Tensor, ...]) -> InferenceRequest:
    refuse_unknown("the body", document, _FIELDS[form])
    given = document.get("parameters")
    if given is not None and not isinstance(given, dict):
        raise GatewayError(Cause.INVALID_INPUT, "field 'parameters': expected an object")
    values = {name: parameter(name, value) for name, value in (given or {}).items()}
    spec, selection, parameters = split_parameters(model, values)
    wanted = document.get("outputs")
    if wanted is not None and not isinstance(wanted, JsonArray | list):
        raise GatewayError(Cause.INVALID_INPUT, "field 'outputs': expected a list of output names")
    return InferenceRequest(
        model=spec,
        inputs=inputs,
        wanted=() if wanted is None else wanted_outputs(plain(wanted)),
        parameters=parameters,
        id=request_id(document.get("id")),
        selection=selection,
    )


def _described(inputs: JsonValue) -> bool:
    """Whether `inputs` are the Open Inference Protocol's: a list of objects that state their datatypes."""
    return isinstance(inputs, list) and any(isinstance(item, dict) for item in inputs)


def _inputs(value: JsonValue, contract: ModelContract) -> tuple[Tensor, ...]:
    if isinstance(value, dict):
        return tuple(tensor_from_json(item, contract.input(name)) for name, item in value.items())
    if len(contract.inputs) != 1:
        raise GatewayError(
            Cause.INVALID_INPUT, f"field 'inputs': expected an object with a nested list for each of {_names(contract)}"
        )
    return (tensor_from_json(value, contract.inputs[0]),)


def _instances(value: JsonArray | list[Any], contract: ModelContract, what: str) -> tuple[Tensor, ...]:
    """The inputs, dimension 0 counting the instances: values of the one input, or objects with a value for each."""
    objects = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    if not objects:
        empty = isinstance(value, JsonArray) and value.shape[0] == 0
        if len(contract.inputs) != 1 and not empty:
            raise GatewayError(
                Cause.INVALID_INPUT, f"{what}: expected objects with a value for each of {_names(contract)}"
            )
        return tuple(tensor_from_json(value, spec) for spec in contract.inputs)
    if contract.batch_cap is None:
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"model '{contract.name}' takes no instances; expected {{\"inputs\": {{..}}}}",
        )
    names = objects[0].keys()
    if not isinstance(value, list) or len(objects) != len(value) or any(item.keys() != names for item in objects):
        raise GatewayError(Cause.INVALID_INPUT, f"{what}: expected objects that all have the same inputs")
    return tuple(tensor_from_json([item[name] for item in objects], contract.input(name)) for name in names)


def _check_rows(request: InferenceRequest, contract: ModelContract) -> None:
    """Refuses, before anything is sent, a form that the model's outputs cannot be answered in."""
    outputs = [spec for spec in contract.outputs if not request.wanted or spec.name in request.wanted]
    if any(not spec.shape for spec in outputs) or (len(outputs) > 1 and contract.batch_cap is None):
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"the outputs of model '{contract.name}' have no dimension of instances; expected {{\"inputs\": ..}}",
        )


def _predictions(outputs: tuple[Tensor, ...]) -> object:
    """One value for each instance, or one object where there are several outputs; for `dumped`."""
    if len(outputs) == 1:
        return written(outputs[0])
    columns: dict[str, Any] = {tensor.name: written(tensor) for tensor in outputs}
    counts = {tensor.shape[:1] for tensor in outputs}
    if len(counts) != 1 or () in counts:
        raise GatewayError(Cause.UPSTREAM_BAD_REPLY, "the model's outputs differ in their number of instances")
    return [{name: column[row] for name, column in columns.items()} for row in range(outputs[0].shape[0])]


def _prediction(outputs: tuple[Tensor, ...], batched: bool) -> object:
    """The prediction of a request that was one instance: the one row, where rows count instances."""
    whole: dict[str, Any] = {tensor.name: to_json_array(tensor) for tensor in outputs}
    first = {name: value[0] for name, value in whole.items()} if batched else whole
    return next(iter(first.values())) if len(first) == 1 else first


def _names(contract: ModelContract) -> str:
    return ", ".join(f"'{spec.name}'" for spec in contract.inputs)
