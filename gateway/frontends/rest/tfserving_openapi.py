"""What `/openapi.json` says of TF Serving's door."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from gateway.core.contract import ModelContract
from gateway.frontends.edge import SELECTION_HEADERS
from gateway.frontends.rest.errors import TFSERVING_SHAPE
from gateway.frontends.rest.openapi import RawRoute, json_answer
from gateway.frontends.rest.schemas import Schema, predict_example
from gateway.frontends.rest.tfserving import PREDICT_PATHS

_TAG = "TensorFlow Serving"
_CHOICES = ("", "/versions/{version}", "/labels/{label}")


def _object(description: str, required: list[str], properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "description": description, "required": required, "properties": properties}


_ANYTHING: Schema = {"description": "A value, a nested list, {'b64': text}, or an object of them by name."}
TFSERVING_COMPONENTS: dict[str, Schema] = {
    "TfServingPredictRequest": _object(
        "Exactly one of 'instances', a list of rows, and 'inputs', whole tensors.",
        [],
        {"signature_name": {"type": "string"}, "instances": {"type": "array", "items": {}}, "inputs": _ANYTHING},
    ),
    "TfServingPredictResponse": _object(
        "'predictions' where rows were asked, 'outputs' else; a single output goes without its name.",
        [],
        {"predictions": {"type": "array", "items": {}}, "outputs": _ANYTHING},
    ),
    "TfServingStatus": _object(
        "A model's versions.",
        ["model_version_status"],
        {
            "model_version_status": {
                "type": "array",
                "items": _object(
                    "A version.",
                    ["version", "state", "status"],
                    {"version": {"type": "string"}, "state": {"type": "string"}, "status": {"type": "object"}},
                ),
            }
        },
    ),
    "TfServingMetadata": _object(
        "A model's signature.",
        ["model_spec", "metadata"],
        {name: {"type": "object"} for name in ("model_spec", "metadata")},
    ),
    "TfServingError": _object("An error.", ["error"], {"error": {"type": "string"}}),
}


def predict_routes(endpoint: ASGIApp) -> list[RawRoute]:
    """The routes of `:predict`."""
    return [
        RawRoute(
            path=path,
            endpoint=endpoint,
            tag=_TAG,
            summary="One inference, as TensorFlow Serving takes it",
            description="Rows or columns; datatypes are those of the model's contract. A gzip body is inflated.",
            request="TfServingPredictRequest",
            response="TfServingPredictResponse",
            error="TfServingError",
            errors=TFSERVING_SHAPE,
            example=_example,
        )
        for path in PREDICT_PATHS
    ]


def about_paths() -> dict[str, Any]:
    """The paths of status and metadata."""
    return {
        f"/v1/models/{{model}}{choice}{end}": {"get": _about(choice, end)}
        for end in ("", "/metadata")
        for choice in _CHOICES
    }


def _about(choice: str, end: str) -> dict[str, Any]:
    in_path = ["model", *(name for name in ("version", "label") if name in choice)]
    schema, what = ("TfServingMetadata", "Tensors") if end else ("TfServingStatus", "States")
    return {
        "tags": [_TAG],
        "operationId": f"get{schema}{in_path[-1].capitalize()}",
        "summary": f"{what} of a model, as TensorFlow Serving tells them",
        "parameters": [
            {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
            for where, names in (("path", in_path), ("header", SELECTION_HEADERS))
            for name in names
        ],
        "responses": {
            "200": json_answer(schema, "The model."),
            "400": json_answer("TfServingError", "Cause: invalid_input, label_not_found, route_not_found."),
            "404": json_answer("TfServingError", "Cause: model_not_found, version_not_found."),
            "500": json_answer("TfServingError", "An error of the gateway."),
            "503": json_answer("TfServingError", "Cause: not_ready."),
        },
    }


def _example(contract: ModelContract) -> Schema | None:
    if any(spec.datatype in ("FP16", "BF16", "UINT16") for spec in contract.inputs):
        return None
    return predict_example(contract, named=False)
