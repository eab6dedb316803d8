"""The client's side of the Open Inference Protocol v2 over REST (specification/protocol/inference_rest.md).

Tensors travel as JSON, `data` flat; or, where the server offers the binary tensor data extension, behind the JSON as
raw buffers in its order. Either may come back, mixed even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.codecs.json_array import JsonArray
from gateway.codecs.json_document import JsonObject, JsonValue, parse_object, plain
from gateway.codecs.json_tensors import SHORT_FLOATS, elements, to_json_array
from gateway.codecs.oip_server import SERVER, ServedModel, ServerMetadata, listed, served_model, version_of
from gateway.codecs.replies import bad_reply, reading_reply
from gateway.core.errors import Cause, GatewayError, capped
from gateway.core.messages import InferenceRequest, InferenceResponse, Parameter, TensorSpec
from gateway.core.tensor import Tensor, element_count, from_raw, to_raw

# Request parameters that choose the form of the answer, which is for this codec to choose.
_FORM_PARAMETERS = frozenset({"binary_data_output", "binary_data", "binary_data_size"})
_MAX_FAULTS = 4


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body; `json_length` is the length of its JSON where raw buffers follow, else None."""

    data: bytes
    json_length: int | None = None


def encode_request(request: InferenceRequest, *, binary: bool) -> Body:
    """The body of an infer request; model and version are in its path.

    Raises UNSUPPORTED_DATATYPE where JSON cannot carry an input: 16-bit floats, NaN, infinity, BYTES beyond UTF-8.
    """
    document: dict[str, Any] = {"id": request.id} if request.id else {}
    parameters = {name: value for name, value in request.parameters.items() if name not in _FORM_PARAMETERS}
    if binary:
        parameters["binary_data_output"] = True
    if parameters:
        document["parameters"] = parameters
    buffers = [to_raw(tensor) for tensor in request.inputs] if binary else []
    described = [_described(tensor) for tensor in request.inputs]
    for index, (tensor, entry) in enumerate(zip(request.inputs, described, strict=True)):
        if binary:
            entry["parameters"] = {"binary_data_size": len(buffers[index])}
        else:
            entry["data"] = _data(tensor)
    document["inputs"] = described
    if request.wanted:
        wish = {"parameters": {"binary_data": True}} if binary else {}
        document["outputs"] = [{"name": name, **wish} for name in request.wanted]
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Body(b"".join([text, *buffers]), len(text)) if binary else Body(text)


def decode_response(body: bytes, json_length: str | None) -> InferenceResponse:
    """The response that a body is, by its `Inference-Header-Content-Length`, None where it has no such header.

    `version` is None where it states none that is a whole number. Raises UPSTREAM_BAD_REPLY.
    """
    end = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit()) or int(json_length[:19]) > end:
            raise bad_reply(SERVER, "its Inference-Header-Content-Length is no length within the body")
        end = int(json_length)
    with reading_reply(SERVER):
        document = parse_object(body[:end], nan_tokens=True)
        buffers = memoryview(body)[end:]
        outputs, offset = [], 0
        for name, datatype, shape, item in map(_output, _objects(document.get("outputs"))):
            size = _binary_size(item, name)
            if size is None:
                outputs.append(_from_json(name, datatype, shape, item.get("data")))
                continue
            if "data" in item or offset + size > len(buffers):
                raise bad_reply(SERVER, f"output '{name}' has data beside its binary data, or less of it than it says")
            outputs.append(from_raw(name, datatype, shape, buffers[offset : offset + size]))
            offset += size
    if offset != len(buffers):
        raise bad_reply(SERVER, f"{len(buffers) - offset} bytes are left over after the last output")
    if not outputs or len({tensor.name for tensor in outputs}) < len(outputs):
        raise bad_reply(SERVER, "it has no outputs, or one of them twice")
    model, version = document.get("model_name"), document.get("model_version")
    if not isinstance(model, str):
        raise bad_reply(SERVER, "it names no model")
    return InferenceResponse(
        model=model,
        version=version_of(version) if isinstance(version, str) else None,
        outputs=tuple(outputs),
        parameters=_parameters(document),
    )


def decode_server_metadata(body: bytes) -> ServerMetadata:
    """The answer to `GET /v2`; raises UPSTREAM_BAD_REPLY."""
    with reading_reply(SERVER):
        document = plain(parse_object(body))
    name, version = document.get("name"), document.get("version")
    extensions = document.get("extensions") or []
    if not isinstance(name, str) or not isinstance(version, str | None) or not isinstance(extensions, list):
        raise bad_reply(SERVER, "it is not server metadata")
    return ServerMetadata(name, version or "", frozenset(item for item in extensions if isinstance(item, str)))


def decode_model_metadata(body: bytes) -> ServedModel:
    """The answer to `GET /v2/models/{model}`; raises UPSTREAM_BAD_REPLY."""
    with reading_reply(SERVER):
        document = plain(parse_object(body))
    try:
        return served_model(
            str(document["name"]),
            [str(version) for version in document.get("versions") or ()],
            str(document.get("platform") or ""),
            _specs(document.get("inputs")),
            _specs(document.get("outputs")),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise bad_reply(SERVER, "it is not model metadata") from exc


def decode_index(body: bytes) -> tuple[str, ...]:
    """The models in the answer to `POST /v2/repository/index`; raises UPSTREAM_BAD_REPLY."""
    document = _loaded(body)
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise bad_reply(SERVER, "it is no repository index")
    return listed((str(item.get("name") or ""), str(item.get("state") or "")) for item in document)


def decode_model_list(body: bytes) -> tuple[str, ...]:
    """The models in the answer to KServe's `GET /v2/models`; raises UPSTREAM_BAD_REPLY."""
    document = _loaded(body)
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise bad_reply(SERVER, "it is no list of models")
    return tuple(dict.fromkeys(models))


def _loaded(body: bytes) -> Any:  # noqa: ANN401
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def says_not_ready(body: bytes) -> bool:
    """Whether an answer of success to a readiness question says otherwise; the protocol defines no body."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and document.get("ready") is False


def error_text(body: bytes) -> str:
    """The text of an error answer, capped: `error`, or what FastAPI's validation says, without the value it repeats."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return capped(body.decode(errors="replace").strip())
    if not isinstance(document, dict):
        return ""
    for key in ("error", "detail", "message"):
        found = document.get(key)
        if isinstance(found, str):
            return capped(found.strip())
        if isinstance(found, list):
            return capped("; ".join(_fault(item) for item in found[:_MAX_FAULTS] if isinstance(item, dict)))
    return ""


def _fault(item: JsonObject) -> str:
    place = item.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return f"{where}: {item.get('msg', 'not accepted')}"


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}


def _data(tensor: Tensor) -> object:
    if tensor.datatype in SHORT_FLOATS:
        raise _needs_binary(tensor.name, f"is {tensor.datatype}")
    try:
        return to_json_array(tensor, flat=True)
    except GatewayError as exc:
        what = "holds bytes that are not UTF-8" if tensor.datatype == "BYTES" else "holds NaN or infinity"
        raise _needs_binary(tensor.name, what) from exc


def _needs_binary(name: str, what: str) -> GatewayError:
    return GatewayError(
        Cause.UNSUPPORTED_DATATYPE,
        f"input '{name}' {what}, which JSON cannot carry, and {SERVER} offers no binary data over REST; "
        "an endpoint with transport grpc takes it",
    )


def _objects(value: JsonValue) -> list[JsonObject]:
    items = value.as_list() if isinstance(value, JsonArray) else value
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise bad_reply(SERVER, "its 'outputs' are no list of tensors")
    return items


def _output(item: JsonObject) -> tuple[str, str, tuple[int, ...], JsonObject]:
    name, datatype, shape = item.get("name"), item.get("datatype"), plain(item.get("shape"))
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise bad_reply(SERVER, "an output lacks its name, datatype or shape")
    if any(type(dim) is not int for dim in shape):
        raise bad_reply(SERVER, f"the shape of output '{name}' is no list of integers")
    return name, datatype, tuple(shape), item


def _binary_size(item: JsonObject, name: str) -> int | None:
    parameters = item.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise bad_reply(SERVER, f"output '{name}' has a binary_data_size that is no size")
    return size


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: JsonValue) -> Tensor:
    if datatype in SHORT_FLOATS or not isinstance(data, JsonArray | list):
        raise bad_reply(SERVER, f"output '{name}' has no list of data, or is {datatype[:32]}, which JSON cannot carry")
    count = element_count(shape, name)
    flat, nested = elements(data, name, datatype, finite=False)
    if flat.size != count or (len(nested) != 1 and nested != shape and count):
        raise bad_reply(SERVER, f"the data of output '{name}' does not have its shape {list(shape)}")
    return Tensor(name, datatype, flat.reshape(shape))


def _parameters(document: JsonObject) -> dict[str, Parameter]:
    found = document.get("parameters")
    if not isinstance(found, dict):
        return {}
    # MLServer puts objects here, which the protocol does not allow.
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}


def _specs(value: object) -> tuple[TensorSpec, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return tuple(
        TensorSpec(str(item["name"]), str(item["datatype"]), tuple(max(int(dim), -1) for dim in item["shape"]))
        for item in value
    )
