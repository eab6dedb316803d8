"""JSON Schemas of what the REST front ends take and answer: the `components` of `/openapi.json`."""

from __future__ import annotations

from typing import Any

from gateway.core.contract import ModelContract
from gateway.core.messages import TensorSpec
from gateway.core.tensor import DATATYPES, FLOAT_DATATYPES

Schema = dict[str, Any]

# A larger example would be a wall of numbers.
MAX_EXAMPLE_ELEMENTS = 512


def _object(description: str, required: list[str], properties: dict[str, Schema], **more: object) -> Schema:
    return {"type": "object", "description": description, "required": required, "properties": properties, **more}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema, description: str = "") -> Schema:
    return {"type": "array", "items": items, **({"description": description} if description else {})}


_DATATYPE: Schema = {"type": "string", "enum": sorted(DATATYPES), "description": "An Open Inference Protocol datatype."}
_SHAPE: Schema = _list({"type": "integer"}, "All dimensions, the batch included.")
_PARAMETERS: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
    "description": "Of a request: stack, endpoint, variant, label, version and signature_name choose who answers.",
}
_NESTED: Schema = {"type": "array", "items": {}, "description": "A nested list, as deep as the tensor has dimensions."}
_CHOICES: dict[str, Schema] = {
    "stack": _text("The stack that must answer, such as torchserve, tfserving or oip."),
    "endpoint": _text("The endpoint that must answer, by its name in the gateway's configuration."),
    "variant": _text("The variant that must answer, such as torchscript, int8-dynamic or savedmodel."),
    "label": _text("A version label, instead of a version."),
    "version": {"type": "integer", "minimum": 0, "description": "The version; without it the server's newest."},
    "outputs": _list({"type": "string"}, "The outputs wanted; without it all of them."),
    "id": _text("Comes back with the answer."),
}


def _tensor(description: str, data_required: bool) -> Schema:
    required = ["name", "shape", "datatype"] + (["data"] if data_required else [])
    properties = {
        "name": _text("The tensor's name."),
        "shape": _SHAPE,
        "datatype": _DATATYPE,
        "parameters": _PARAMETERS,
        "data": {**_NESTED, "description": "The elements, nested or flat in row-major order."},
    }
    return _object(description, required, properties, additionalProperties=False)


COMPONENTS: dict[str, Schema] = {
    "PredictRequest": _object(
        "One inference. The datatypes are those of the model's contract.",
        ["inputs"],
        {
            "model": _text("The model's name; not needed where the path has it."),
            "inputs": {
                "description": "The inputs by name, or the one input of a model that has one.",
                "oneOf": [{"type": "object", "additionalProperties": {}}, _NESTED],
            },
            **_CHOICES,
        },
        additionalProperties=False,
    ),
    "PredictResponse": _object(
        "The outputs, and what gave them.",
        ["model", "outputs"],
        {
            "model": _text("The model's name."),
            "version": {"type": ["integer", "null"], "description": "The version that answered."},
            "stack": {"type": ["string", "null"], "description": "The stack that answered."},
            "variant": {"type": ["string", "null"], "description": "The variant that answered, where it is known."},
            "outputs": {"type": "object", "additionalProperties": {}, "description": "The outputs by name."},
            "id": {"type": ["string", "null"], "description": "The request's id, where it had one."},
            "comparison": _list(
                _ref("Compared"), "Where the model's policy is compare: what each target gave, the answer's first."
            ),
        },
    ),
    "Compared": _object(
        "What one target gave in a comparison: outputs and their distance from the answer's, or an error.",
        ["endpoint", "stack", "ms"],
        {
            "endpoint": _text("The endpoint that was asked."),
            "stack": _text("Its stack."),
            "server": {"type": ["string", "null"], "description": "The program that answered, with its version."},
            "version": {"type": ["integer", "null"], "description": "The version that answered."},
            "ms": {"type": "number", "description": "How long it took, in milliseconds."},
            "outputs": {"type": "object", "additionalProperties": {}, "description": "Its outputs by name."},
            "difference": {
                "type": "object",
                "description": "max |a - b|, max |a - b| / (1 + |b|) (null: not comparable), and the verdict.",
            },
            "error": {"type": "object", "description": "Why it gave none: cause and detail."},
        },
    ),
    "Problem": _object(
        "An error, as application/problem+json (RFC 9457).",
        ["type", "title", "status", "detail", "cause", "request_id"],
        {
            "type": _text("A URN of the cause."),
            "title": _text("The cause in words."),
            "status": {"type": "integer", "description": "The HTTP status."},
            "detail": _text("What was wrong and what was expected."),
            "cause": _text("The cause, from a closed list."),
            "request_id": _text("The id to ask about; the log has it too."),
        },
    ),
    "OipTensor": _tensor("A named tensor of a request; `data`, or behind the JSON `binary_data_size` bytes.", False),
    "OipOutputTensor": _tensor("A named tensor of an answer; `data`, or bytes behind the JSON, as wished.", False),
    "OipInferRequest": _object(
        "One inference, after the Open Inference Protocol v2.",
        ["inputs"],
        {
            "id": _text("Comes back with the answer."),
            "model_name": _text("The path's model again, or nothing."),
            "parameters": _PARAMETERS,
            "inputs": _list(_ref("OipTensor")),
            "outputs": _list(
                _object(
                    "An output wanted.",
                    ["name"],
                    {"name": _text("Its name."), "parameters": _PARAMETERS},
                    additionalProperties=False,
                ),
                "Without it all outputs come back.",
            ),
        },
        additionalProperties=False,
    ),
    "OipInferResponse": _object(
        "The outputs of one inference.",
        ["model_name", "outputs"],
        {
            "model_name": _text("The model's name."),
            "model_version": _text("The version that answered."),
            "id": _text("The request's id, where it had one."),
            "parameters": _PARAMETERS,
            "outputs": _list(_ref("OipOutputTensor")),
        },
    ),
    "OipError": _object("An error.", ["error"], {"error": _text("What was wrong and what was expected.")}),
    "RepositoryIndexRequest": _object(
        "What to list.", [], {"ready": {"type": "boolean", "description": "Only what can answer now."}}
    ),
    "RepositoryIndex": _list(
        _object(
            "A model, and a version of it where one can answer.",
            ["name", "state", "reason"],
            {
                "name": _text("The model's name."),
                "version": _text("The version; missing where none can answer."),
                "state": {"type": "string", "enum": ["READY", "UNAVAILABLE"]},
                "reason": _text("Why it is not ready."),
            },
        )
    ),
    "OipServerMetadata": _object(
        "What answers here.",
        ["name", "version", "extensions"],
        {"name": _text("The server."), "version": _text("Its version."), "extensions": _list({"type": "string"})},
    ),
    "OipModelMetadata": _object(
        "A model's versions and tensors.",
        ["name", "platform"],
        {
            "name": _text("The model's name."),
            "versions": _list({"type": "string"}, "Newest first."),
            "platform": _text("For information only."),
            "inputs": _list(_ref("OipTensorMetadata")),
            "outputs": _list(_ref("OipTensorMetadata")),
            "properties": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    ),
    "OipTensorMetadata": _object(
        "A tensor; -1 is a variable dimension.",
        ["name", "datatype", "shape"],
        {"name": _text("The tensor's name."), "datatype": _DATATYPE, "shape": _SHAPE},
    ),
    "TorchServeRequest": {
        "description": "A list of instances, an object with inputs or instances, or an Open Inference Protocol body.",
        "oneOf": [
            _NESTED,
            _object(
                "Inputs by name, the one input of a model that has one, or tensors after the Open Inference Protocol.",
                ["inputs"],
                {"inputs": {}, "id": _CHOICES["id"], "outputs": _list({}), "parameters": _PARAMETERS},
                additionalProperties=False,
            ),
            _object(
                "Values of the one input, or objects with a value for each input.",
                ["instances"],
                {"instances": _NESTED, "id": _CHOICES["id"], "outputs": _list({}), "parameters": _PARAMETERS},
                additionalProperties=False,
            ),
        ],
    },
    "TorchServeResponse": {
        "description": "Outputs for inputs, predictions for instances, a list for a list; a raw body's one prediction."
    },
    "TorchServeError": _object(
        "An error; empty where the body was too large.",
        ["code", "type", "message"],
        {
            "code": {"type": "integer", "description": "The HTTP status."},
            "type": _text("The name of TorchServe's exception."),
            "message": _text("What was wrong and what was expected."),
        },
    ),
    "TorchServeHealth": _object(
        "Whether every model can answer.", ["status"], {"status": _text("Healthy or Unhealthy.")}
    ),
    "TorchServeModels": _object(
        "A page of models.",
        ["models"],
        {
            "nextPageToken": _text("What asks for the next page; missing on the last one."),
            "models": _list(
                _object(
                    "A model.",
                    ["modelName", "modelUrl"],
                    {"modelName": _text("Its name."), "modelUrl": _text("Where it is described.")},
                )
            ),
        },
    ),
    "TorchServeModel": _list(
        _object(
            "One version; its one worker is the gateway, and there is none where nothing can answer.",
            ["modelName", "modelVersion", "workers"],
            {
                "modelName": _text("The model's name."),
                "modelVersion": _text("The version."),
                "workers": _list({"type": "object"}),
            },
        )
    ),
    "Live": _object("The process turns.", ["live"], {"live": {"type": "boolean"}}),
    "Ready": _object("Whether requests are taken.", ["ready"], {"ready": {"type": "boolean"}}),
    "ModelReady": _object(
        "Whether the model can answer.", ["name", "ready"], {"name": _text("Its name."), "ready": {"type": "boolean"}}
    ),
}


def predict_example(contract: ModelContract, *, named: bool) -> Schema | None:
    """A body of `/predict` that the model answers, or None where it would be too long to show."""
    inputs: dict[str, Any] = {}
    for spec in contract.inputs:
        data = _nested(spec)
        if data is None:
            return None
        inputs[spec.name] = data if spec.shape else data[0]
    return {**({"model": contract.name} if named else {}), "inputs": inputs}


def oip_example(contract: ModelContract) -> Schema | None:
    """A body of the Open Inference Protocol's infer route, or None where it would be too long to show."""
    inputs = []
    for spec in contract.inputs:
        data = _nested(spec)
        # FP16 and BF16 have no JSON form in the protocol.
        if data is None or spec.datatype in ("FP16", "BF16"):
            return None
        inputs.append({"name": spec.name, "shape": _one_row(spec), "datatype": spec.datatype, "data": data})
    return {"inputs": inputs}


def _one_row(spec: TensorSpec) -> list[int]:
    return [1 if dim == -1 else dim for dim in spec.shape]


def _nested(spec: TensorSpec) -> list[Any] | None:
    """One row's elements, nested as its shape; a scalar as a list of one, as the protocol has it."""
    shape = _one_row(spec)
    count = 1
    for dim in shape:
        count *= dim
    if count > MAX_EXAMPLE_ELEMENTS:
        return None
    values: list[Any] = [_element(spec.datatype, index) for index in range(count)]
    for dim in reversed(shape[1:]):
        values = [values[start : start + dim] for start in range(0, len(values), dim)] if dim else []
    return values


def _element(datatype: str, index: int) -> bool | int | float | str:
    match datatype:
        case "BOOL":
            return index % 2 == 1
        case "BYTES":
            return "text"
        case _ if datatype in FLOAT_DATATYPES:
            return index % 10 / 10
        case _:
            return index % 10
