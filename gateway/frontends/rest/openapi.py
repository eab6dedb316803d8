"""The OpenAPI of the raw ASGI routes, generated from their route table: FastAPI cannot see into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from starlette.types import ASGIApp

from gateway.codecs import multipart, torchserve_json
from gateway.codecs.oip_binary import LENGTH_HEADER
from gateway.core.contract import ModelContract
from gateway.core.errors import Cause
from gateway.frontends.edge import MILLISECONDS, SELECTION_HEADERS
from gateway.frontends.rest.errors import JSON, OCTETS, ErrorShape
from gateway.frontends.rest.schemas import Schema

# What an operation cannot answer: these belong to other paths and methods, to nobody who still listens, or to
# keys and rates, which this gateway does not ask for.
_NEVER = frozenset(
    {
        Cause.ROUTE_NOT_FOUND,
        Cause.METHOD_NOT_ALLOWED,
        Cause.CLIENT_GONE,
        Cause.UNAUTHENTICATED,
        Cause.FORBIDDEN,
        Cause.RATE_LIMITED,
    }
)

_PATH_PARAMETERS = {
    "model": "The model's name.",
    "version": "The version, a whole number.",
    "label": "The version's label.",
}
_WORD = re.compile(r"\w+")
_HEADERS = {
    "x-request-id": "Comes back with the answer and is in the gateway's log; made up where it is missing.",
    "x-request-timeout-ms": "How long the answer may take, in milliseconds; capped.",
    **{name: f"The {field} that must answer." for name, field in SELECTION_HEADERS.items()},
}
_ANSWER_HEADERS = {
    "x-request-id": "The request's id.",
    "Server-Timing": "Milliseconds of decode, queue, upstream, encode and total.",
}
_LENGTH = {
    LENGTH_HEADER: "How many bytes of the body are JSON, where the rest is binary data of the tensors that have "
    "`binary_data_size`."
}
# What may stand in a header, beyond any text.
_HEADER_SCHEMAS: dict[str, dict[str, Any]] = {
    "x-request-timeout-ms": {"pattern": rf"^{MILLISECONDS.pattern}$"},
    LENGTH_HEADER: {"pattern": "^[1-9][0-9]{0,17}$"},
    **{name: {"minLength": 1} for name in SELECTION_HEADERS},
}
# A JSON header, then the tensors' bytes; or whatever a model takes: no schema can say more of it.
_BYTES: dict[str, Any] = {"type": "string", "format": "binary"}
_OCTETS: dict[str, Any] = {OCTETS: {"schema": _BYTES}}
_FORM: dict[str, Any] = {
    multipart.MEDIA_TYPE: {
        "schema": {
            "type": "object",
            "properties": dict.fromkeys(torchserve_json.KEYS, _BYTES),
            "minProperties": 1,
            "maxProperties": 1,
        }
    }
}
_SERVED_BY = {"x-served-by": "The endpoint, stack, server, version and variant that gave this answer."}


@dataclass(frozen=True, slots=True)
class RawRoute:
    """One inference route: where it is, what serves it, and what its OpenAPI says. Schemas are component names."""

    path: str
    endpoint: ASGIApp
    tag: str
    summary: str
    description: str
    request: str
    response: str
    error: str
    errors: ErrorShape
    example: Callable[[ModelContract], Schema | None]
    binary: bool = False
    """Whether tensors may travel behind the JSON, by the binary tensor data extension."""
    raw: bool = False
    """Whether a body may also be any bytes, by themselves or as a field of a form, and an answer too."""
    methods: tuple[str, ...] = ("POST",)


def paths(routes: Iterable[RawRoute], contracts: Iterable[ModelContract]) -> dict[str, Any]:
    """The `paths` of the routes, with an example body for each model small enough to show."""
    known = list(contracts)
    return {
        route.path: {method.lower(): _operation(route, method.lower(), known) for method in route.methods}
        for route in routes
    }


def show_models(operation: dict[str, Any], contracts: Iterable[ModelContract]) -> None:
    """Adds the models that there are, and their versions, to an operation's path parameters, as examples."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in ("model", "version"):
            own = {"model": "name", "version": "version"}[parameter["name"]]
            parameter["examples"] = {item.name: {"value": str(getattr(item, own))} for item in contracts}


def ref(name: str) -> Schema:
    """A reference to a schema among the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_answer(schema: str, description: str, media_type: str = JSON) -> dict[str, Any]:
    """A response whose body is the component `schema`."""
    return {"description": description, "content": {media_type: {"schema": ref(schema)}}}


def head_too_large() -> dict[str, Any]:
    """The answer to a head that is too large, at every path: it comes before any of them is looked at."""
    return json_answer("OipError", "The head of the request is larger than 64 KiB, or has more than 200 headers.")


def _operation(route: RawRoute, method: str, contracts: list[ModelContract]) -> dict[str, Any]:
    examples = {contract.name: route.example(contract) for contract in contracts}
    shown = {name: {"value": value} for name, value in examples.items() if value is not None}
    content: dict[str, Any] = {"schema": ref(route.request)}
    if shown:
        content["examples"] = shown
    octets = _OCTETS if route.binary or route.raw else {}
    taken = {JSON: content} | octets | (_FORM if route.raw else {})
    answer = json_answer(route.response, "The answer.")
    answer["content"] |= octets
    optional = _LENGTH if route.binary else {}
    in_path = [name for name in _PATH_PARAMETERS if f"{{{name}}}" in route.path]
    return {
        "tags": [route.tag],
        "operationId": method + "".join(map(str.capitalize, _WORD.findall(route.path))),
        "summary": route.summary,
        "description": route.description,
        "parameters": [
            *(_parameter(name, "path", _PATH_PARAMETERS[name]) for name in in_path),
            *(
                _parameter(name, "header", text, _HEADER_SCHEMAS.get(name, {}))
                for name, text in (_HEADERS | optional).items()
            ),
        ],
        "requestBody": {"required": True, "content": taken},
        "responses": {
            "200": {
                **answer,
                "headers": _headers(_ANSWER_HEADERS | _SERVED_BY | optional),
            },
            **_failures(route),
        },
    }


def _failures(route: RawRoute) -> dict[str, Any]:
    causes: dict[int, list[str]] = {}
    for cause in Cause:
        if cause not in _NEVER:
            causes.setdefault(route.errors.status(cause), []).append(cause.value)
    return {
        str(status): {
            **json_answer(route.error, "Cause: " + ", ".join(values) + ".", route.errors.media_type),
            "headers": _headers(_ANSWER_HEADERS),
        }
        for status, values in sorted(causes.items())
    }


def _headers(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()}


def _parameter(name: str, where: str, text: str, schema: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": text,
        "schema": {"type": "string", **schema},
    }
