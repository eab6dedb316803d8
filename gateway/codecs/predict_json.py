"""The gateway's own JSON: `POST /predict`, inputs as nested lists, datatypes and shapes from the model's contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isfinite

import orjson

from gateway.codecs.fields import choice, refuse_unknown, request_id, shown, wanted_outputs
from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import JsonObject, JsonValue, plain, read_object
from gateway.codecs.json_tensors import (
    Around,
    dumped,
    only_row,
    tensor_from_json,
    tensor_to_text,
    to_json_array,
    written,
)
from gateway.codecs.selection import version_number
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import (
    ANYWHERE,
    Compared,
    InferenceRequest,
    InferenceResponse,
    ModelSpec,
    Selection,
    TensorSpec,
)
from gateway.core.tensor import Tensor

_INPUTS = b'{"inputs":'
_END = b'},"id":%b}'
FIELDS = frozenset({"endpoint", "id", "inputs", "label", "model", "outputs", "stack", "variant", "version"})


def decode_request(
    body: bytes, contract_of: Callable[[str], ModelContract], model: str | None = None
) -> InferenceRequest:
    """The request that `body` is; `model` is the name in the path, where there is one.

    Raises UNPARSEABLE, INVALID_INPUT naming the field or input, VERSION_NOT_FOUND, and MODEL_NOT_FOUND from
    `contract_of`.
    """
    if model is not None and body.startswith(_INPUTS):
        # What most send, and nothing but it.
        try:
            contract = contract_of(model)
        except GatewayError:
            # What is wrong with the body comes first.
            pass
        else:
            specs = contract.inputs
            # Of another rank, a row may be an instance without its batch.
            row = (
                only_row(body, _forms(specs[0].name), specs[0])
                if len(specs) == 1 and len(specs[0].shape) == 2
                else None
            )
            if row is not None:
                return InferenceRequest(_named(model), (row,))
    return read_object(body, lambda document: _request(document, contract_of, model))


def encode_response(response: InferenceResponse) -> bytes:
    """The answer: model, version, stack, variant, outputs as nested lists, the request's id or null, any comparison.

    Raises UNSUPPORTED_DATATYPE where an output holds what JSON cannot carry.
    """
    served_by = response.served_by
    version = response.version
    if version is None and served_by is not None:
        version = served_by.version
    if served_by is not None and len(response.outputs) == 1 and not response.comparison:
        tensor = response.outputs[0]
        begin = _begin(response.model, version, served_by.stack, served_by.variant, tensor.name)
        end = _END % orjson.dumps(response.id) if response.id else _END % b"null"
        return begin + tensor_to_text(tensor) + end
    document: dict[str, object] = {
        "model": response.model,
        "version": version,
        "stack": None if served_by is None else served_by.stack,
        "variant": None if served_by is None else served_by.variant,
        "outputs": {tensor.name: written(tensor) for tensor in response.outputs},
        "id": response.id or None,
    }
    nulls = list(document.values()).count(None)
    if response.comparison:
        document["comparison"] = [_compared(each) for each in response.comparison]
    return dumped(document, response.outputs, nulls)


# Specs that are the same object are found by a dictionary without a comparison.
_named = lru_cache(maxsize=1024)(ModelSpec)


@lru_cache(maxsize=1024)
def _forms(name: str) -> tuple[Around, ...]:
    """What clients write around the only input of a model: it by its name, with and without spaces, or by itself."""
    named = orjson.dumps({name: 0})[: -len(b"0}")]
    return (_INPUTS + b" " + named, b"}}"), (_INPUTS + named, b"}}"), (_INPUTS, b"}")


@lru_cache(maxsize=1024)
def _begin(model: str, version: int | None, stack: str, variant: str | None, output: str) -> bytes:
    """How an answer of one output begins: all that comes before its numbers."""
    document = {"model": model, "version": version, "stack": stack, "variant": variant, "outputs": {output: 0}}
    return orjson.dumps(document)[: -len(b"0}}")]


def _request(
    document: JsonObject, contract_of: Callable[[str], ModelContract], in_path: str | None
) -> InferenceRequest:
    refuse_unknown("the body", document, FIELDS)
    spec = _model_spec(document, in_path)
    contract = contract_of(spec.name)
    if "inputs" not in document:
        raise GatewayError(Cause.INVALID_INPUT, f"field 'inputs' is missing; expected {_expected(contract)}")
    return InferenceRequest(
        model=spec,
        inputs=_inputs(document["inputs"], contract),
        wanted=_wanted(document.get("outputs")),
        id=request_id(document.get("id")),
        selection=_selection(document),
    )


def _compared(target: Compared) -> dict[str, object]:
    """One target's answer, its time in milliseconds and its distance from the primary's; or its error."""
    served_by = target.served_by
    told: dict[str, object] = {
        "endpoint": target.endpoint,
        "stack": target.stack,
        "server": None if served_by is None else served_by.server,
        "version": None if target.response is None else target.response.version,
        "ms": round(target.seconds * 1e3, 3),
    }
    if target.response is None:
        cause = None if target.cause is None else target.cause.value
        return {**told, "error": {"cause": cause, "detail": target.detail}}
    try:
        outputs = {tensor.name: to_json_array(tensor) for tensor in target.response.outputs}
    except GatewayError as exc:
        # What JSON cannot carry costs this target's outputs, not the primary's answer.
        return {**told, "error": {"cause": exc.cause.value, "detail": exc.detail}}
    # JSON has no infinity: null is a distance that cannot be stated, of answers that cannot be subtracted.
    distance = {"max_abs": _finite(target.max_abs), "max_scaled": _finite(target.max_scaled), "agrees": target.agrees}
    return {**told, "outputs": outputs, "difference": distance}


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None


def _given(document: JsonObject, name: str) -> bool:
    # Clients that fill a template send null for what they leave open.
    return document.get(name) is not None


def _model_spec(document: JsonObject, in_path: str | None) -> ModelSpec:
    name = in_path
    if _given(document, "model"):
        name = choice("model", document["model"])
        if in_path not in (None, name):
            raise GatewayError(
                Cause.INVALID_INPUT, f"field 'model' says '{shown(name)}', the path another model; expected one of them"
            )
    if name is None:
        raise GatewayError(Cause.INVALID_INPUT, "field 'model' is missing; expected the name of a model")
    version = None
    if _given(document, "version"):
        if type(document["version"]) is not int:
            raise GatewayError(Cause.INVALID_INPUT, "field 'version': expected an integer")
        version = version_number(document["version"], name)
    label = choice("label", document["label"]) if _given(document, "label") else None
    if version is not None and label is not None:
        raise GatewayError(Cause.INVALID_INPUT, "fields 'version' and 'label' exclude each other; expected one of them")
    return ModelSpec(name, version, label)


def _selection(document: JsonObject) -> Selection:
    named = {name: choice(name, document[name]) for name in ("stack", "endpoint", "variant") if _given(document, name)}
    return Selection(**named) if named else ANYWHERE


def _inputs(value: JsonValue, contract: ModelContract) -> tuple[Tensor, ...]:
    if not isinstance(value, dict):
        if len(contract.inputs) != 1:
            raise GatewayError(Cause.INVALID_INPUT, f"field 'inputs': expected {_expected(contract)}")
        value = {contract.inputs[0].name: value}
    return tuple(_input(item, contract.input(name), contract) for name, item in value.items())


def _input(value: JsonValue, spec: TensorSpec, contract: ModelContract) -> Tensor:
    if value is None:
        raise GatewayError(Cause.INVALID_INPUT, f"input '{spec.name}' is null; expected {_described(spec)}")
    tensor = tensor_from_json(value, spec)
    # One instance without its batch dimension is a common slip; guessing it would hide the others.
    row = spec.shape[1:]
    if contract.batch_cap is not None and len(tensor.shape) == len(row) and _fits(tensor.shape, row):
        raise GatewayError(
            Cause.INVALID_INPUT,
            f"input '{spec.name}' has shape {list(tensor.shape)}; expected {list(spec.shape)}: dimension 0 is the "
            "batch, so wrap a single instance in a list",
        )
    return tensor


def _fits(shape: tuple[int, ...], row: tuple[int, ...]) -> bool:
    return all(want in (-1, dim) for dim, want in zip(shape, row, strict=True))


def _wanted(value: JsonValue) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (JsonArray, list)):
        raise GatewayError(Cause.INVALID_INPUT, "field 'outputs': expected a list of output names")
    return wanted_outputs(plain(value))


def _expected(contract: ModelContract) -> str:
    inputs = ", ".join(f"'{spec.name}' ({_described(spec)})" for spec in contract.inputs)
    if len(contract.inputs) == 1:
        return f"a nested list, or an object with input {inputs}"
    return f"an object with a nested list for each of the inputs {inputs}"


def _described(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"
